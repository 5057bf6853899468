"""Checks, copies and compacting, and what many processes do to one index."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from harrier_edge.errors import StoreError
from harrier_edge.store import connection as connecting
from harrier_edge.store import upkeep
from harrier_edge.store.connection import StoredModel
from harrier_edge.store.database import Database
from harrier_edge.store.filters import parse_filters
from harrier_edge.store.rows import ChunkRow, Part
from harrier_edge.store.upkeep import backup, check, compact
from harrier_edge.store.words import parse
from harrier_edge.vectors import STORES, Vectors

DIMENSION = 8
MODEL = StoredModel("tiny", "f" * 64, "fp32", DIMENSION, "/packages/tiny")


def vector(seed: int) -> Vectors:
    """One of unit length, always the same for a seed."""
    made = np.random.default_rng(seed).standard_normal(DIMENSION)
    return np.asarray(made / np.linalg.norm(made), np.float32)


def part(path: str, seeds: list[int], collection: str = "") -> Part:
    """A document with a chunk for each seed, whose word is the seed's."""
    rows = [ChunkRow(i, i + 1, i + 1, f"w{seed}") for i, seed in enumerate(seeds)]
    vectors = np.array([vector(seed) for seed in seeds], np.float32).reshape(-1, DIMENSION)
    return Part(path, "", "", rows, vectors, True, collection)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    """An index of forty documents."""
    database = Database(tmp_path / "index.sqlite", create=MODEL)
    database.write([part(f"/{i}", [3 * i, 3 * i + 1, 3 * i + 2]) for i in range(40)])
    return database


def test_a_sound_index_has_no_fault_and_each_fault_is_found(database: Database) -> None:
    """Every table that could disagree with another is looked at."""
    assert check(database) == []
    for damage, fault in (
        ("DELETE FROM vectors WHERE chunk = 5", "a chunk without a vector: 5"),
        ("INSERT INTO words (rowid, text) VALUES (999, 'x')", "words without a chunk: 999"),
        ("DELETE FROM words WHERE rowid = 7", "a chunk without words: 7"),
        ("UPDATE vectors SET vector = x'00' WHERE chunk = 9", "another length: 9"),
        ("UPDATE sign_bits SET documents = zeroblob(16384)", "sign bits disagree: 1, 2, 3"),
        ("UPDATE chunks SET number = 7 WHERE id = 12", "not numbered one after the other: 4"),
    ):
        with database.reading():
            database.execute("BEGIN")
            database.execute(damage)
            database.execute("COMMIT")
        assert any(fault in found for found in check(database)), fault


def test_compacting_gives_space_back_and_changes_no_answer(tmp_path: Path) -> None:
    """Neither here nor in a process that has the index open."""
    database = Database(tmp_path / "index.sqlite", create=MODEL)
    database.write([part(f"/{i}", list(range(50 * i, 50 * i + 50))) for i in range(250)])
    reader = Database(database.path)
    assert len(reader.nearest(vector(1), 5)) == 5
    for i in range(240):
        database.remove(f"/{i}", "/")
    answer = database.nearest(vector(12_001), 20)
    before, after = compact(database)
    assert after < before / 3
    assert check(database) == []
    assert database.nearest(vector(12_001), 20) == reader.nearest(vector(12_001), 20) == answer


def test_a_reader_that_is_open_follows_a_compact_and_what_comes_after(tmp_path: Path) -> None:
    """Segments that a compact has emptied hide nothing, nor what takes their place."""
    database = Database(tmp_path / "index.sqlite", create=MODEL)
    database.write([part(f"/{i}", list(range(500 * i, 500 * i + 500))) for i in range(20)])
    reader = Database(database.path)
    assert len(reader.nearest(vector(1), 5)) == 5  # it holds three segments
    for i in range(19):
        database.remove(f"/{i}", "/")
    compact(database)
    with database.reading():
        segments = database.execute("SELECT segment, length(bits) FROM sign_bits").fetchall()
    assert [bool(length) for _, length in segments] == [False, False, True]
    database.write([part(f"/new-{i}", list(range(500 * i, 500 * i + 500))) for i in range(20)])
    for seed in (1, 4321, 9_999):
        answer = database.nearest(vector(seed), 20, exact=True)
        assert len(answer) == 20
        assert reader.nearest(vector(seed), 20) == database.nearest(vector(seed), 20) == answer
    database.remove("/", "/")
    compact(database)
    database.write([part("/again", [1, 2, 3])])  # ids begin again, in a segment that was emptied
    assert len(reader.nearest(vector(1), 20)) == 3
    assert check(database) == []


