"""What a checkpoint's sentence-transformers files say of pooling, prompts and length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harrier_edge.errors import UnsupportedModelError
from harrier_export.checkpoint import ModelFolder
from harrier_export.tokenizer import CONFIG as TOKENIZER_CONFIG

MODULES = "modules.json"
_WRITTEN = ("Transformer", "Pooling", "Normalize")
_POOLING = "lasttoken"
_LONGEST = 10**6  # transformers writes 1e30 where a tokenizer has no limit


@dataclass(frozen=True)
class SentenceConfig:
    """Prompts by name, the default one if told, and the limit in tokens if told."""

    prompts: dict[str, str]
    default_prompt: str | None
    max_tokens: int | None


def read_sentence_config(checkpoint: ModelFolder) -> SentenceConfig:
    """Read what there is. Raises UnsupportedModelError where it is not last-token pooling."""
    _check_modules(checkpoint)
    config = _read(checkpoint, "config_sentence_transformers.json")
    return SentenceConfig(
        dict(config.get("prompts") or {}),
        config.get("default_prompt_name"),
        _max_tokens(checkpoint),
    )


def query_prompt(prompts: Mapping[str, str], default: str | None) -> str:
    """The name of the prompt that a query gets by itself; empty for none.

    One that is called so goes before the default. Harrier has neither.
    """
    return _first(prompts, "query", default, "web_search_query")


def document_prompt(prompts: Mapping[str, str]) -> str:
    """The name of the prompt that a document gets by itself; empty for none, as for Harrier.

    As in sentence-transformers' encode_document, it is never the default.
    """
    return _first(prompts, "document", "passage", "corpus")


def _first(prompts: Mapping[str, str], *names: str | None) -> str:
    """The first of `names` that is a prompt's, and not an empty one's; empty for none."""
    return next((name for name in names if name and prompts.get(name)), "")


def _max_tokens(checkpoint: ModelFolder) -> int | None:
    """sentence-transformers' own limit, which its later releases leave out, or the tokenizer's."""
    limit = _read(checkpoint, "sentence_bert_config.json").get("max_seq_length")
    limit = limit or _read(checkpoint, TOKENIZER_CONFIG).get("model_max_length")
    return limit if isinstance(limit, int) and 0 < limit < _LONGEST else None


def _check_modules(checkpoint: ModelFolder) -> None:
    if not (checkpoint.folder / MODULES).exists():
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
            modes = _pooling_modes(checkpoint.json(name))
            if modes != [_POOLING]:
                raise UnsupportedModelError(
                    f"{checkpoint.folder / name}: pools by {modes}; the exporter writes "
                    f"{_POOLING} for this architecture. Export it with --via optimum."
                )


def _pooling_modes(pooling: dict[str, Any]) -> list[str]:
    """The modes of a Pooling module: one or a list of them, or, in older files, a flag for each."""
    modes = pooling.get("pooling_mode")
    if modes is None:
        flags = [name for name, value in pooling.items() if value is True]
        start = "pooling_mode_"
        return [name.removeprefix(start) for name in flags if name.startswith(start)]
    return [modes] if isinstance(modes, str) else list(modes)


def _read(checkpoint: ModelFolder, name: str) -> dict[str, Any]:
    """A JSON object of the folder; empty where there is no such file."""
    return checkpoint.json(name) if (checkpoint.folder / name).exists() else {}
