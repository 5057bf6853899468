"""An index that follows its files."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from harrier_edge import Embedder, Index
from harrier_edge import updating as module
from harrier_edge.documents.read import read_bytes
from harrier_edge.errors import UsageError
from harrier_edge.store.sources import keep_outcome


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """A folder of twelve notes of three paragraphs that are chunks of their own."""
    folder = tmp_path / "notes"
    folder.mkdir()
    for i in range(12):
        write(folder / f"{i}.md", *(f"Note {i} part {k}." for k in range(3)))
    return folder


def write(path: Path, *paragraphs: str) -> None:
    """A file whose time of change is long past."""
    path.write_text("\n\n".join(f"{p} {'word ' * 20}" for p in paragraphs), "utf-8")
    os.utime(path, (1_700_000_000, 1_700_000_000 + random.random()))


@pytest.fixture
def index(tmp_path: Path, tiny_embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> Index:
    """A new index of the tiny model with small chunks."""
    monkeypatch.setattr(module, "CHUNK_TOKENS", 150)
    return Index.open(tmp_path / "index.sqlite", model=tiny_embedder)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are read, as they are."""
    seen: list[Path] = []
    read = read_bytes

    def noted(path: Path) -> bytes:
        seen.append(path)
        return read(path)

    monkeypatch.setattr(module, "read_bytes", noted)
    return seen


def test_nothing_changed_reads_and_writes_nothing(
    index: Index, notes: Path, reads: list[Path]
) -> None:
    """Size and time are enough."""
    assert index.add(notes).chunks == 36
    reads.clear()
    before = index._database._connection.total_changes()
    report = index.update()
    assert (report.unchanged, report.chunks, reads) == (12, 0, [])
    assert index._database._connection.total_changes() == before


def test_a_touched_file_is_read_once(index: Index, notes: Path, reads: list[Path]) -> None:
    """Its bytes are compared, and its new time is kept."""
    index.add(notes)
    os.utime(notes / "3.md", (1_600_000_000, 1_600_000_000))
    reads.clear()
    assert index.update().unchanged == 12
    assert index.update().unchanged == 12
    assert reads == [notes / "3.md"]


def test_a_file_written_just_now_is_compared_again(
    index: Index, notes: Path, reads: list[Path]
) -> None:
    """Two writes of as many bytes within a tick of the clock look the same."""
    write(notes / "3.md", "Falcons", "fly")
    now = time.time()
    os.utime(notes / "3.md", (now, now))
    index.add(notes)
    text = (notes / "3.md").read_text("utf-8").replace("Falcons", "Wombats")
    (notes / "3.md").write_text(text, "utf-8")
    os.utime(notes / "3.md", (now, now))
    assert index.update().changed == 1
    assert index.search("wombats", mode="text")


def test_only_new_chunks_are_embedded(index: Index, notes: Path) -> None:
    """A paragraph that is changed, a file that moves, a copy."""
    index.add(notes)
    write(notes / "3.md", "Note 3 part 0.", "Falcons.", "Note 3 part 2.")
    report = index.update()
    assert (report.changed, report.chunks, report.reused) == (1, 1, 2)
    (notes / "3.md").rename(notes / "moved.md")
    (notes / "copy.md").write_bytes((notes / "4.md").read_bytes())
    report = index.update()
    assert (report.added, report.removed, report.chunks, report.reused) == (2, 1, 0, 6)
    hit = index.search("falcons", mode="text")[0]
    assert hit.path == str(notes / "moved.md")
    (nearest,) = index._database.nearest(index.embedder.encode_document(hit.text), 1)
    assert (nearest.chunk, round(nearest.score, 5)) == (hit.id, 1)


def test_what_is_gone_or_ignored_is_forgotten(index: Index, notes: Path) -> None:
    """But not what another source holds, nor all of a folder that is not there."""
    (notes / "inner").mkdir()
    write(notes / "inner" / "a.md", "Inner.")
    index.add([notes, notes / "inner"])
    (notes / "0.md").unlink()
    (notes / ".harrierignore").write_text("1.md\ninner\n", "utf-8")
    report = index.update()
    assert (report.removed, index.status().documents) == (2, 11)
    notes.rename(notes.with_name("away"))
    report = index.update()
    assert len(report.failed) == 2 and report.removed == 0
    assert index.status().documents == 11


def test_an_index_does_not_hold_itself(tmp_path: Path, index: Index) -> None:
    """Nor the files that SQLite and writers keep beside it."""
    own = index.status().path
    write(own.parent / "note.md", "A note.")
    index.add(own.parent)
    assert index.update().added == 0
    assert not [
        path for path in index._database.documents_below(str(tmp_path), "/") if str(own) in path
    ]
    assert list(own.parent.glob(f"{own.name}-writer"))


def test_what_is_only_named_like_the_index_is_indexed(tmp_path: Path, index: Index) -> None:
    """A folder beside an index called "notes" may be called "notes-2026"."""
    own = index.status().path
    folder = own.with_name(f"{own.name}-2026")
    folder.mkdir()
    write(folder / "a.md", "A note.")
    write(own.with_name(f"{own.name}.md"), "Another.")
    assert index.add(own.parent).added == 2


