"""Gemma 3, text only: norms on both sides of every block, sliding layers, GeGLU.

Gemma Team 2025, https://arxiv.org/abs/2503.19786.
"""

from __future__ import annotations

from typing import Any, Literal

from harrier_edge.errors import UnsupportedModelError
from harrier_export.architectures.config import DecoderConfig, read_config
from harrier_export.architectures.decoder import Attention, Decoder, DecoderBuilder
from harrier_export.architectures.rope import read_ropes
from harrier_export.precision import Rows


class Gemma3Config(DecoderConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """config.json of `gemma3_text`."""

    model_type: Literal["gemma3_text"]
    query_pre_attn_scalar: float
    rope_local_base_freq: float | None = None
    sliding_window_pattern: int | None = None
    _sliding_window_pattern: int | None = None
    hidden_activation: Literal["gelu_pytorch_tanh"] = "gelu_pytorch_tanh"
    attn_logit_softcapping: None = None
    final_logit_softcapping: None = None
    use_bidirectional_attention: bool | None = False
    cache_implementation: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.use_bidirectional_attention:
            self.require(use_bidirectional_attention=False)


def read(config: dict[str, Any]) -> Decoder:
    """The decoder that config.json describes. Raises UnsupportedModelError."""
    c = read_config(config, Gemma3Config)
    # A config without layer_types is from before transformers 4.53: every sixth layer is full.
    pattern = c.sliding_window_pattern or c._sliding_window_pattern or 6
    layer_types = c.layer_types or [
        "sliding_attention" if (i + 1) % pattern else "full_attention"
        for i in range(c.num_hidden_layers)
    ]
    eos = c.eos_token_id[0] if isinstance(c.eos_token_id, list) else c.eos_token_id
    if eos is None:
        raise UnsupportedModelError(
            "config.json: eos_token_id is missing; a gemma3_text embedder ends every input with it."
        )
    ropes = read_ropes(c, layer_types, sliding_theta=c.rope_local_base_freq)
    return Decoder(
        hidden_size=c.hidden_size,
        intermediate_size=c.intermediate_size,
        heads=c.num_attention_heads,
        kv_heads=c.num_key_value_heads,
        head_dim=c.head_dim,
        vocab_size=c.vocab_size,
        max_positions=c.max_position_embeddings,
        norm_eps=c.rms_norm_eps,
        attention_scale=c.query_pre_attn_scalar**-0.5,
        layers=tuple(
            Attention(ropes[kind], c.sliding_window if kind == "sliding_attention" else None)
            for kind in layer_types
        ),
        final_token=eos,
        pad_token=c.pad_token_id if c.pad_token_id is not None else 0,
        bos_token=c.bos_token_id if isinstance(c.bos_token_id, int) else 2,
    )


def layer(b: DecoderBuilder, h: Rows, i: int) -> Rows:
    """Write layer `i`: attention, then the feed-forward net, each between two norms."""
    name = b.layer(i)
    x = b.norm(h, f"{name}.input_layernorm")
    x = b.attention(x, f"{name}.self_attn", b.decoder.layers[i])
    h = b.add(b.needed(h), b.norm(x, f"{name}.post_attention_layernorm"))
    x = b.norm(h, f"{name}.pre_feedforward_layernorm")
    x = b.feed_forward(x, f"{name}.mlp", "Gelu", "", approximate="tanh")
    return b.add(h, b.norm(x, f"{name}.post_feedforward_layernorm"))