@pytest.mark.parametrize("store", STORES)
def test_sign_bits_can_be_made_anew_from_what_is_stored(tmp_path: Path, store: str) -> None:
    """They are of the stored vectors, so rebuilding them changes none."""
    database = Database(tmp_path / "index.sqlite", create=replace(MODEL, store=store))
    database.write([part(f"/{i}", list(range(50 * i, 50 * i + 50))) for i in range(40)])
    bits = "SELECT segment, documents, bits FROM sign_bits"
    before = database.execute(bits).fetchall()
    with database.writing():
        database.execute("DELETE FROM sign_bits")
        database.after_migration(database.model)
    assert database.execute(bits).fetchall() == before


def test_a_backup_is_whole_while_others_write(database: Database, tmp_path: Path) -> None:
    """And an existing file is never overwritten."""
    target = tmp_path / "copy.sqlite"
    backup(database, target)
    database.write([part("/later", [777])])
    copy = Database(target)
    assert check(copy) == []
    assert copy.counts().documents == 40
    assert copy.nearest(vector(4), 5) == database.nearest(vector(4), 5)
    with pytest.raises(StoreError, match="exists already"):
        backup(database, target)
    assert sorted(p.name for p in tmp_path.iterdir() if "partial" in p.name) == []


def test_who_holds_the_writer_is_told(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the wait, with the number of its process; readers are not held up."""
    monkeypatch.setattr(connecting, "BUSY_MS", 50)
    program = f"""
import sys, time
from pathlib import Path
from harrier_edge.store.database import Database
database = Database(Path({str(database.path)!r}))
with database.writing():
    print("writing", flush=True)
    time.sleep(60)
"""
    holder = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        assert holder.stdout
        assert holder.stdout.readline() == b"writing\n"
        other = Database(database.path)
        with pytest.raises(StoreError, match=rf"process {holder.pid} .* has been writing"):
            other.write([part("/x", [1])])
        assert len(other.nearest(vector(1), 3)) == 3
    finally:
        holder.kill()
        holder.communicate()
    other.write([part("/x", [1])])


@pytest.mark.skipif(sys.platform == "win32", reason="permissions differ")
def test_read_only_media_are_read(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a lock or a log beside the file, and nothing is written there."""
    database.close()
    monkeypatch.setattr(connecting, "_writable", lambda path: False)
    names = sorted(path.name for path in tmp_path.iterdir())
    reader = Database(database.path)
    assert reader.read_only
    assert len(reader.nearest(vector(1), 3)) == 3
    with pytest.raises(StoreError, match="cannot be"):
        reader.write([part("/x", [1])])
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_on_a_network_file_system_there_is_no_shared_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The journal is of the older kind, and that is told."""
    monkeypatch.setattr(connecting, "network_file_system", lambda path: "nfs4")
    database = Database(tmp_path / "index.sqlite", create=MODEL)
    database.write([part("/a", [1])])
    assert "network file system (nfs4)" in caplog.text
    assert not (tmp_path / "index.sqlite-shm").exists()
    assert len(database.nearest(vector(1), 3)) == 1


WRITER = """
import random, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_upkeep import MODEL, part
from harrier_edge.errors import StoreError
from harrier_edge.store.database import Database
from harrier_edge.store.upkeep import compact
chance = random.Random({seed})
database = Database(Path({path!r}), create=MODEL)
number, end = {start}, time.monotonic() + {seconds}
while time.monotonic() < end:
    try:
        database.write([part(f"/{{number}}", [number, number + 1])])
        print(number, flush=True)
        number += 1
        if chance.random() < 0.05:
            compact(database)
    except StoreError as error:
        assert "has been writing for more than" in str(error), error
"""
READER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_upkeep import vector
from harrier_edge.store.database import Database
from harrier_edge.store.words import parse
database = Database(Path({path!r}))
end = time.monotonic() + {seconds}
while time.monotonic() < end:
    assert database.counts().chunks % 2 == 0
    found = database.nearest(vector({seed}), 10)
    assert found == sorted(found, key=lambda one: (-one.score, one.chunk))
    assert len(database.passages([one.chunk for one in found])) == len(found)
    database.matching(parse("w10001"), 10)
    print(len(found), flush=True)
"""


def started(
    program: str, path: Path, seed: int, *, start: int = 0, seconds: float = 1e9
) -> subprocess.Popen[bytes]:
    """A writer, which tells what it has committed, or a reader, which tells what it has found."""
    tests = str(Path(__file__).parent)
    text = program.format(tests=tests, path=str(path), seed=seed, start=start, seconds=seconds)
    return subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize(
    ("seed", "kills"),
    [(0, 4), *(pytest.param(seed, 50, marks=pytest.mark.long) for seed in range(1, 5))],
)
def test_a_killed_writer_loses_nothing_that_it_told(tmp_path: Path, seed: int, kills: int) -> None:
    """At whatever moment: each acknowledged document is there, and the tables agree."""
    path = tmp_path / "index.sqlite"
    chance = random.Random(seed)
    told: set[int] = set()
    for kill in range(kills):
        process = started(WRITER, path, kill, start=max(told, default=-1) + 1)
        assert process.stdout
        told.add(int(process.stdout.readline()))
        time.sleep(chance.random() * 0.3)
        process.kill()
        told |= {int(line) for line in process.communicate()[0].split()}
        database = Database(path)
        stored = {int(row[0][1:]) for row in database.execute("SELECT path FROM documents")}
        assert told <= stored
        assert len(stored - told) <= kill + 1
        assert check(database) == []
        told |= stored
        database.close()


@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=pytest.mark.long)])
def test_many_write_and_many_read(tmp_path: Path, seconds: float) -> None:
    """Four writers and eight readers: no error but the polite refusal, no lost row."""
    path = tmp_path / "index.sqlite"
    Database(path, create=MODEL).close()
    starts = [10_000 * seed for seed in range(1, 5)]
    writers = [started(WRITER, path, s, start=s, seconds=seconds) for s in starts]
    readers = [started(READER, path, seed, seconds=seconds) for seed in range(8)]
    told = [process.communicate()[0].split() for process in (*writers, *readers)]
    assert [process.returncode for process in (*writers, *readers)] == [0] * 12
    assert all(told)
    database = Database(path)
    stored = {int(row[0][1:]) for row in database.execute("SELECT path FROM documents")}
    assert stored == {int(number) for numbers in told[:4] for number in numbers}
    assert check(database) == []


