"""What a contender is, and the few things that all of them do alike."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Ids = Sequence[Sequence[int]]
Vectors = npt.NDArray[np.float32]
# Texts as token ids, and how many of them a contender that batches by count should take at once:
# (len(texts), dimension) float32 of unit length, in order.
Embed = Callable[[Ids, int], Vectors]


@dataclass(frozen=True)
class Contender:
    """One way to embed a checkpoint's texts.

    `files` makes what is run from, if it is not there yet, and returns its file or folder; `load`
    gets that and the checkpoint. Only `load` is timed, and in a new process.
    """

    files: Callable[[Path], Path]
    load: Callable[[Path, Path], Embed]


# What queries begin with: the models' own `web_search_query`.
PROMPT = (
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: "
)
# By architecture, as Harrier's tokenizers put them: Gemma's <bos> and <eos>, Qwen's <|endoftext|>.
_SPECIAL: dict[str, tuple[tuple[int, ...], int]] = {
    "gemma3_text": ((2,), 1),
    "qwen3": ((), 151643),
}


@dataclass(frozen=True)
class Shape:
    """What a contender must know of a checkpoint besides its weights."""

    dimension: int
    pad_token: int
    begin: tuple[int, ...]  # the tokens that every text begins with
    end: int  # the one that every text ends with


def shape_of(checkpoint: Path) -> Shape:
    """Read a checkpoint's config.json."""
    config = json.loads((checkpoint / "config.json").read_text("utf-8"))
    begin, end = _SPECIAL[config["model_type"]]
    return Shape(config["hidden_size"], config["pad_token_id"], begin, end)


def in_batches(run: Callable[[Ids], Vectors]) -> Embed:
    """Embed with a function that takes one batch, `batch` texts after the other."""

    def embed(texts: Ids, batch: int) -> Vectors:
        return np.concatenate([run(texts[i : i + batch]) for i in range(0, len(texts), batch)])

    return embed


def padded(batch: Ids, pad_token: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Token ids and attention mask, padded on the right."""
    width = max(map(len, batch))
    ids = np.full((len(batch), width), pad_token, np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(batch):
        ids[row, : len(text)] = text
        mask[row, : len(text)] = 1
    return ids, mask


def unit(rows: npt.ArrayLike) -> Vectors:
    """Rows scaled to unit length."""
    vectors = np.asarray(rows, np.float32)
    scaled: Vectors = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return scaled


def cores() -> int:
    """The cores that this process may use: every contender gets them all."""
    return len(os.sched_getaffinity(0))
