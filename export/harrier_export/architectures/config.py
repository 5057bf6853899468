"""Reading config.json so that nothing in it is ignored by accident."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from harrier_edge.errors import UnsupportedModelError
from harrier_edge.package import TOKENIZER
from harrier_export.checkpoint import ModelFolder
from harrier_export.tokenizer import appended_token


class DecoderConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the supported decoders have in common.

    A field that changes the mathematics in a way that the exporter does not write is typed so
    that only its neutral value passes; a field that cannot change an embedding is `Any`.
    """

    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float = 1e-6
    rope_theta: float | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None  # transformers 5 writes all of RoPE here
    layer_types: list[str] | None = None
    sliding_window: int | None = None
    bos_token_id: int | list[int] | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    attention_bias: bool = False  # only False is written
    is_decoder: bool = True  # only True is written

    architectures: Any = None
    attention_dropout: Any = None
    dtype: Any = None
    id2label: Any = None
    initializer_range: Any = None
    label2id: Any = None
    tie_word_embeddings: Any = None
    torch_dtype: Any = None
    transformers_version: Any = None
    use_cache: Any = None
    _name_or_path: Any = None

    def __post_init__(self) -> None:
        self.require(attention_bias=False, is_decoder=True)
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is no multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        if self.layer_types and len(self.layer_types) != self.num_hidden_layers:
            raise ValueError(
                f"layer_types has {len(self.layer_types)} entries for "
                f"{self.num_hidden_layers} layers"
            )

    def require(self, **values: object) -> None:
        """Raise ValueError where a field has another value than the one that is written."""
        for name, wanted in values.items():
            if (seen := getattr(self, name)) != wanted:
                raise ValueError(f"{name} is {seen!r}; the exporter writes only {wanted!r}")


C = TypeVar("C", bound=DecoderConfig)


def complete_config(model: ModelFolder) -> dict[str, Any]:
    """config.json, with the token that ends a qwen3's inputs where only its tokenizer tells it.

    Qwen3-Embedding's config has no pad_token_id, which is that token. Nor would eos_token_id do:
    Harrier's is another.
    """
    config = model.config
    if config.get("model_type") == "qwen3" and config.get("pad_token_id") is None:
        return {**config, "pad_token_id": appended_token(model.folder / TOKENIZER)}
    return config


def read_config(config: dict[str, Any], kind: type[C]) -> C:
    """Read config.json as `kind`.

    Raises UnsupportedModelError, naming the field, where one is unknown, lacking, of another type
    or of a value that the exporter does not write.
    """
    try:
        return msgspec.convert(config, kind)
    except msgspec.ValidationError as error:
        raise UnsupportedModelError(
            f"config.json: {error}. The exporter never ignores a field: this one needs support."
        ) from error
