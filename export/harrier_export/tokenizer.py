"""The tokenizer's files, made to end every input with the model's final token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from harrier_edge.errors import CheckpointError
from harrier_edge.package import TOKENIZER
from harrier_edge.spec import Tokens

CONFIG = "tokenizer_config.json"
_TYPE = 0


def write_tokenizer(
    source: Path, target: Path, final_token: int, vocab_size: int | None = None
) -> bool:
    """Copy tokenizer.json from `source` to `target`; say whether it had to be repaired.

    Truncation and padding are taken out, since a tokenizer that cuts does so in silence. Where no
    final token is appended, the post-processor is extended by one. Merges are written in the
    shorter of their two forms, which takes a seventh off Gemma's file. Added tokens from
    `vocab_size` on, for which the model's table has no row, are taken out, so that their names are
    read as any other text: Gemma's tokenizer has one for images that its 270M cannot embed. Raises
    CheckpointError where the file is no tokenizer, ends inputs with another special token, or
    makes others that have no row.
    """
    data, tokenizer = _read(source, vocab_size)
    final = tokenizer.id_to_token(final_token)
    if final is None:
        raise CheckpointError(
            f"{source}: has no token {final_token}, with which config.json says inputs end."
        )
    largest = max(tokenizer.get_vocab().values())
    if vocab_size is not None and largest >= vocab_size:
        raise CheckpointError(
            f"{source}: makes tokens up to {largest}, but the model's table has {vocab_size} rows. "
            "Use the model's own tokenizer."
        )
    appended = _appended(tokenizer)
    if appended not in ([], [final_token]):
        raise CheckpointError(
            f"{source}: ends inputs with {[tokenizer.id_to_token(i) for i in appended]}, but this "
            f"architecture's embedding is taken at {final!r}. Use the model's own tokenizer."
        )
    if not appended:
        data["post_processor"] = _append(data.get("post_processor"), final, final_token)
    target.write_text(json.dumps(data, ensure_ascii=False, separators=(",", ":")), "utf-8")
    return not appended


def appended_token(source: Path) -> int | None:
    """The token that the tokenizer.json `source` ends every text with; None for none or several.

    Raises CheckpointError where the file is no tokenizer.
    """
    _, tokenizer = _read(source, None)
    appended = _appended(tokenizer)
    return appended[0] if len(appended) == 1 else None


def write_tokenizer_config(folder: Path, tokens: Tokens) -> None:
    """Write tokenizer_config.json, by which transformers reads the tokenizer.json in `folder`.

    The checkpoint's own is not copied: it asks for padding on the left, and for tokenizer classes
    that put another token at the end than tokenizer.json does.
    """
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    ids = {"pad_token": tokens.pad, "bos_token": tokens.bos, "eos_token": tokens.final}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": tokens.max_tokens,
        "padding_side": "right",
        "truncation_side": "right",
        "clean_up_tokenization_spaces": False,
        **{name: tokenizer.id_to_token(i) for name, i in ids.items() if i is not None},
    }
    (folder / CONFIG).write_text(json.dumps(config, ensure_ascii=False, indent=2), "utf-8")


def _read(source: Path, vocab_size: int | None) -> tuple[dict[str, Any], Tokenizer]:
    """A tokenizer.json as it will be written, but for the final token, and what it makes."""
    try:
        data = json.loads(source.read_bytes())
        data["truncation"] = data["padding"] = None
        _drop_added(data, vocab_size)
        _join_merges(data)
        return data, Tokenizer.from_str(json.dumps(data))
    except OSError as error:
        raise CheckpointError(f"{source}: {error.strerror}; wanted the fast tokenizer.") from error
    except Exception as error:  # the library raises plain Exception
        raise CheckpointError(f"{source}: is not a tokenizer ({error}).") from error


def _drop_added(data: dict[str, Any], vocab_size: int | None) -> None:
    """Take the added tokens from `vocab_size` on out of a tokenizer.json."""
    added = data.get("added_tokens") or []
    names = {token["content"] for token in added if vocab_size and token["id"] >= vocab_size}
    if not names:
        return
    data["added_tokens"] = [token for token in added if token["content"] not in names]
    vocabulary = data["model"].get("vocab")
    if isinstance(vocabulary, dict):
        data["model"]["vocab"] = {k: i for k, i in vocabulary.items() if k not in names}


def _join_merges(data: dict[str, Any]) -> None:
    """Write pairs of tokens as `"a b"`, not `["a", "b"]`, where that is read as the same."""
    pairs = data["model"].get("merges") or [""]
    if isinstance(pairs[0], str):
        return
    # A space parts the two, and what begins with "#version" is passed over.
    if not any(" " in a or " " in b or a.startswith("#version") for a, b in pairs):
        data["model"]["merges"] = [" ".join(pair) for pair in pairs]


def _appended(tokenizer: Tokenizer) -> list[int]:
    """What the tokenizer puts behind a text by itself."""
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    full: list[int] = tokenizer.encode("a").ids
    start = full.index(bare[0])
    return full[start + len(bare) :]


def _append(processor: dict[str, Any] | None, final: str, final_token: int) -> dict[str, Any]:
    """A post-processor that does what `processor` does and then appends `final`."""
    piece = {"SpecialToken": {"id": final, "type_id": _TYPE}}
    special = {"id": final, "ids": [final_token], "tokens": [final]}
    if processor is not None and processor["type"] == "TemplateProcessing":
        return {
            **processor,
            "single": [*processor["single"], piece],
            "special_tokens": {**processor["special_tokens"], final: special},
        }
    text = [{"Sequence": {"id": "A", "type_id": _TYPE}}]
    template = {
        "type": "TemplateProcessing",
        "single": [*text, piece],
        "pair": [*text, {"Sequence": {"id": "B", "type_id": _TYPE}}, piece],
        "special_tokens": {final: special},
    }
    if processor is None:
        return template
    return {"type": "Sequence", "processors": [processor, template]}
