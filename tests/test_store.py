"""The index file."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harrier_edge.errors import ForeignDatabaseError, StoreError
from harrier_edge.store import connection as module
from harrier_edge.store.connection import StoredModel
from harrier_edge.store.database import Database
from harrier_edge.store.rows import ChunkRow, Counts, Found, Part
from harrier_edge.store.schema import MIGRATIONS
from harrier_edge.store.words import parse
from harrier_edge.vectors import Vectors

MODEL = StoredModel("tiny", "f" * 64, "fp32", 4, "/packages/tiny")


@pytest.fixture
def database(tmp_path: Path) -> Database:
    """A new index."""
    return Database(tmp_path / "index.sqlite", create=MODEL)


def unit(*values: float) -> Vectors:
    """A vector of unit length."""
    vector = np.array(values, np.float32)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def part(
    path: str, texts: Sequence[str], *, first: int = 0, last: bool = True, sha256: str = "0"
) -> Part:
    """A part whose vectors lie in the plane, each text's at another angle."""
    rows = [ChunkRow(first + i, i + 1, i + 1, text) for i, text in enumerate(texts)]
    vectors = np.stack([unit(1, first + i, 0, 0) for i in range(len(texts))] or [unit(1, 0, 0, 0)])
    return Part(path, "title", sha256, rows, vectors[: len(texts)], last)


def matching(database: Database, query: str) -> list[Found]:
    """The chunks that a query's words find."""
    return database.matching(parse(query), 50)


def rows(path: Path, table: str) -> int:
    """How many rows a table has, counted by another SQLite."""
    with sqlite3.connect(path) as connection:
        count: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    connection.close()
    return count


def test_what_is_written_is_found_by_vector_and_by_word(database: Database) -> None:
    """Both rankings lead to the same passage, with its place."""
    database.write([part("/a.md", ["the falcon", "the heron"])])
    near, far = database.nearest(unit(1, 0, 0, 0), 2)
    assert near.score == pytest.approx(1, abs=1e-6)
    assert far.score == pytest.approx(2**-0.5, abs=1e-6)
    (found,) = matching(database, "HERON")
    assert found.chunk == far.chunk != near.chunk
    assert 0 < found.score < 1
    passage = database.passages([near.chunk])[near.chunk]
    assert (passage.path, passage.line, passage.text) == ("/a.md", 1, "the falcon")


def test_a_document_is_replaced_and_nothing_of_the_old_is_left(database: Database) -> None:
    """Old chunks, words and vectors go with the same commit that brings the new ones."""
    database.write([part("/a.md", ["old one", "old two"]), part("/b.md", ["other"])])
    database.write([part("/a.md", ["new"], sha256="1")])
    assert matching(database, "old") == []
    assert len(database.nearest(unit(1, 0, 0, 0), 9)) == 2
    stored = database.document("/a.md")
    assert stored is not None
    assert (stored.sha256, stored.chunks, stored.complete) == ("1", 1, True)


def test_all_that_is_told_of_a_document_is_stored(database: Database) -> None:
    """Its kind, time and metadata, and where each chunk stands in it."""
    row = ChunkRow(0, 3, 4, "the falcon", "Birds > Of prey", 20, 30, b"\x01" * 32)
    facts: dict[str, Any] = {
        "collection": "notes",
        "media_type": "text/markdown",
        "modified": 12.5,
        "size": 99,
    }
    metadata = {"author": "Zoë", "year": 1999}
    database.write(
        [Part("/a.md", "t", "0", [row], unit(1, 2, 3, 4)[None], True, metadata=metadata, **facts)]
    )
    (passage,) = database.passages([1]).values()
    assert (passage.heading, passage.metadata) == ("Birds > Of prey", metadata)
    with sqlite3.connect(database.path) as connection:
        stored = connection.execute("SELECT collection, media_type, modified, size FROM documents")
        assert stored.fetchone() == tuple(facts.values())
        chunk = connection.execute('SELECT start, "end" FROM chunks')
        assert chunk.fetchone() == (20, 30)
    connection.close()


