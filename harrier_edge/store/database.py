"""The index file: documents, chunks, words and vectors in one SQLite database."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harrier_edge.errors import StoreError
from harrier_edge.store.connection import Connection, StoredModel
from harrier_edge.store.filters import Filter
from harrier_edge.store.rows import ChunkRow, Counts, Found, Part, Passage, StoredDocument
from harrier_edge.store.scan import Scan, Scope, default_candidates
from harrier_edge.store.segments import Ids, SignBits
from harrier_edge.store.words import TextQuery, fold
from harrier_edge.vectors import Vectors, cosines, from_blobs, to_blobs

# The values of a JSON array, many in one.
GIVEN = "(SELECT value FROM json_each(?))"
BATCH_CHUNKS = 64  # embedded, then committed: what an interruption can cost
ROWS = 4096  # vectors that are read at once by what reads them all
# What is at a path or, if that is a folder, in it.
BELOW = "path = ? OR substr(path, 1, length(?)) = ?"
_DOCUMENT = """
    SELECT path, id, sha256, complete,
        (SELECT count(*) FROM chunks WHERE document = documents.id), stamp, chunker
    FROM documents
"""

Scores = npt.NDArray[np.float64]


class Database(Connection):
    """An open index file. Safe to share between threads, which take turns."""

    def __init__(self, path: Path, create: StoredModel | None = None) -> None:
        """As `Connection`."""
        super().__init__(path, create)
        self._scan = Scan(self.model.dimension)

    def after_migration(self, model: StoredModel) -> None:
        """Make the sign bits of what an older release stored."""
        self._fill_sign_bits(model)

    def exchange(self, model: StoredModel, vectors: str) -> None:
        """Let the rows of the table `vectors` and their model take the place of the old ones.

        In the caller's transaction, after which `adopt` is to be called.
        """
        self.execute("DELETE FROM vectors")
        self.execute(f"INSERT INTO vectors SELECT chunk, vector FROM {vectors}")
        self.execute("DELETE FROM sign_bits")
        self._fill_sign_bits(model)
        self.store_model(model)

    def adopt(self, model: StoredModel) -> None:
        """Work with the model that is stored now."""
        self.model = model
        self._scan = Scan(model.dimension)

    def _fill_sign_bits(self, model: StoredModel) -> None:
        bits = SignBits(self._connection, model.dimension)
        for chunks, documents, vectors in self._all_vectors(model, None):
            bits.write(chunks, documents, vectors)

    def counts(self) -> Counts:
        """How much the index holds."""
        with self.reading():
            return Counts(
                documents=self.value("SELECT count(*) FROM documents"),
                incomplete=self.value("SELECT count(*) FROM documents WHERE NOT complete"),
                chunks=self.value("SELECT count(*) FROM chunks"),
            )

    def move_package(self, folder: str) -> None:
        """Remember that the model's package is now at `folder`."""
        with self.writing():
            self.execute("UPDATE model SET value = ? WHERE key = 'package'", (folder,))
        self.model = StoredModel(**{**asdict(self.model), "package": folder})

    def document(self, path: str) -> StoredDocument | None:
        """What is stored of the document at `path`."""
        with self.reading():
            row = self.execute(f"{_DOCUMENT} WHERE path = ?", (path,)).fetchone()
        return _stored_document(row) if row else None

    def documents_below(self, path: str, separator: str) -> dict[str, StoredDocument]:
        """What is stored of the document at `path` or of those in the folder `path`, by path."""
        with self.reading():
            rows = self.execute(f"{_DOCUMENT} WHERE {BELOW}", below(path, separator)).fetchall()
        return {row[0]: _stored_document(row) for row in rows}

    def digests_of(self, document: int) -> list[bytes]:
        """Of each stored chunk of a document, in order, the hash of what was embedded."""
        with self.reading():
            rows = self.execute(
                "SELECT digest FROM chunks WHERE document = ? ORDER BY number", (document,)
            ).fetchall()
        return [row[0] for row in rows]

    def restamp(self, stamps: Mapping[str, str]) -> None:
        """Set the stamps of documents whose bytes have not changed, by path."""
        with self.writing():
            for path, stamp in stamps.items():
                self.execute("UPDATE documents SET stamp = ? WHERE path = ?", (stamp, path))

    def write(self, parts: Sequence[Part]) -> None:
        """Store parts of documents, all or none.

        A part whose chunks begin at number 0 takes the place of what was stored of its document;
        a later one is added to it.
        """
        for part in parts:
            self._check_vectors(part)
        with self.writing():
            self.check_model()
            owners: dict[int, tuple[int, Vectors]] = {}  # chunk -> document, vector
            for part in parts:
                document = self._open_document(part)
                if not part.chunks:
                    continue
                blobs = to_blobs(part.vectors, self.model.store)
                # The bits are of what is stored, so that they can be made anew from it.
                stored = from_blobs(blobs, self.model.store, self.model.dimension)
                for chunk, blob, vector in zip(part.chunks, blobs, stored, strict=True):
                    row = self._insert_chunk(document, part.title, chunk, blob)
                    owners[row] = document, vector
            # A later part may have taken the place of an earlier one's document.
            kept = self._column(f"SELECT id FROM chunks WHERE id IN {GIVEN}", (_ids([*owners]),))
            if len(kept):
                documents, vectors = zip(*(owners[row] for row in kept.tolist()), strict=True)
                self.sign_bits.write(kept, np.array(documents), np.stack(vectors))

    def _check_vectors(self, part: Part) -> None:
        wanted = (len(part.chunks), self.model.dimension)
        if part.vectors.shape != wanted and (part.chunks or len(part.vectors)):
            raise StoreError(
                f"{part.path}: has vectors of shape {part.vectors.shape}; wanted {wanted}."
            )
        if not np.isfinite(part.vectors).all():
            raise StoreError(f"{part.path}: has a vector that is not finite.")

    def _open_document(self, part: Part) -> int:
        """The id of a part's document, whose row is made or brought up to date."""
        first = part.chunks[0].number if part.chunks else 0
        if first == 0:
            self._delete("path = ?", (part.path,))
        elif (
            (stored := self.document(part.path)) is None
            or stored.chunks != first
            or (stored.sha256, stored.chunker) != (part.sha256, part.chunker)
        ):
            raise StoreError(
                f"{part.path}: was changed in {self.path} by another process. Run this again."
            )
        (row,) = self.execute(
            """
            INSERT INTO documents
                (path, title, sha256, complete, metadata, collection, media_type, modified, size,
                stamp, chunker)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT (path) DO UPDATE SET complete = excluded.complete
            RETURNING id
            """,
            (
                part.path,
                part.title,
                part.sha256,
                part.last,
                json.dumps(dict(part.metadata), ensure_ascii=False, allow_nan=False),
                part.collection,
                part.media_type,
                part.modified,
                part.size,
                part.stamp,
                part.chunker,
            ),
        ).fetchall()
        document: int = row[0]
        return document

    def _insert_chunk(self, document: int, title: str, chunk: ChunkRow, vector: bytes) -> int:
        self.execute(
            """
            INSERT INTO chunks
                (document, number, line, end_line, text, heading, start, "end", digest)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
            """,
            (
                document,
                chunk.number,
                chunk.line,
                chunk.end_line,
                chunk.text,
                chunk.heading,
                chunk.start,
                chunk.end,
                chunk.digest,
            ),
        )
        row = self._connection.last_insert_rowid()
        self.execute(
            "INSERT INTO words (rowid, title, text) VALUES (?, ?, ?)",
            (row, fold(f"{title} {chunk.heading}"), fold(chunk.text)),
        )
        self.execute("INSERT INTO vectors (chunk, vector) VALUES (?, ?)", (row, vector))
        return row

    def remove(self, path: str, separator: str) -> int:
        """Forget the document at `path` or those in the folder `path`; how many there were.

        They are sources no longer either.
        """
        values = below(path, separator)
        with self.writing():
            self.execute(f"DELETE FROM sources WHERE {BELOW}", values)
            return self._delete(BELOW, values)

    def forget(self, paths: Sequence[str]) -> int:
        """Forget the documents at `paths`; how many there were."""
        with self.writing():
            return self._delete(f"path IN {GIVEN}", (json.dumps(list(paths)),))

    def _delete(self, condition: str, values: Sequence[str]) -> int:
        """Delete the documents that meet `condition`, with all that hangs on them."""
        documents = f"SELECT id FROM documents WHERE {condition}"
        rows = self.execute(f"SELECT id FROM chunks WHERE document IN ({documents})", values)
        chunks = [row[0] for row in rows]
        for table, key in (("words", "rowid"), ("vectors", "chunk"), ("chunks", "id")):
            self.execute(f"DELETE FROM {table} WHERE {key} IN {GIVEN}", (_ids(chunks),))
        self.sign_bits.erase(np.array(chunks, np.int64))
        self.execute(f"DELETE FROM documents WHERE {condition}", values)
        return self._connection.changes()

    @property
    def sign_bits(self) -> SignBits:
        """The table of sign bits; to be used where `reading` or `writing` holds."""
        return SignBits(self._connection, self.model.dimension)

    def nearest(
        self,
        vector: Vectors,
        limit: int,
        *,
        candidates: int | None = None,
        exact: bool = False,
        within: Filter | None = None,
        text: TextQuery | None = None,
    ) -> list[Found]:
        """The `limit` chunks with the highest cosine to `vector` (dimension,) float32, best first.

        Their sign bits choose at least `candidates` of them, by default `default_candidates`, whose
        stored vectors are then compared; `exact` compares all. `within` and the required and
        excluded words of `text` limit what is looked at. Equal scores come in the order of ids.
        """
        vector = np.asarray(vector, np.float32)
        with self.reading():
            self.check_model()
            scope = self._scope(within, text)
            if not exact:
                self.sign_bits.refresh(self._scan)
        found: list[Found] = []
        if exact:
            with self.reading():
                for chunks, documents, vectors in self._all_vectors(self.model, scope):
                    found += _best(chunks, documents, cosines(vectors, vector), limit)
        else:
            count = max(candidates or default_candidates(self.model.dimension), 2 * limit)
            chunks, documents = self._scan.candidates(vector, count, scope)
            with self.reading():
                chunks, vectors, documents = self._stored(chunks, documents)
            found = _best(chunks, documents, cosines(vectors, vector), limit)
        return sorted(found, key=lambda one: (-one.score, one.chunk))[:limit]

    def _scope(self, within: Filter | None, text: TextQuery | None) -> Scope:
        """The ids that a filter and a query's words leave."""
        documents = only = without = None
        if within:
            documents = self._column(f"SELECT id FROM documents WHERE {within.sql}", within.values)
        words = "SELECT rowid FROM words WHERE words MATCH ?"
        if text and text.required:
            only = self._column(words, (text.required,))
        if text and text.excluded:
            without = self._column(words, (text.excluded,))
        return Scope(documents, only, without)

    def _column(self, sql: str, values: Sequence[object]) -> Ids:
        return np.array([row[0] for row in self.execute(sql, values)], np.int64)

    def _stored(self, chunks: Ids, documents: Ids) -> tuple[Ids, Vectors, Ids]:
        """The vectors of chunks, those that have been deleted meanwhile left out."""
        rows = self.execute(
            f"SELECT chunk, vector FROM vectors WHERE chunk IN {GIVEN}",
            (_ids(chunks),),
        ).fetchall()
        vectors = from_blobs([blob for _, blob in rows], self.model.store, self.model.dimension)
        found = np.array([chunk for chunk, _ in rows], np.int64)
        order = np.argsort(chunks)
        return found, vectors, documents[order[np.searchsorted(chunks, found, sorter=order)]]

    def _all_vectors(
        self, model: StoredModel, scope: Scope | None
    ) -> Iterator[tuple[Ids, Ids, Vectors]]:
        """All chunks in a scope by their ids, with their documents and vectors, in parts."""
        last = 0
        while True:
            rows = self.execute(
                """
                SELECT chunk, document, vector FROM vectors JOIN chunks ON chunks.id = chunk
                WHERE chunk > ? ORDER BY chunk LIMIT ?
                """,
                (last, ROWS),
            ).fetchall()
            if not rows:
                return
            last = rows[-1][0]
            chunks, documents = np.array([row[:2] for row in rows], np.int64).T
            kept = scope.holds(chunks, documents) if scope else np.ones(len(rows), np.bool_)
            blobs = [row[2] for row, keep in zip(rows, kept, strict=True) if keep]
            vectors = from_blobs(blobs, model.store, model.dimension)
            yield chunks[kept], documents[kept], vectors

    def matching(self, text: TextQuery, limit: int, *, within: Filter | None = None) -> list[Found]:
        """The `limit` best chunks that have a word of `text`, by BM25, best first.

        The score is b / (1 + b), where b is FTS5's BM25 with its sign turned: 0 to 1.
        """
        if not text.ranked:
            return []
        expression = f"({text.ranked})"
        if text.required:
            expression = f"({text.required}) AND {expression}"
        if text.excluded:
            expression = f"({expression}) NOT ({text.excluded})"
        condition = f"AND {within.sql}" if within else ""
        with self.reading():
            rows = self.execute(
                f"""
                SELECT words.rowid, document, -rank
                FROM words
                JOIN chunks ON chunks.id = words.rowid JOIN documents ON documents.id = document
                WHERE words MATCH ? {condition} ORDER BY rank, words.rowid LIMIT ?
                """,
                (expression, *(within.values if within else ()), limit),
            ).fetchall()
        return [Found(chunk, doc, max(b, 0) / (1 + max(b, 0))) for chunk, doc, b in rows]

    def vectors_of(self, digests: Sequence[bytes]) -> dict[bytes, Vectors]:
        """The stored vectors (dimension,) float32 of what has these digests, where there is one."""
        with self.snapshot():
            self.check_model()
            rows = self.execute(
                """
                SELECT digest, vector FROM chunks JOIN vectors ON chunk = id
                WHERE digest <> x'' AND digest IN (SELECT unhex(value) FROM json_each(?))
                """,
                (json.dumps([digest.hex() for digest in digests]),),
            ).fetchall()
        vectors = from_blobs([row[1] for row in rows], self.model.store, self.model.dimension)
        return {digest: vector for (digest, _), vector in zip(rows, vectors, strict=True)}

    def passages(self, ids: Sequence[int]) -> dict[int, Passage]:
        """Chunks by their ids."""
        with self.reading():
            rows = self.execute(
                f"""
                SELECT chunks.id, path, title, line, end_line, text, metadata, heading
                FROM chunks JOIN documents ON documents.id = chunks.document
                WHERE chunks.id IN {GIVEN}
                """,
                (_ids(ids),),
            ).fetchall()
        return {
            i: Passage(i, path, title, line, end_line, text, json.loads(metadata), heading)
            for i, path, title, line, end_line, text, metadata, heading in rows
        }


def _ids(chunks: Sequence[int] | Ids) -> str:
    """Ids as SQLite takes many at once, through json_each."""
    return json.dumps(np.asarray(chunks).tolist())


def below(path: str, separator: str) -> tuple[str, str, str]:
    """The values of BELOW."""
    folder = path.rstrip(separator) + separator
    return path, folder, folder


def _stored_document(row: Sequence[Any]) -> StoredDocument:
    return StoredDocument(row[1], row[2], bool(row[3]), *row[4:])


def _best(chunks: Ids, documents: Ids, scores: Scores, limit: int) -> list[Found]:
    """The `limit` best of some chunks, the first of equals."""
    order = np.lexsort((chunks, -scores))[:limit]
    best = zip(chunks[order], documents[order], scores[order], strict=True)
    return [Found(int(chunk), int(document), float(score)) for chunk, document, score in best]
