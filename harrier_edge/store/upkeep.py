"""Care of an index file: its check, its copy, and the space that it gives back."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from harrier_edge.errors import StoreError
from harrier_edge.store.database import Database
from harrier_edge.vectors import STORES, Vectors, from_blobs

PAGES = 2000  # that a backup copies before it can be interrupted

# What must give no row: a name for the fault, and where it is.
_FAULTS = {
    "a chunk without its document": """
        SELECT id FROM chunks WHERE document NOT IN (SELECT id FROM documents)
    """,
    "a document whose chunks are not numbered one after the other": """
        SELECT document FROM chunks GROUP BY document
        HAVING min(number) <> 0 OR max(number) <> count(*) - 1
    """,
    "a chunk without a vector": "SELECT id FROM chunks WHERE id NOT IN (SELECT chunk FROM vectors)",
    "a vector without a chunk": """
        SELECT chunk FROM vectors WHERE chunk NOT IN (SELECT id FROM chunks)
    """,
    "a vector of another length": "SELECT chunk FROM vectors WHERE length(vector) <> {bytes}",
    "a chunk without words": """
        SELECT id FROM chunks WHERE id NOT IN (SELECT id FROM words_docsize)
    """,
    "words without a chunk": "SELECT id FROM words_docsize WHERE id NOT IN (SELECT id FROM chunks)",
}
SHOWN = 3  # ids of each fault


def check(database: Database) -> list[str]:
    """What is wrong with an index, in words; nothing where it is sound. Reads all of it.

    SQLite's own check of the file, and whether the tables agree with one another.
    """
    with database.snapshot():
        # FTS5 sees what another connection changed when it is searched, not when it is checked.
        database.execute("SELECT 1 FROM words WHERE words MATCH 'a'").fetchall()
        rows = database.execute("PRAGMA integrity_check").fetchall()
        faults = [f"SQLite: {row[0]}" for row in rows if row[0] != "ok"]
        length = STORES[database.model.store].itemsize * database.model.dimension
        for name, sql in _FAULTS.items():
            found = [row[0] for row in database.execute(sql.format(bytes=length))]
            if found:
                shown = ", ".join(map(str, found[:SHOWN]))
                more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
                faults.append(f"{name}: {shown}{more}")
        stored = dict(database.execute("SELECT id, document FROM chunks").fetchall())
        held = database.sign_bits.owners()
        if stored != held:
            wrong = sorted(i for i in stored.keys() | held.keys() if stored.get(i) != held.get(i))
            faults.append(f"a chunk whose sign bits disagree: {', '.join(map(str, wrong[:SHOWN]))}")
    return faults


def examples(database: Database) -> tuple[list[tuple[str, str]], Vectors]:
    """Headings and texts of the first, the middle and the last chunk, and their vectors.

    Fewer where there are not so many. The vectors are (n, dimension) float32.
    """
    with database.reading():
        rows = database.execute(
            """
            SELECT heading, text, vector FROM chunks JOIN vectors ON chunk = id
            WHERE id IN (
                SELECT min(id) FROM chunks UNION SELECT max(id) FROM chunks
                UNION SELECT min(id) FROM chunks
                    WHERE id >= (SELECT (min(id) + max(id)) / 2 FROM chunks)
            )
            """
        ).fetchall()
    model = database.model
    vectors = from_blobs([row[2] for row in rows], model.store, model.dimension)
    return [(heading, text) for heading, text, _ in rows], vectors


def compact(database: Database) -> tuple[int, int]:
    """Give back what deletions have left free: the size in bytes before and after.

    Needs free space of about the index's size while it works. Readers are not disturbed; writers
    wait. Raises StoreError where it cannot be written.
    """
    before = database.path.stat().st_size
    with database.writing():
        database.execute("INSERT INTO words (words) VALUES ('optimize')")
        database.sign_bits.empty()
    with database.reading():
        database.execute("VACUUM")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return before, database.path.stat().st_size


def backup(database: Database, target: Path) -> None:
    """Copy an index to the new file `target` while others may read and write it.

    The copy is one whole state of it. Raises StoreError where `target` exists or cannot be written.
    """
    if target.exists():
        raise StoreError(f"{target}: exists already. Choose a new file for the backup.")
    partial = target.with_name(target.name + ".partial")
    try:
        partial.unlink(missing_ok=True)
        database.copy_to(partial, PAGES)
        partial.replace(target)
    except OSError as error:
        raise StoreError(f"{target}: cannot be written: {error}. Choose another place.") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
