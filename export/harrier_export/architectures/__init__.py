"""The decoders that can be exported, by `model_type`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from harrier_edge.errors import UnsupportedModelError
from harrier_export.architectures import gemma3, qwen3
from harrier_export.architectures.decoder import Decoder, DecoderBuilder
from harrier_export.checkpoint import Checkpoint
from harrier_export.precision import Rows


@dataclass(frozen=True)
class Architecture:
    """How one kind of decoder is read from its config and written as a graph."""

    read: Callable[[dict[str, Any]], Decoder]
    layer: Callable[[DecoderBuilder, Rows, int], Rows]  # writes one layer
    embedding_scale: Callable[[Decoder], float]
    norm_offset: float  # added to every norm's weight
    norms_before: tuple[str, str]  # attention, and the feed-forward net

    def decoder(self, checkpoint: Checkpoint) -> Decoder:
        """The decoder that a checkpoint holds. Raises UnsupportedModelError.

        That it is a BitNet, whose linear layers have norms of their own, only its tensors tell.
        """
        normed = checkpoint.has("layers.0.self_attn.q_proj.norm.weight")
        return replace(self.read(checkpoint.config), normed_inputs=normed)

    def build(self, b: DecoderBuilder) -> None:
        """Write the graph from token ids to sentence embedding."""
        h = b.embed(self.embedding_scale(b.decoder))
        for i in range(len(b.decoder.layers)):
            b.only_ends = i == len(b.decoder.layers) - 1
            h = self.layer(b, h, i)
        b.pool(h)

    @staticmethod
    def is_ignored(tensor: str) -> bool:
        """Whether a tensor cannot change an embedding: the language model's head, old tables."""
        return tensor.endswith(("lm_head.weight", "rotary_emb.inv_freq"))


ARCHITECTURES = {
    "gemma3_text": Architecture(
        gemma3.read,
        gemma3.layer,
        embedding_scale=lambda d: math.sqrt(d.hidden_size),
        norm_offset=1.0,
        norms_before=("input_layernorm", "pre_feedforward_layernorm"),
    ),
    "qwen3": Architecture(
        qwen3.read,
        qwen3.layer,
        embedding_scale=lambda d: 1.0,
        norm_offset=0.0,
        norms_before=("input_layernorm", "post_attention_layernorm"),
    ),
}


def architecture_of(config: dict[str, Any]) -> Architecture:
    """The architecture that a config.json asks for. Raises UnsupportedModelError."""
    model_type = config.get("model_type")
    if model_type not in ARCHITECTURES:
        raise UnsupportedModelError(
            f"config.json: model_type is {model_type!r}; the exporter writes "
            f"{' and '.join(ARCHITECTURES)}. Any sentence-transformers model can be exported with "
            "--via optimum."
        )
    return ARCHITECTURES[model_type]