def test_a_vector_is_found_again_by_its_digest(database: Database) -> None:
    """What has the same digest need not be embedded again; no digest is found by none."""
    known, unknown = b"\x01" * 32, b"\x02" * 32
    rows = [ChunkRow(0, 1, 1, "a", digest=known), ChunkRow(1, 2, 2, "b")]
    vectors = np.stack([unit(1, 2, 3, 4), unit(4, 3, 2, 1)])
    database.write([Part("/a.md", "t", "0", rows, vectors, True)])
    found = database.vectors_of([known, unknown, b""])
    assert list(found) == [known]
    np.testing.assert_array_equal(found[known], vectors[0])


def test_a_document_may_come_in_parts(database: Database) -> None:
    """It is incomplete until its last part is there; a part out of turn is refused."""
    database.write([part("/a.md", ["one", "two"], last=False)])
    assert database.counts() == Counts(documents=1, incomplete=1, chunks=2)
    with pytest.raises(StoreError, match=r"changed in .* by another process"):
        database.write([part("/a.md", ["five"], first=4)])
    database.write([part("/a.md", ["three"], first=2)])
    assert database.counts() == Counts(documents=1, incomplete=0, chunks=3)


def test_a_batch_is_stored_whole_or_not_at_all(database: Database) -> None:
    """When one part of a batch fails, the others are not stored either."""
    wrong = part("/b.md", ["x"])
    wrong = Part(wrong.path, "t", "0", wrong.chunks, np.ones((1, 3), np.float32), True)
    with pytest.raises(StoreError, match=r"vectors of shape \(1, 3\)"):
        database.write([part("/a.md", ["one"]), wrong])
    assert database.counts() == Counts(0, 0, 0)
    database.write([part("/a.md", ["one"])])


def test_a_folder_is_removed_by_its_name_and_not_by_a_prefix(database: Database) -> None:
    """`/a` is neither `/ab` nor a pattern; the separator at its end does not matter."""
    names = ["/a/1.md", "/a/b/2.md", "/ab/3.md", "/a_", "/a%/4.md"]
    database.write([part(name, [name]) for name in names])
    assert database.remove("/a/", "/") == 2
    assert database.remove("/a%", "/") == 1
    assert database.remove("/a_", "/") == 1
    assert database.remove("/nothing", "/") == 0
    assert database.document("/ab/3.md") is not None
    assert rows(database.path, "chunks") == 1


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=st.text(st.characters(exclude_categories=()), max_size=30))
def test_any_query_is_words_and_never_syntax(shared_database: Database, text: str) -> None:
    """No string, whatever FTS5 might read in it, is an error."""
    matching(shared_database, text)


@pytest.fixture(scope="module")
def shared_database(tmp_path_factory: pytest.TempPathFactory) -> Database:
    """One index that is only read."""
    database = Database(tmp_path_factory.mktemp("store") / "index.sqlite", create=MODEL)
    database.write([part("/a.md", ["NEAR the AND", 'x" OR "y'])])
    return database


def test_fts_syntax_is_only_words(shared_database: Database) -> None:
    """Operators, quotes and columns in a query stand for themselves."""
    assert len(matching(shared_database, "near*")) == 1
    assert len(matching(shared_database, '"y" NOT text:x')) == 1
    assert matching(shared_database, "^ - : ( *") == []


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    """A foreign SQLite file is refused, byte for byte as it was."""
    path = tmp_path / "their.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE precious (x)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(ForeignDatabaseError, match="another program's database"):
        Database(path, create=MODEL)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    """A text file given as --db is refused, byte for byte as it was."""
    path = tmp_path / "letter.txt"
    path.write_text("Dear diary, " * 100, "utf-8")
    with pytest.raises(ForeignDatabaseError, match="is not a database"):
        Database(path, create=MODEL)
    assert path.read_text("utf-8") == "Dear diary, " * 100


def test_a_damaged_index_is_named(database: Database) -> None:
    """A truncated or overwritten file ends in an error of ours, not in wrong answers."""
    database.write([part(f"/{i}.md", [f"word {i} " * 50]) for i in range(200)])
    path = database.path
    database.close()
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:4096] + bytes(len(whole) - 4096)):
        path.write_bytes(damaged)
        with pytest.raises(ForeignDatabaseError, match="is damaged"):
            Database(path).nearest(unit(1, 0, 0, 0), 200)
    path.write_bytes(whole)
    assert len(Database(path).nearest(unit(1, 0, 0, 0), 300)) == 200


