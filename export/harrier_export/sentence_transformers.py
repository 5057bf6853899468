"""What a checkpoint's sentence-transformers files say of pooling, prompts and length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harrier_edge.errors import UnsupportedModelError
from harrier_export.checkpoint import ModelFolder

MODULES = "modules.json"
_WRITTEN = ("Transformer", "Pooling", "Normalize")
# What a query gets by itself: Harrier's own default first, then the name that others use.
_QUERY_PROMPTS = ("web_search_query", "query")
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")


@dataclass(frozen=True)
class SentenceConfig:
    """Prompts by name, the default one if told, and the limit in tokens if told."""

    prompts: dict[str, str]
    default_prompt: str | None
    max_tokens: int | None


def read_sentence_config(checkpoint: ModelFolder) -> SentenceConfig:
    """Read what there is. Raises UnsupportedModelError where it is not last-token pooling."""
    _check_modules(checkpoint)
    prompts: dict[str, str] = {}
    default = None
    if _has(checkpoint, "config_sentence_transformers.json"):
        config = checkpoint.json("config_sentence_transformers.json")
        prompts = dict(config.get("prompts") or {})
        default = config.get("default_prompt_name")
    max_tokens = None
    if _has(checkpoint, "sentence_bert_config.json"):
        max_tokens = checkpoint.json("sentence_bert_config.json").get("max_seq_length")
    return SentenceConfig(prompts, default, max_tokens)


def query_prompt(prompts: Mapping[str, str], default: str | None) -> str:
    """The name of the prompt that a query gets by itself; empty for none."""
    return default or next((name for name in _QUERY_PROMPTS if name in prompts), "")


def document_prompt(prompts: Mapping[str, str]) -> str:
    """The name of the prompt that a document gets by itself; empty for none, as for Harrier."""
    return next((name for name in _DOCUMENT_PROMPTS if prompts.get(name)), "")


def _check_modules(checkpoint: ModelFolder) -> None:
    if not _has(checkpoint, MODULES):
        return
    for module in checkpoint.json_list(MODULES):
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind not in _WRITTEN:
            raise UnsupportedModelError(
                f"{checkpoint.folder / MODULES}: has a {kind} module; the exporter writes "
                f"{', '.join(_WRITTEN)}."
            )
        if kind == "Pooling":
            name = f"{module['path']}/config.json"
            pooling = checkpoint.json(name)
            modes = [k for k, v in pooling.items() if k.startswith("pooling_mode_") and v is True]
            if modes != ["pooling_mode_lasttoken"]:
                raise UnsupportedModelError(
                    f"{checkpoint.folder / name}: pools by {modes}; the exporter writes "
                    "pooling_mode_lasttoken for this architecture."
                )


def _has(checkpoint: ModelFolder, name: str) -> bool:
    return (checkpoint.folder / name).exists()
