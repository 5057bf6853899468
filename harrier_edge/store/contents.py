"""All that an index holds, document by document, as it was written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np

from harrier_edge.store.database import Database
from harrier_edge.store.rows import ChunkRow, Part
from harrier_edge.vectors import from_blobs

PART_CHUNKS = 1024  # of a document that are held in memory at once


def read_parts(database: Database) -> Iterator[Part]:
    """Every document, in parts of some chunks, in the order in which they came.

    To be used where `database.snapshot()` holds; `last` is whether the document is whole. What
    `Database.write` makes of them is equal, bit by bit, but for the ids.
    """
    rows = database.execute(
        """
        SELECT documents.id, path, title, sha256, complete, collection, media_type, modified, size,
            metadata, stamp, chunker,
            number, line, end_line, text, heading, start, "end", digest, vector
        FROM documents
        LEFT JOIN chunks ON document = documents.id LEFT JOIN vectors ON chunk = chunks.id
        ORDER BY documents.id, number
        """
    )
    for _, document in groupby(rows, itemgetter(0)):
        some: list[Sequence[Any]] = []
        for row in document:
            if len(some) == PART_CHUNKS:
                yield _part(database, some)
                some = []
            some.append(row)
        yield _part(database, some)


def _part(database: Database, rows: Sequence[Sequence[Any]]) -> Part:
    (_, path, title, sha256, complete, collection, media_type, modified, size, *rest) = rows[0]
    metadata, stamp, chunker, *_ = rest
    model = database.model
    chunks = [ChunkRow(*row[12:20]) for row in rows if row[12] is not None]
    blobs = [row[20] for row in rows if row[12] is not None]
    return Part(
        path=path,
        title=title,
        sha256=sha256,
        chunks=chunks,
        vectors=from_blobs(blobs, model.store, model.dimension)
        if blobs
        else np.zeros((0, model.dimension), np.float32),
        last=bool(complete),
        collection=collection,
        media_type=media_type,
        modified=modified,
        size=size,
        metadata=json.loads(metadata),
        stamp=stamp,
        chunker=chunker,
    )