def test_a_check_sees_what_another_connection_removed(tmp_path: Path) -> None:
    """FTS5 would check words by a structure that it remembers, and call a sound index damaged."""
    path = tmp_path / "index.sqlite"
    one = Database(path, create=MODEL)
    other = Database(path)
    for count in (2, 1, 2, 2, 3, 3, 4, 6, 6, 6, 6, 6, 4):
        one.write([part("/0/0", [0] * count)])
    assert other.remove("/0", "/") == 1
    assert check(one) == []


def test_a_scan_knows_what_was_written_after_compacting(tmp_path: Path) -> None:
    """Also where all was removed in between, by as many changes as it has seen."""
    path = tmp_path / "index.sqlite"
    one = Database(path, create=MODEL)
    other = Database(path)
    one.write([part("/0/0", [1, 2])])
    assert len(other.nearest(vector(1), 9)) == 2
    one.remove("/0", "/")
    assert other.nearest(vector(1), 9) == []
    compact(one)
    for count in (1, 2, 3):
        one.write([part("/0/0", [5] * count)])
        assert [round(hit.score, 3) for hit in other.nearest(vector(5), 9)] == [1.0] * count


class Model(RuleBasedStateMachine):
    """The store beside a dictionary of what was written: equal answers, whatever is done."""

    documents: dict[str, tuple[list[int], str]]

    @initialize()
    def begin(self) -> None:
        """An empty index, open twice."""
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "index.sqlite"
        self.one = Database(path, create=MODEL)
        self.other = Database(path)
        self.documents = {}

    @rule(
        number=st.integers(0, 9),
        seeds=st.lists(st.integers(0, 60), max_size=6),
        collection=st.sampled_from(["", "work"]),
    )
    def write(self, number: int, seeds: list[int], collection: str) -> None:
        """Add or replace a document."""
        self.one.write([part(f"/{number % 3}/{number}", seeds, collection)])
        self.documents[f"/{number % 3}/{number}"] = (seeds, collection)

    @rule(folder=st.integers(0, 3))
    def remove(self, folder: int) -> None:
        """Forget a folder."""
        gone = [path for path in self.documents if path.startswith(f"/{folder}/")]
        assert self.other.remove(f"/{folder}", "/") == len(gone)
        for path in gone:
            del self.documents[path]

    @rule()
    def compact(self) -> None:
        """Give space back."""
        compact(self.one)

    @rule(seed=st.integers(0, 60), limit=st.integers(1, 9), work=st.booleans(), exact=st.booleans())
    def search(self, seed: int, limit: int, work: bool, exact: bool) -> None:
        """The nearest, and the chunks that hold a word, within a filter or none."""
        within = parse_filters(["collection=work"]) if work else None
        known = [
            (path, number, held)
            for path, (seeds, collection) in self.documents.items()
            for number, held in enumerate(seeds)
            if not work or collection == "work"
        ]
        wanted = sorted(
            (round(float(vector(seed) @ vector(h)), 4) for _, _, h in known), reverse=True
        )
        for database in (self.one, self.other):
            found = database.nearest(vector(seed), limit, within=within, exact=exact)
            assert [round(one.score, 4) for one in found] == pytest.approx(wanted[:limit], abs=2e-4)
            matching = database.matching(parse(f"w{seed}"), 99, within=within)
            passages = database.passages([one.chunk for one in matching])
            assert sorted((p.path, p.line - 1) for p in passages.values()) == sorted(
                (path, number) for path, number, held in known if held == seed
            )

    @invariant()
    def sound(self) -> None:
        """The tables agree."""
        if hasattr(self, "one"):
            assert check(self.one) == []
            assert self.other.counts().documents == len(self.documents)

    def teardown(self) -> None:
        """Close and remove."""
        if hasattr(self, "one"):
            self.one.close()
            self.other.close()
            self.folder.cleanup()


