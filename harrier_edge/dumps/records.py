"""What a dump holds: a header, and a record for each chunk with the document that it is of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harrier_edge.errors import StoreError
from harrier_edge.store.connection import StoredModel
from harrier_edge.store.rows import ChunkRow, Part
from harrier_edge.store.sources import Source
from harrier_edge.vectors import STORES, from_blobs, to_blobs

FORMAT = 1  # of the dumps that this release writes
UNIT = 0.01  # by how much a vector's length may differ from 1: float16 and int8 are not exact

Stored = npt.NDArray[Any]  # (n, dimension) of the kind that `store` names


@dataclass(frozen=True)
class Header:
    """What stands before the records: the model of the vectors, the sources, and the counts."""

    harrier_edge_dump: int  # the format
    model: StoredModel
    sources: tuple[Source, ...]
    documents: int
    chunks: int

    def require_known(self, file: Path) -> Header:
        """Itself, where this release reads its format; else raise StoreError."""
        if self.harrier_edge_dump != FORMAT:
            raise StoreError(
                f"{file}: is a dump of format {self.harrier_edge_dump}, this harrier-edge reads "
                f"{FORMAT}. Install a newer release."
            )
        return self


@dataclass(frozen=True)
class Record:
    """A chunk of a document, or with `number` None a document that has none.

    `digest` is in hexadecimal. The vector stands beside it, as numbers in the form that the
    header's model.store names: for int8 whole numbers, the vector by 127 / its largest magnitude.
    """

    path: str
    title: str
    sha256: str
    complete: bool
    collection: str
    media_type: str
    modified: float  # seconds since 1970
    size: int
    metadata: dict[str, Any]
    stamp: str
    chunker: str
    number: int | None = None
    line: int | None = None
    end_line: int | None = None
    start: int | None = None
    end: int | None = None
    heading: str | None = None
    text: str | None = None
    digest: str | None = None


def to_records(part: Part, store: str) -> tuple[list[Record], Stored]:
    """A part as records, and the vectors (n, dimension) of those that are chunks."""
    document = Record(
        path=part.path,
        title=part.title,
        sha256=part.sha256,
        complete=part.last,
        collection=part.collection,
        media_type=part.media_type,
        modified=part.modified,
        size=part.size,
        metadata=dict(part.metadata),
        stamp=part.stamp,
        chunker=part.chunker,
    )
    dimension = part.vectors.shape[1]
    stored = np.frombuffer(b"".join(to_blobs(part.vectors, store)), STORES[store])
    stored = stored.reshape(-1, dimension)
    if not part.chunks:
        return [document], stored
    shared = asdict(document)
    records = [
        Record(**{**shared, **asdict(chunk), "digest": chunk.digest.hex()}) for chunk in part.chunks
    ]
    return records, stored


def to_parts(records: Sequence[Record], stored: Stored, model: StoredModel) -> Iterator[Part]:
    """The parts that records are of, in their order; raises StoreError where one makes no sense.

    `stored` (n, dimension) are the vectors of those that are chunks, in order and as stored.
    """
    lengths = np.linalg.norm(stored.astype(np.float32), axis=1)
    wrong = np.flatnonzero(~(np.abs(lengths - 1) <= UNIT))
    if model.store != "int8" and len(wrong):
        raise StoreError(f"a vector has length {lengths[wrong[0]]:.4f}; wanted 1.")
    vectors = from_blobs([row.tobytes() for row in stored], model.store, model.dimension)
    first = 0
    for _, group in groupby(records, lambda record: record.path):
        some = list(group)
        chunks = [chunk for record in some if (chunk := _chunk(record)) is not None]
        last = some[-1]
        yield Part(
            path=last.path,
            title=last.title,
            sha256=last.sha256,
            chunks=chunks,
            vectors=vectors[first : first + len(chunks)],
            last=last.complete,
            collection=last.collection,
            media_type=last.media_type,
            modified=last.modified,
            size=last.size,
            metadata=last.metadata,
            stamp=last.stamp,
            chunker=last.chunker,
        )
        first += len(chunks)


def _chunk(record: Record) -> ChunkRow | None:
    if record.number is None:
        return None
    values = {name: getattr(record, name) for name in ChunkRow.__dataclass_fields__}
    for name, value in values.items():
        if value is None:
            raise StoreError(f"chunk {record.number} of {record.path} has no {name}.")
    try:
        digest = bytes.fromhex(values["digest"])
    except ValueError as error:
        raise StoreError(f"chunk {record.number} of {record.path}: digest: {error}.") from error
    return ChunkRow(**{**values, "digest": digest})
