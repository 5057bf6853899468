"""The decoders that can be exported, by `model_type`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harrier_edge.errors import UnsupportedModelError
from harrier_export.architectures import gemma3, qwen3
from harrier_export.architectures.decoder import Decoder, DecoderBuilder


@dataclass(frozen=True)
class Architecture:
    """How one kind of decoder is read from its config and written as a graph."""

    read: Callable[[dict[str, Any]], Decoder]
    build: Callable[[DecoderBuilder], None]
    norm_offset: float  # added to every norm's weight

    @staticmethod
    def is_ignored(tensor: str) -> bool:
        """Whether a tensor cannot change an embedding: the language model's head, old tables."""
        return tensor.endswith(("lm_head.weight", "rotary_emb.inv_freq"))


ARCHITECTURES = {
    "gemma3_text": Architecture(gemma3.read, gemma3.build, norm_offset=1.0),
    "qwen3": Architecture(qwen3.read, qwen3.build, norm_offset=0.0),
}


def architecture_of(config: dict[str, Any]) -> Architecture:
    """The architecture that a config.json asks for. Raises UnsupportedModelError."""
    model_type = config.get("model_type")
    if model_type not in ARCHITECTURES:
        raise UnsupportedModelError(
            f"config.json: model_type is {model_type!r}; the exporter writes "
            f"{' and '.join(ARCHITECTURES)}."
        )
    return ARCHITECTURES[model_type]
