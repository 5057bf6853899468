"""New vectors beside the old ones, until they can take their place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

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
        """Make room, or take up what an earlier run with the same model has left."""
        execute = self._database.execute
        with self._database.writing():
            execute("CREATE TABLE IF NOT EXISTS next_model (key TEXT PRIMARY KEY, value TEXT)")
            execute(
                "CREATE TABLE IF NOT EXISTS next_vectors (chunk INTEGER PRIMARY KEY, vector BLOB)"
            )
            wanted = {key: str(value) for key, value in asdict(self._model).items()}
            found = dict(execute("SELECT key, value FROM next_model").fetchall())
            same = dict.fromkeys(("package", "fidelity"), "")  # in which it may differ
            if found | same != wanted | same:
                execute("DELETE FROM next_vectors")
            for item in wanted.items():
                execute("REPLACE INTO next_model VALUES (?, ?)", item)

    def missing(self, limit: int) -> list[Text]:
        """Some chunks without a new vector, in the order of ids; none when all have one."""
        with self._database.reading():
            rows = self._database.execute(
                f"SELECT id, heading, text {_MISSING} ORDER BY id LIMIT ?", (limit,)
            ).fetchall()
        return [Text(*row) for row in rows]

    def put(self, chunks: Sequence[int], vectors: Vectors) -> None:
        """Store new vectors."""
        blobs = to_blobs(vectors, self._model.store)
        with self._database.writing():
            for item in zip(chunks, blobs, strict=True):
                self._database.execute("REPLACE INTO next_vectors VALUES (?, ?)", item)

    def progress(self) -> tuple[int, int]:
        """How many chunks have a new vector, and how many there are."""
        with self._database.reading():
            total = self._database.value("SELECT count(*) FROM chunks")
            return total - self._database.value(f"SELECT count(*) {_MISSING}"), total

    def finish(self) -> bool:
        """Let the new vectors take the place of the old, unless a chunk has come meanwhile."""
        database = self._database
        with database.writing():
            if database.value(f"SELECT count(*) {_MISSING}"):
                return False
            database.execute("DELETE FROM next_vectors WHERE chunk NOT IN (SELECT id FROM chunks)")
            database.exchange(self._model, "next_vectors")
            database.execute("DROP TABLE next_vectors")
            database.execute("DROP TABLE next_model")
        database.adopt(self._model)
        return True


def is_unfinished(database: Database) -> bool:
    """Whether an exchange was begun that has not come to its end."""
    with database.reading():
        found = database.value("SELECT count(*) FROM sqlite_schema WHERE name = 'next_model'")
    return bool(found)
