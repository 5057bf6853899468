"""What is stored and found, row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harrier_edge.vectors import Vectors


@dataclass(frozen=True)
class StoredDocument:
    """What is stored of a document: `chunks` is how many, `complete` whether that is all.

    `stamp` tells size and time of the file that was read, `chunker` what cut it.
    """

    id: int
    sha256: str
    complete: bool
    chunks: int
    stamp: str
    chunker: str


@dataclass(frozen=True)
class ChunkRow:
    """A passage as it is stored; `number` counts from 0 in its document, lines from 1.

    `start` and `end` are its characters in the document's text, `heading` the path of the headings
    above it, and `digest` a hash of what was embedded, by which its vector is found again.
    """

    number: int
    line: int
    end_line: int
    text: str
    heading: str = ""
    start: int = 0
    end: int = 0
    digest: bytes = b""


@dataclass(frozen=True)
class Part:
    """Chunks in a row of one document, with their vectors (len(chunks), dimension) float32.

    `modified` is in seconds since 1970, `size` in bytes; `metadata` is what JSON can hold.
    """

    path: str
    title: str
    sha256: str
    chunks: Sequence[ChunkRow]
    vectors: Vectors
    last: bool  # whether the document ends with these
    collection: str = ""
    media_type: str = "text/plain"
    modified: float = 0.0
    size: int = 0
    metadata: Mapping[str, Any] = field(default_factory=dict)
    stamp: str = ""
    chunker: str = ""


@dataclass(frozen=True)
class Passage:
    """A stored chunk and the document it is of."""

    id: int
    path: str
    title: str
    line: int
    end_line: int
    text: str
    metadata: dict[str, Any]
    heading: str


@dataclass(frozen=True)
class Counts:
    """How much an index holds; `incomplete` documents are not whole yet."""

    documents: int
    incomplete: int
    chunks: int


@dataclass(frozen=True)
class Found:
    """A chunk that was found, its document, and its score."""

    chunk: int
    document: int
    score: float