def machine(examples: int) -> Any:
    """The test case that runs some histories of fifty steps."""
    case = Model.TestCase
    case.settings = settings(
        max_examples=examples,
        stateful_step_count=50,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    return case


@pytest.mark.parametrize(
    "examples",
    [6, *(pytest.param(100, marks=pytest.mark.long, id=f"100-{run}") for run in range(1, 5))],
)
def test_whatever_is_done_the_answers_are_those_of_a_simple_model(examples: int) -> None:
    """Histories of writes, removals, compactions and searches; 20,000 steps in the long runs."""
    machine(examples)("runTest").debug()


def test_other_programs_can_read_along(database: Database) -> None:
    """The standard library's SQLite reads documents and text."""
    with sqlite3.connect(database.path) as connection:
        assert connection.execute("SELECT count(*) FROM chunks").fetchone() == (120,)
    connection.close()


def test_a_backup_ends_although_others_never_stop_writing(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is of one moment, so that what is committed meanwhile does not make it begin anew."""
    monkeypatch.setattr(upkeep, "PAGES", 1)
    writer = Database(database.path)
    ended = threading.Event()

    def write() -> int:
        for i in range(500):
            if ended.is_set():
                return i
            writer.write([part(f"/more {i}", [i])])
        return 500

    with ThreadPoolExecutor(1) as beside:
        writes = beside.submit(write)
        while writer.counts().documents < 45:
            time.sleep(0.001)
        backup(database, tmp_path / "copy.sqlite")
        ended.set()
        assert writes.result() < 500
    assert check(Database(tmp_path / "copy.sqlite")) == []


def test_a_backup_that_cannot_be_written_names_its_place(database: Database) -> None:
    """And not the index, which is sound."""
    for place in (database.path.parent / "none" / "b.sqlite", database.path / "b.sqlite"):
        with pytest.raises(StoreError, match=rf"^{place}.*: cannot be written"):
            backup(database, place)