def test_removed_sources_do_not_come_back(index: Index, notes: Path) -> None:
    """What was taken out stays out."""
    index.add(notes)
    assert index.remove(notes) == 12
    assert index.update().added == 0
    with pytest.raises(UsageError, match="is not indexed"):
        index.update(notes)
    with pytest.raises(UsageError, match="nothing to watch"):
        next(index.watch())


def test_a_source_keeps_its_settings(index: Index, notes: Path) -> None:
    """Whole documents and a collection, until told otherwise; what is known is not embedded."""
    index.add(notes, collection="mine", chunk="document")
    assert index.status().chunks == 12
    assert index.update().chunks == 0
    assert index.add(notes).chunks == 0
    (source,) = index.status().sources
    assert (source.collection, source.chunk) == ("mine", "document")
    report = index.add(notes, chunk="passages", collection="other")
    assert (report.changed, report.chunks, index.status().chunks) == (12, 36, 36)
    with pytest.raises(UsageError, match="chunk is 'pages'"):
        index.add(notes, chunk="pages")  # type: ignore[arg-type]


def test_headings_are_embedded_with_what_stands_below(index: Index, tmp_path: Path) -> None:
    """The vector is that of path and passage; the passage alone is shown."""
    path = tmp_path / "guide.md"
    first, second = ((f"{name} " + "word " * 20).rstrip() for name in ("One", "Two"))
    path.write_text(f"# Birds\n\n{first}\n\n{second}\n", "utf-8")
    index.add(path)
    vector = index.embedder.encode_document(f"Birds\n\n{second}")
    (nearest,) = index._database.nearest(vector, 1)
    assert round(nearest.score, 5) == 1
    assert index._database.passages([nearest.chunk])[nearest.chunk].text == second


def test_a_watched_folder_is_followed(index: Index, notes: Path) -> None:
    """What is written, renamed or deleted is soon found, until the watch is stopped."""
    index.add(notes)
    stop = threading.Event()
    reports = index.watch(stop=stop)
    assert next(reports).unchanged == 12
    write(notes / "new.md", "Falcon.")
    assert next(reports).added == 1
    (notes / "new.md").unlink()
    assert next(reports).removed == 1
    stop.set()
    assert list(reports) == []


def test_what_fails_while_reading_ahead_is_raised(
    index: Index, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug in the reading thread is not lost, and the thread ends."""

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(module, "read_document", broken)
    with pytest.raises(ZeroDivisionError):
        index.add(notes)
    assert not [t for t in threading.enumerate() if t.name == "reading"]


KILLS = 6


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_updates_lose_and_double_nothing(
    tmp_path: Path, tiny_package: Path, tiny_embedder: Embedder
) -> None:
    """At any moment of any run, over files that change between them."""
    chance = random.Random(1)
    folder = tmp_path / "notes"
    folder.mkdir()
    for i in range(300):
        write(folder / f"{i}.md", f"Note {i}.")
    path = tmp_path / "index.sqlite"
    command = [sys.executable, "-m", "harrier_edge", "add", "-q", "--db", str(path)]
    command += ["-m", str(tiny_package), str(folder)]
    committed = 0
    for kill in range(KILLS):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        time.sleep(chance.uniform(0.5, 2.0))
        process.kill()
        process.wait()
        if path.exists() and documents(path):
            assert check(path) >= committed or kill
            committed = check(path)
        for name in chance.sample(range(300), 5):
            write(folder / f"{name}.md", f"Note {name} after kill {kill}.")
    with Index.open(path, model=tiny_embedder) as index:
        index.add(folder)
        assert index.update().unchanged == 300
    assert check(path) == 300


def documents(path: Path) -> int:
    """How many there are, 0 where there is no table yet."""
    connection = sqlite3.connect(path)
    try:
        (count,) = connection.execute("SELECT count(*) FROM documents").fetchone()
        return int(count)
    except sqlite3.OperationalError:
        return 0
    finally:
        connection.close()


def check(path: Path) -> int:
    """The number of documents of an index whose tables agree with one another."""
    with Index.open(path) as index:
        assert index.check() == []
        return index.status().documents


def test_a_source_inside_of_another_keeps_its_collection(index: Index, notes: Path) -> None:
    """In whatever order they come, and when only what the outer one left out has changed."""
    inner = notes / "private"
    inner.mkdir()
    write(inner / "secret.md", "A secret.")

    def private() -> int:
        return len(index.search("secret", 50, filters="collection=private"))

    index.add(inner, collection="private")
    index.add(notes)
    assert private() == 1
    (notes / ".hidden").write_text("x", "utf-8")
    index.update()
    assert private() == 1
    index.add(notes, collection="all")
    assert private() == 1
    assert len(index.search("note", 50, filters="collection=all")) == 12
    index.add(inner, collection="mine")
    assert private() == 0


def test_a_source_that_is_removed_meanwhile_stays_removed(index: Index, notes: Path) -> None:
    """An update that is still running keeps what it left out, but not the source."""
    index.add(notes)
    (source,) = index.status().sources
    index.remove(notes)
    keep_outcome(index._database, source)
    assert index.status().sources == ()
