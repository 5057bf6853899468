"""New vectors beside the old ones, until they can take their place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from harrier_edge.errors import StoreError
from harrier_edge.store.connection import StoredModel
from harrier_edge.store.database import Database
from harrier_edge.vectors import Vectors, to_blobs

_MISSING = "FROM chunks WHERE id NOT IN (SELECT chunk FROM next_vectors)"


@dataclass(frozen=True)
class Text:
    """A chunk that has no new vector yet."""

    id: int
    heading: str
    text: str


class Exchange:
    """The vectors of another model for an index; they count only when all are there."""

    def __init__(self, database: Database, model: StoredModel) -> None:
        self._database = database
        self._model = model

    def begin(self) -> None:
        """Make room, or take up what an earlier run with the same model has left.

        A run with another model ends there: its next step raises StoreError.
        """
        execute = self._database.execute
        with self._database.writing():
            execute("CREATE TABLE IF NOT EXISTS next_model (key TEXT PRIMARY KEY, value TEXT)")
            execute(
                "CREATE TABLE IF NOT EXISTS next_vectors (chunk INTEGER PRIMARY KEY, vector BLOB)"
            )
            # Whoever deletes a chunk: the next to come may get its id.
            execute(
                """
                CREATE TRIGGER IF NOT EXISTS next_vectors_forget AFTER DELETE ON chunks
                BEGIN DELETE FROM next_vectors WHERE chunk = old.id; END
                """
            )
            if not self._is_of_this():
                execute("DELETE FROM next_vectors")
            for key, value in asdict(self._model).items():
                execute("REPLACE INTO next_model VALUES (?, ?)", (key, str(value)))

    def missing(self, limit: int) -> list[Text]:
        """Some chunks without a new vector, in the order of ids; none when all have one."""
        with self._database.snapshot():
            self._check()
            rows = self._database.execute(
                f"SELECT id, heading, text {_MISSING} ORDER BY id LIMIT ?", (limit,)
            ).fetchall()
        return [Text(*row) for row in rows]

    def put(self, chunks: Sequence[Text], vectors: Vectors) -> None:
        """Store new vectors, but for chunks that have been changed or removed meanwhile."""
        blobs = to_blobs(vectors, self._model.store)
        with self._database.writing():
            self._check()
            for chunk, blob in zip(chunks, blobs, strict=True):
                self._database.execute(
                    """
                    REPLACE INTO next_vectors
                    SELECT id, ? FROM chunks WHERE (id, heading, text) = (?, ?, ?)
                    """,
                    (blob, chunk.id, chunk.heading, chunk.text),
                )

    def progress(self) -> tuple[int, int]:
        """How many chunks have a new vector, and how many there are."""
        with self._database.snapshot():
            self._check()
            total = self._database.value("SELECT count(*) FROM chunks")
            return total - self._database.value(f"SELECT count(*) {_MISSING}"), total

    def finish(self) -> bool:
        """Let the new vectors take the place of the old, unless a chunk has come meanwhile."""
        database = self._database
        with database.writing():
            self._check()
            if database.value(f"SELECT count(*) {_MISSING}"):
                return False
            database.exchange(self._model, "next_vectors")
            database.execute("DROP TRIGGER next_vectors_forget")
            database.execute("DROP TABLE next_vectors")
            database.execute("DROP TABLE next_model")
        database.adopt(self._model)
        return True

    def _is_of_this(self) -> bool:
        """Whether what has been begun is an exchange for this model, wherever its package is."""
        rows = self._database.execute("SELECT key, value FROM next_model").fetchall()
        wanted = {key: str(value) for key, value in asdict(self._model).items()}
        same = dict.fromkeys(("package", "fidelity"), "")  # in which it may differ
        return dict(rows) | same == wanted | same

    def _check(self) -> None:
        """Raise StoreError where another run has begun or ended an exchange since this one has."""
        if not (_is_begun(self._database) and self._is_of_this()):
            raise StoreError(
                f"{self._database.path}: another process has given it a model meanwhile, or begun "
                "to. See which with: harrier-edge status, then run this again if it is another one."
            )


def is_unfinished(database: Database) -> bool:
    """Whether an exchange was begun that has not come to its end."""
    with database.reading():
        return _is_begun(database)


def _is_begun(database: Database) -> bool:
    return bool(database.value("SELECT count(*) FROM sqlite_schema WHERE name = 'next_model'"))