def test_an_empty_file_becomes_an_index_and_only_on_demand(tmp_path: Path) -> None:
    """What a killed first run leaves is taken as new, when documents are added."""
    path = tmp_path / "index.sqlite"
    path.touch()
    with pytest.raises(StoreError, match="is empty"):
        Database(path)
    Database(path, create=MODEL).write([part("/a.md", ["one"])])
    assert Database(path).model == MODEL


def test_a_missing_index_is_not_made_by_a_search(tmp_path: Path) -> None:
    """Reading never leaves a file behind."""
    with pytest.raises(StoreError, match="no such index"):
        Database(tmp_path / "index.sqlite")
    assert list(tmp_path.iterdir()) == []


def test_an_index_of_a_newer_release_is_refused(database: Database) -> None:
    """Its schema number and the known one are told."""
    database.close()
    with sqlite3.connect(database.path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match="schema 99"):
        Database(database.path)


def test_an_older_index_is_migrated(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is missing is applied, in one transaction, and nothing stored is lost."""
    database.write([part("/a.md", ["one"])])
    database.close()
    later = (*MIGRATIONS, "CREATE TABLE later (vector BLOB CHECK (length(vector) = {dimension}))")
    monkeypatch.setattr(module, "MIGRATIONS", (*later, "not SQL"))
    with pytest.raises(Exception, match="syntax error"):
        Database(database.path)
    monkeypatch.setattr(module, "MIGRATIONS", later)
    migrated = Database(database.path)
    assert migrated.schema_version == len(MIGRATIONS) + 1
    assert rows(database.path, "later") == 0
    assert len(migrated.nearest(unit(1, 0, 0, 0), 5)) == 1


def test_one_writes_while_others_read(database: Database) -> None:
    """Readers in other connections see whole batches, and threads may share one."""
    other = Database(database.path)
    with ThreadPoolExecutor(4) as pool:
        writes = [
            pool.submit(database.write, [part(f"/{i}.md", ["one", "two"])]) for i in range(40)
        ]
        seen = [pool.submit(lambda: other.counts().chunks) for _ in range(40)]
    assert all(write.exception() is None for write in writes)
    assert all(count.result() % 2 == 0 for count in seen)
    assert other.counts().documents == 40


def test_ties_come_in_the_order_of_ids(database: Database) -> None:
    """Equal scores always give the same order."""
    database.write([part(f"/{i}.md", ["same words"]) for i in range(20)])
    for ranking in (database.nearest(unit(1, 0, 0, 0), 20), matching(database, "same")):
        assert [one.chunk for one in ranking] == sorted(one.chunk for one in ranking)


def test_parts_of_two_states_of_a_file_are_never_one_document(database: Database) -> None:
    """Who goes on with what another process has begun anew is told, however much there is."""
    database.write([part("/a", ["a", "b"], last=False, sha256="old")])
    database.write([part("/a", ["c", "d"], last=False, sha256="new")])
    with pytest.raises(StoreError, match=r"was changed in .* by another process"):
        database.write([part("/a", ["e"], first=2, sha256="old")])
    database.write([part("/a", ["f"], first=2, sha256="new")])
    assert database.counts() == Counts(documents=1, incomplete=0, chunks=3)


FULL = """
import resource, sys
from pathlib import Path
from harrier_edge.errors import StoreError
from harrier_edge.store.connection import StoredModel
from harrier_edge.store.database import Database

model = StoredModel("tiny", "f" * 64, "fp32", 4, "/packages/tiny")
for limit in range(4096, 1 << 20, 4096):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        Database(Path(f"{limit}.sqlite"), create=model)
    except StoreError as error:
        print(error)
    else:
        break
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_a_disk_too_full_for_a_new_index_is_told(tmp_path: Path) -> None:
    """Wherever it fills up, also within FTS5, which tells of it as of wrong SQL."""
    run = subprocess.run([sys.executable, "-c", FULL], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    told = run.stdout.splitlines()
    assert len(told) > 10
    assert all("cannot be written" in line and "Free space" in line for line in told)
