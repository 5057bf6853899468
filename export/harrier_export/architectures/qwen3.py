"""Qwen3: one norm before every block, full attention, SwiGLU.

Qwen Team 2025, https://arxiv.org/abs/2505.09388.
"""

from __future__ import annotations

from typing import Any, Literal

from harrier_edge.errors import UnsupportedModelError
from harrier_export.architectures.config import DecoderConfig, read_config
from harrier_export.architectures.decoder import Attention, Decoder, DecoderBuilder
from harrier_export.architectures.rope import read_ropes
from harrier_export.graph import MICROSOFT
from harrier_export.precision import Rows


class Qwen3Config(DecoderConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """config.json of `qwen3`."""

    model_type: Literal["qwen3"]
    hidden_act: Literal["silu"] = "silu"
    use_sliding_window: bool = False
    max_window_layers: Any = None  # matters only with use_sliding_window

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(use_sliding_window=False)


def read(config: dict[str, Any]) -> Decoder:
    """The decoder that config.json describes. Raises UnsupportedModelError."""
    c = read_config(config, Qwen3Config)
    layer_types = c.layer_types or ["full_attention"] * c.num_hidden_layers
    if set(layer_types) != {"full_attention"}:
        raise UnsupportedModelError(
            f"config.json: layer_types has {sorted(set(layer_types))}; for qwen3 the exporter "
            "writes only full_attention."
        )
    if c.pad_token_id is None:
        raise UnsupportedModelError(
            "config.json: pad_token_id is missing, and tokenizer.json appends no single token to a "
            "text; wanted the token that ends every input of a qwen3 embedder. Write it into "
            "config.json as pad_token_id."
        )
    rope = read_ropes(c, layer_types)["full_attention"]
    return Decoder(
        hidden_size=c.hidden_size,
        intermediate_size=c.intermediate_size,
        heads=c.num_attention_heads,
        kv_heads=c.num_key_value_heads,
        head_dim=c.head_dim,
        vocab_size=c.vocab_size,
        max_positions=c.max_position_embeddings,
        norm_eps=c.rms_norm_eps,
        attention_scale=c.head_dim**-0.5,
        layers=(Attention(rope),) * c.num_hidden_layers,
        final_token=c.pad_token_id,  # <|endoftext|>, not the config's eos <|im_end|>
        pad_token=c.pad_token_id,
    )


def layer(b: DecoderBuilder, h: Rows, i: int) -> Rows:
    """Write layer `i`: attention, then the feed-forward net, each behind a norm."""
    name = b.layer(i)
    x = b.norm(h, f"{name}.input_layernorm")
    x = b.attention(x, f"{name}.self_attn", b.decoder.layers[i])
    h = b.add(b.needed(h), x)
    x = b.norm(h, f"{name}.post_attention_layernorm")
    # QuickGelu is x * sigmoid(alpha x), which with alpha 1 is SiLU.
    return b.add(h, b.feed_forward(x, f"{name}.mlp", "QuickGelu", MICROSOFT, alpha=1.0))
