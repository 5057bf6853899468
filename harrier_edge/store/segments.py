"""The table of sign bits: written with the vectors, read into the scan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from harrier_edge.store.scan import SEGMENT, Scan
from harrier_edge.vectors import Vectors, rotate, sign_words

Ids = npt.NDArray[np.int64]


class SignBits:
    """Access to the table `sign_bits` (store/schema.py) through an open connection."""

    def __init__(self, connection: Any, dimension: int) -> None:
        """`connection` is apsw's; whoever calls the methods holds its lock."""
        self._connection = connection
        self._words = -(-dimension // 64)

    def write(self, chunks: Ids, documents: Ids, vectors: Vectors) -> None:
        """Store the bits of chunks in rising order, within the caller's transaction."""
        words = sign_words(rotate(vectors))
        for segment, some in _by_segment(chunks):
            slots = chunks[some] % SEGMENT
            self._make(segment)
            self._own(segment, slots, documents[some])
            with self._open(segment, "bits") as blob:
                for run in np.split(np.arange(len(slots)), np.flatnonzero(np.diff(slots) != 1) + 1):
                    for word, column in enumerate(words[some][run].T):
                        blob.seek((word * SEGMENT + int(slots[run[0]])) * 8)
                        blob.write(column.astype("<u8").tobytes())

    def erase(self, chunks: Ids) -> None:
        """Take chunks out, within the caller's transaction."""
        chunks = np.sort(chunks)
        for segment, some in _by_segment(chunks):
            self._make(segment)
            self._own(segment, chunks[some] % SEGMENT, np.zeros(np.count_nonzero(some), np.int64))

    def refresh(self, scan: Scan) -> None:
        """Bring `scan` up to what is committed: only the segments that have changed are read."""
        (last,) = self._connection.execute(
            "SELECT ifnull(max(change), 0) FROM sign_bits"
        ).fetchone()
        if last == scan.state:
            return
        rows = self._connection.execute(
            "SELECT segment, documents, bits FROM sign_bits WHERE change > ? ORDER BY segment",
            (scan.state,),
        )
        for segment, documents, bits in rows:
            scan.put(segment, documents, bits)
        scan.state = last

    def owners(self) -> dict[int, int]:
        """Every chunk that has bits, with its document."""
        found: dict[int, int] = {}
        for segment, documents in self._connection.execute(
            "SELECT segment, documents FROM sign_bits"
        ):
            owners = np.frombuffer(documents, "<u4")
            slots = np.flatnonzero(owners)
            ids = (segment * SEGMENT + slots).tolist()
            found |= zip(ids, owners[slots].tolist(), strict=True)
        return found

    def empty(self) -> None:
        """Give back the bytes of segments without a chunk, within the caller's transaction.

        Their rows stay and count as changed, so that other processes take it in.
        """
        rows = self._connection.execute(
            "SELECT segment, documents FROM sign_bits WHERE documents <> x''"
        ).fetchall()
        for segment, documents in rows:
            if not documents.strip(b"\0"):
                self._connection.execute(
                    """
                    UPDATE sign_bits SET documents = x'', bits = x'',
                        change = (SELECT max(change) + 1 FROM sign_bits)
                    WHERE segment = ?
                    """,
                    (segment,),
                )

    def _make(self, segment: int) -> None:
        """Count a change of a segment, which is made where there is none or it is empty."""
        self._connection.execute(
            """
            INSERT INTO sign_bits (segment, change, documents, bits)
            VALUES (?1, (SELECT ifnull(max(change), 0) + 1 FROM sign_bits), ?2, zeroblob(?3))
            ON CONFLICT (segment) DO UPDATE SET
                change = excluded.change,
                documents = iif(documents = x'', excluded.documents, documents),
                bits = iif(documents = x'', excluded.bits, bits)
            """,
            (segment, bytes(4 * SEGMENT), 8 * SEGMENT * self._words),
        )

    def _own(self, segment: int, slots: Ids, documents: Ids) -> None:
        with self._open(segment, "documents") as blob:
            owners = np.frombuffer(blob.read(), "<u4").copy()
            owners[slots] = documents
            blob.seek(0)
            blob.write(owners.tobytes())

    def _open(self, segment: int, column: str) -> Any:
        return self._connection.blob_open("main", "sign_bits", column, segment, True)


def _by_segment(chunks: Ids) -> Iterator[tuple[int, npt.NDArray[np.bool_]]]:
    """Each segment that chunks stand in, and which of them do."""
    segments = chunks // SEGMENT
    for segment in np.unique(segments):
        yield int(segment), segments == segment
