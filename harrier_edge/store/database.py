"""The index file: documents, chunks, words and vectors in one SQLite database."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any

import apsw
import sqlite_vec

from harrier_edge.errors import ForeignDatabaseError, StoreError
from harrier_edge.store.schema import APPLICATION_ID, MIGRATIONS
from harrier_edge.vectors import Vectors, from_blob, to_blob

BUSY_MS = 10_000  # how long one writer waits for another
MAX_NEIGHBOURS = 4096  # sqlite-vec's limit
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class StoredModel:
    """The model whose vectors an index holds, and the folder of its package."""

    name: str
    fingerprint: str
    precision: str
    dimension: int
    package: str


@dataclass(frozen=True)
class StoredDocument:
    """What is stored of a document: `chunks` is how many, `complete` whether that is all."""

    id: int
    sha256: str
    complete: bool
    chunks: int


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


class Database:
    """An open index file. Safe to share between threads, which take turns."""

    def __init__(self, path: Path, create: StoredModel | None = None) -> None:
        """Open the index at `path`, or make one for the model `create` where there is none.

        Raises ForeignDatabaseError where the file is something else or damaged, and StoreError
        where it cannot be opened, is of a newer release, or is not there and `create` is None.
        """
        self.path = path
        self._lock = threading.RLock()
        if not path.exists():
            if create is None:
                raise StoreError(f"{path}: no such index. Make one with: harrier-edge add PATH")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreError(f"{path.parent}: cannot be made: {error.strerror}") from error
        with self._errors_named():
            self._connection = apsw.Connection(str(path))
        try:
            with self._errors_named():
                self._prepare(create)
                self.model = self._stored_model()
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self, create: StoredModel | None) -> None:
        connection = self._connection
        connection.set_busy_timeout(BUSY_MS)
        connection.enable_load_extension(True)
        connection.load_extension(sqlite_vec.loadable_path())
        connection.enable_load_extension(False)
        version = self._check_identity()
        if version == 0 and create is None:
            raise StoreError(f"{self.path}: is empty. Fill it with: harrier-edge add PATH")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # a commit survives a power cut
        connection.execute("PRAGMA foreign_keys = ON")
        if version < len(MIGRATIONS):
            self._migrate(create)

    def _check_identity(self) -> int:
        """The schema version, 0 for an empty file. Raises where it is not an index of ours."""
        version: int = self._value("PRAGMA user_version")
        if self._value("PRAGMA application_id") != APPLICATION_ID:
            if self._value("SELECT count(*) FROM sqlite_schema") or version:
                raise ForeignDatabaseError(
                    f"{self.path}: is another program's database, and stays as it is. "
                    "Choose another file with --db."
                )
            return 0
        if version > len(MIGRATIONS):
            raise StoreError(
                f"{self.path}: has schema {version}, this harrier-edge knows up to "
                f"{len(MIGRATIONS)}. Install a newer release."
            )
        return version

    def _migrate(self, create: StoredModel | None) -> None:
        """Apply what is missing in one transaction. Another process may have been faster."""
        with self._transaction():
            version = self._check_identity()
            model = self._stored_model() if version else create
            assert model is not None
            for migration in MIGRATIONS[version:]:
                self._execute(migration.replace("{dimension}", str(model.dimension)))
            if version == 0:
                self._store_model(model)
            self._execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self._execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    def close(self) -> None:
        """Close the file."""
        with self._lock, self._errors_named():
            self._connection.close()

    @property
    def schema_version(self) -> int:
        """The number of migrations that the file has had."""
        with self._reading():
            version: int = self._value("PRAGMA user_version")
            return version

    def counts(self) -> Counts:
        """How much the index holds."""
        with self._reading():
            return Counts(
                documents=self._value("SELECT count(*) FROM documents"),
                incomplete=self._value("SELECT count(*) FROM documents WHERE NOT complete"),
                chunks=self._value("SELECT count(*) FROM chunks"),
            )

    def move_package(self, folder: str) -> None:
        """Remember that the model's package is now at `folder`."""
        with self._writing():
            self._execute("UPDATE model SET value = ? WHERE key = 'package'", (folder,))
        self.model = StoredModel(**{**asdict(self.model), "package": folder})

    def document(self, path: str) -> StoredDocument | None:
        """What is stored of the document at `path`."""
        with self._reading():
            row = self._execute(
                """
                SELECT id, sha256, complete,
                    (SELECT count(*) FROM chunks WHERE document = documents.id)
                FROM documents WHERE path = ?
                """,
                (path,),
            ).fetchone()
        return StoredDocument(row[0], row[1], bool(row[2]), row[3]) if row else None

    def write(self, parts: Sequence[Part]) -> None:
        """Store parts of documents, all or none.

        A part whose chunks begin at number 0 takes the place of what was stored of its document;
        a later one is added to it.
        """
        with self._writing():
            for part in parts:
                document = self._open_document(part)
                for chunk, vector in zip(part.chunks, part.vectors, strict=True):
                    self._insert_chunk(document, chunk, vector)

    def _open_document(self, part: Part) -> int:
        """The id of a part's document, whose row is made or brought up to date."""
        first = part.chunks[0].number if part.chunks else 0
        if first == 0:
            self._delete("path = ?", (part.path,))
        elif (stored := self.document(part.path)) is None or stored.chunks != first:
            raise StoreError(
                f"{part.path}: was changed in {self.path} by another process. Run this again."
            )
        (row,) = self._execute(
            """
            INSERT INTO documents
                (path, title, sha256, complete, metadata, collection, media_type, modified, size)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
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
            ),
        ).fetchall()
        document: int = row[0]
        return document

    def _insert_chunk(self, document: int, chunk: ChunkRow, vector: Vectors) -> None:
        self._execute(
            """
            INSERT INTO chunks
                (document, number, line, end_line, text, heading, start, "end", digest)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
            """,
            (document, *astuple(chunk)),
        )
        row = self._connection.last_insert_rowid()
        self._execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (row, chunk.text))
        self._execute("INSERT INTO vectors (chunk, vector) VALUES (?, ?)", (row, to_blob(vector)))

    def remove(self, path: str, separator: str) -> int:
        """Forget the document at `path` or those in the folder `path`; how many there were."""
        folder = path.rstrip(separator) + separator
        with self._writing():
            return self._delete(
                "path = ? OR substr(path, 1, length(?)) = ?", (path, folder, folder)
            )

    def _delete(self, condition: str, values: Sequence[str]) -> int:
        """Delete the documents that meet `condition`, with all that hangs on them."""
        execute = self._execute
        documents = f"SELECT id FROM documents WHERE {condition}"
        chunks = f"SELECT id FROM chunks WHERE document IN ({documents})"
        execute(
            f"""
            INSERT INTO words (words, rowid, text)
            SELECT 'delete', id, text FROM chunks WHERE document IN ({documents})
            """,
            values,
        )
        execute(f"DELETE FROM vectors WHERE chunk IN ({chunks})", values)
        execute(f"DELETE FROM chunks WHERE document IN ({documents})", values)
        execute(f"DELETE FROM documents WHERE {condition}", values)
        return self._connection.changes()

    def nearest(self, vector: Vectors, limit: int) -> list[tuple[int, float]]:
        """Chunk ids by cosine to `vector` (dimension,) float32, highest first."""
        with self._reading():
            rows: list[tuple[int, float]] = self._execute(
                """
                SELECT chunk, 1 - distance FROM vectors WHERE vector MATCH ? AND k = ?
                """,
                (to_blob(vector), min(limit, MAX_NEIGHBOURS)),
            ).fetchall()
        return sorted(rows, key=lambda row: (-row[1], row[0]))

    def matching(self, text: str, limit: int) -> list[tuple[int, float]]:
        """Ids of chunks that have a word of `text`, by BM25, best first.

        The score is b / (1 + b), where b is FTS5's BM25 with its sign turned: 0 to 1.
        """
        words = " OR ".join(f'"{word}"' for word in words_of(text))
        if not words:
            return []
        with self._reading():
            rows = self._execute(
                "SELECT rowid, -rank FROM words WHERE words MATCH ? ORDER BY rank, rowid LIMIT ?",
                (words, limit),
            ).fetchall()
        return [(row[0], max(row[1], 0) / (1 + max(row[1], 0))) for row in rows]

    def vectors_of(self, digests: Sequence[bytes]) -> dict[bytes, Vectors]:
        """The stored vectors (dimension,) float32 of what has these digests, where there is one."""
        with self._reading():
            rows = self._execute(
                """
                SELECT digest, vector FROM chunks JOIN vectors ON chunk = id
                WHERE digest <> x'' AND digest IN (SELECT unhex(value) FROM json_each(?))
                """,
                (json.dumps([digest.hex() for digest in digests]),),
            ).fetchall()
        return {digest: from_blob(blob) for digest, blob in rows}

    def passages(self, ids: Sequence[int]) -> dict[int, Passage]:
        """Chunks by their ids."""
        with self._reading():
            rows = self._execute(
                """
                SELECT chunks.id, path, title, line, end_line, text, metadata,
                    heading
                FROM chunks JOIN documents ON documents.id = chunks.document
                WHERE chunks.id IN (SELECT value FROM json_each(?))
                """,
                (json.dumps(ids),),
            ).fetchall()
        return {
            i: Passage(i, path, title, line, end_line, text, json.loads(metadata), heading)
            for i, path, title, line, end_line, text, metadata, heading in rows
        }

    def _stored_model(self) -> StoredModel:
        values: dict[str, Any] = dict(self._execute("SELECT key, value FROM model").fetchall())
        return StoredModel(**{**values, "dimension": int(values["dimension"])})

    def _store_model(self, model: StoredModel) -> None:
        for key, value in asdict(model).items():
            self._execute("INSERT INTO model (key, value) VALUES (?, ?)", (key, str(value)))

    def _execute(self, sql: str, values: Sequence[object] = ()) -> Any:
        """A cursor, whose rows are of the types that the schema gives."""
        return self._connection.execute(sql, values)

    def _value(self, sql: str) -> Any:
        return self._execute(sql).fetchone()[0]

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._lock, self._errors_named():
            yield

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._lock, self._errors_named(), self._transaction():
            yield

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commit at the end, roll back at any exception. Takes the write lock at once."""
        self._execute("BEGIN IMMEDIATE")
        try:
            yield
            self._execute("COMMIT")
        except BaseException:
            if not self._connection.get_autocommit():  # SQLite itself rolls back on a full disk
                self._execute("ROLLBACK")
            raise

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        """SQLite's errors as this project's, with the file and the next step."""
        try:
            yield
        except apsw.NotADBError as error:
            raise ForeignDatabaseError(
                f"{self.path}: is not a database, and stays as it is. Choose another file with "
                "--db."
            ) from error
        except apsw.CorruptError as error:
            raise ForeignDatabaseError(
                f"{self.path}: is damaged ({error}). Restore it from a backup, or move it away "
                "and add the documents again."
            ) from error
        except apsw.BusyError as error:
            raise StoreError(
                f"{self.path}: another process has been writing for {BUSY_MS // 1000} seconds. "
                "Wait for it to end, then run this again; what was committed is kept."
            ) from error
        except (apsw.FullError, apsw.IOError) as error:
            raise StoreError(
                f"{self.path}: cannot be written ({error}). Free space on the disk, then run this "
                "again; what was committed is kept."
            ) from error
        except (apsw.CantOpenError, apsw.ReadOnlyError, apsw.PermissionsError) as error:
            raise StoreError(
                f"{self.path}: cannot be opened ({error}). Check its permissions and its folder."
            ) from error


def words_of(text: str) -> list[str]:
    """The words of a query, each once, in order; no character has a special meaning."""
    return list(dict.fromkeys(_WORD.findall(text)))
