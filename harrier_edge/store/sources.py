"""The files and folders that an index follows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from harrier_edge.store.database import BELOW, Database, below


@dataclass(frozen=True)
class Source:
    """A file or folder that is indexed, and what its last update left out.

    `skipped` counts by reason what was passed over; `failed` has reasons by path.
    """

    path: str
    collection: str
    chunk: str
    skipped: Mapping[str, int]
    failed: Mapping[str, str]


def sources_of(database: Database) -> list[Source]:
    """What is indexed, in the order of paths."""
    with database.reading():
        rows = database.execute(
            "SELECT path, collection, chunk, skipped, failed FROM sources ORDER BY path"
        ).fetchall()
    return [
        Source(path, collection, chunk, json.loads(skipped), json.loads(failed))
        for path, collection, chunk, skipped, failed in rows
    ]


def put_source(database: Database, source: Source, separator: str) -> None:
    """Store a source, which takes the place of the one at its path.

    Its documents are put into its collection, but for those of a source inside of it.
    """
    with database.writing():
        database.execute(
            "INSERT OR REPLACE INTO sources VALUES (?, ?, ?, ?, ?)",
            (source.path, source.collection, source.chunk, *_outcome(source)),
        )
        database.execute(
            f"""
            UPDATE documents SET collection = ? WHERE collection <> ? AND ({BELOW})
            AND NOT EXISTS (
                SELECT 1 FROM sources AS inner WHERE length(inner.path) > length(?) AND (
                    documents.path = inner.path
                    OR substr(documents.path, 1, length(inner.path) + 1) = inner.path || ?
                )
            )
            """,
            (
                source.collection,
                source.collection,
                *below(source.path, separator),
                source.path,
                separator,
            ),
        )


def keep_outcome(database: Database, source: Source) -> None:
    """Store what an update left out of a source, unless that has been removed meanwhile."""
    with database.writing():
        database.execute(
            "UPDATE sources SET skipped = ?, failed = ? WHERE path = ?",
            (*_outcome(source), source.path),
        )


def _outcome(source: Source) -> tuple[str, str]:
    """What was left out, as JSON: skipped and failed."""
    skipped, failed = (
        json.dumps(dict(table), ensure_ascii=False) for table in (source.skipped, source.failed)
    )
    return skipped, failed
