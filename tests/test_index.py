"""Documents in, passages out."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from standins.packages import Exported

from harrier_edge import Embedder, Index
from harrier_edge import updating as module
from harrier_edge.cli import main
from harrier_edge.documents.chunk import split
from harrier_edge.errors import DocumentError, ModelMismatchError, StoreError, UsageError
from harrier_edge.store import connection as connection_module
from harrier_edge.vectors import STORES

Contents = list[tuple[Any, ...]]


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """A folder of thirty notes of one to three paragraphs."""
    folder = tmp_path / "notes"
    for i in range(30):
        (folder / f"topic-{i % 3}").mkdir(parents=True, exist_ok=True)
        text = "\n\n".join(f"Paragraph {k} of note {i}, {'word ' * 20}" for k in range(i % 3 + 1))
        (folder / f"topic-{i % 3}" / f"{i}.md").write_text(f"# Note {i}\n\n{text}\n", "utf-8")
    return folder


@pytest.fixture
def index(tmp_path: Path, tiny_embedder: Embedder) -> Index:
    """A new index of the tiny model."""
    return Index.open(tmp_path / "index.sqlite", model=tiny_embedder)


def contents(path: Path) -> Contents:
    """All that an index holds but its row numbers, in a fixed order."""
    with sqlite3.connect(path) as connection:
        found: Contents = connection.execute(
            """
            SELECT path, title, sha256, complete, number, line, end_line, text
            FROM documents LEFT JOIN chunks ON document = documents.id ORDER BY path, number
            """
        ).fetchall()
    connection.close()
    return found


def test_a_folder_is_indexed_and_a_passage_is_found(index: Index, notes: Path) -> None:
    """A passage's own words lead to it first, by meaning and by word, with its place."""
    report = index.add(notes)
    assert (report.added, report.changed, report.unchanged) == (30, 0, 0)
    assert report.chunks == index.status().chunks >= 30
    assert report.tokens > 30 * 20
    text = (notes / "topic-1" / "7.md").read_text("utf-8").strip()
    for mode in ("vector", "text", "hybrid"):
        hit = index.search(text, 3, mode=mode, prompt="")[0]
        assert hit.path == str(notes / "topic-1" / "7.md")
        assert (hit.title, hit.line, hit.text) == ("Note 7", 1, text)
        assert hit.snippet.splitlines()[0] in text
    assert index.search(text, 1, mode="vector", prompt="")[0].score == pytest.approx(1, abs=1e-5)


def test_only_what_has_changed_is_embedded_again(index: Index, notes: Path) -> None:
    """A touched file is unchanged; a rewritten one is replaced."""
    index.add(notes)
    os.utime(notes / "topic-0" / "0.md")
    (notes / "topic-1" / "1.md").write_text("# Rewritten\n\nquokka\n", "utf-8")
    (notes / "new.txt").write_text("wombat", "utf-8")
    report = index.add([notes])
    assert (report.added, report.changed, report.unchanged, report.chunks) == (1, 1, 29, 2)
    assert index.search("quokka", mode="text")[0].title == "Rewritten"
    assert index.search("wombat", mode="text")[0].title == "new"
    assert not any(hit.title == "Note 1" for hit in index.search("note 1", 50, mode="text"))


@pytest.mark.parametrize("store", STORES)
def test_an_empty_file_is_a_document_without_passages(
    tmp_path: Path, tiny_embedder: Embedder, store: str
) -> None:
    """It is not an error, however vectors are stored, and not read as new each time."""
    index = Index.open(tmp_path / "index.sqlite", model=tiny_embedder, store=store)
    (tmp_path / "empty.md").write_text(" \n\n", "utf-8")
    assert index.add(tmp_path / "empty.md").added == 1
    assert index.add(tmp_path / "empty.md").unchanged == 1
    assert index.status().chunks == 0
    assert index.search("anything") == []


def test_what_cannot_be_read_is_told_and_costs_nothing(index: Index, notes: Path) -> None:
    """A file that is not text any more is reported, and keeps what was stored of it."""
    index.add(notes)
    (notes / "topic-0" / "0.md").write_bytes(b"\x89PNG\0\0")
    report = index.add(notes)
    assert [f.path for f in report.failed] == [str(notes / "topic-0" / "0.md")]
    assert "not text" in report.failed[0].reason
    assert report.unchanged == 29
    assert index.search("note 0", mode="text")[0].title == "Note 0"
    (source,) = index.status().sources
    assert source.failed == {f.path: f.reason for f in report.failed}


def test_a_name_that_begins_like_a_home_is_a_name(
    index: Index, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As office programs call what they have open."""
    (notes / "~$open.md").write_text("quokka", "utf-8")
    monkeypatch.chdir(notes)
    assert index.add("~$open.md").added == 1


def test_a_missing_path_is_refused_before_anything_is_done(index: Index, notes: Path) -> None:
    """One wrong path among right ones indexes nothing."""
    with pytest.raises(DocumentError, match="no such file"):
        index.add([notes, notes / "nowhere"])
    assert index.status().documents == 0


@pytest.mark.parametrize("batches", range(12))
def test_an_interrupted_run_goes_on_and_stores_nothing_twice(
    notes: Path,
    tmp_path: Path,
    tiny_embedder: Embedder,
    monkeypatch: pytest.MonkeyPatch,
    batches: int,
) -> None:
    """Whatever batch Ctrl-C falls into, what was committed stays and a rerun ends the work."""
    monkeypatch.setattr(module, "BATCH_CHUNKS", 4)
    monkeypatch.setattr(module, "CHUNK_TOKENS", 150)
    whole = Index.open(tmp_path / "whole.sqlite", model=tiny_embedder)
    whole.add(notes)
    everything = whole.status().chunks
    index = Index.open(tmp_path / "index.sqlite", model=tiny_embedder)
    done = 0
    embed = Embedder.embed

    def interrupted(self: Embedder, *args: Any, **options: Any) -> Any:
        nonlocal done
        if done == batches:
            raise KeyboardInterrupt
        done += 1
        return embed(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Embedder, "embed", interrupted)
        with pytest.raises(KeyboardInterrupt):
            index.add(notes)
    kept = index.status().chunks
    assert kept >= batches * 4
    report = index.add(notes)
    assert report.chunks + report.reused == everything - kept
    assert contents(tmp_path / "index.sqlite") == contents(tmp_path / "whole.sqlite")


@pytest.fixture
def begun(
    tmp_path: Path, tiny_embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> tuple[Index, Path]:
    """An index, and a document that was interrupted once its first four chunks were stored."""
    monkeypatch.setattr(module, "BATCH_CHUNKS", 4)
    book = tmp_path / "book.txt"
    book.write_text("\n\n".join(f"Chapter {i}. {'word ' * 400}" for i in range(9)), "utf-8")
    index = Index.open(tmp_path / "index.sqlite", model=tiny_embedder)
    write = index._database.write

    def once(parts: Any) -> None:
        write(parts)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(index._database, "write", once)
        with pytest.raises(KeyboardInterrupt):
            index.add(book)
    status = index.status()
    assert (status.incomplete, status.chunks) == (1, 4)
    return index, book


def test_a_long_document_goes_on_where_it_was_cut_off(
    begun: tuple[Index, Path], tmp_path: Path
) -> None:
    """Chunks that are stored are not embedded again, unless the file has changed meanwhile."""
    index, book = begun
    total = len(contents(tmp_path / "index.sqlite"))
    assert total == 4
    report = index.add(book)
    assert index.status().incomplete == 0
    assert report.chunks + report.reused == index.status().chunks - 4
    numbers = [row[4] for row in contents(tmp_path / "index.sqlite")]
    assert numbers == list(range(len(numbers)))


@pytest.mark.parametrize("factor", [1.5, 20])
def test_a_document_that_is_cut_otherwise_by_now_begins_anew(
    begun: tuple[Index, Path],
    tmp_path: Path,
    tiny_embedder: Embedder,
    monkeypatch: pytest.MonkeyPatch,
    factor: float,
) -> None:
    """Into more or fewer chunks than are stored of it: nothing of its text is left out."""
    index, book = begun

    def other(document: Any, size: int, *rest: Any, **options: Any) -> Any:
        return split(document, int(size * factor), *rest, **options)

    monkeypatch.setattr(module, "split", other)
    index.add(book)
    with Index.open(tmp_path / "whole.sqlite", model=tiny_embedder) as whole:
        whole.add(book)
    assert contents(tmp_path / "index.sqlite") == contents(tmp_path / "whole.sqlite")
    assert index.status().incomplete == 0


# A shell that starts the tests in the background has them, and what they start, ignore Ctrl-C.
COMMAND = """
import signal, sys
from harrier_edge.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main())
"""
ADD = [sys.executable, "-c", COMMAND, "add", "-q"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize(("ending", "code"), [("SIGKILL", -9), ("SIGINT", 130)])
def test_a_run_that_is_ended_loses_nothing(
    ending: str, code: int, tmp_path: Path, tiny_package: Path
) -> None:
    """After kill -9 or Ctrl-C the index is sound, and a rerun completes it."""
    folder = tmp_path / "notes"
    folder.mkdir()
    for i in range(1500):
        (folder / f"{i}.txt").write_text(f"note {i}" + " the" * 20, "utf-8")
    path = tmp_path / "index.sqlite"
    command = [*ADD, "--db", str(path), "-m", str(tiny_package), str(folder)]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    kept = 0
    while kept < 100 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
        kept = _documents(path)
    process.send_signal(getattr(signal, ending))
    _, said = process.communicate()
    assert process.returncode == code, "it ended before it was asked to"
    assert "Traceback" not in said
    assert ("what was committed is kept" in said) == (ending == "SIGINT")
    with Index.open(path, model=tiny_package) as index:
        before = index.status()
        assert before.documents >= kept >= 100
        report = index.add(folder)
        assert report.unchanged == before.documents - before.incomplete
        assert (report.added + report.changed + report.unchanged) == 1500
        assert index.status().documents == index.status().chunks == 1500


def _documents(path: Path) -> int:
    try:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        try:
            count: int = connection.execute("SELECT count(*) FROM documents").fetchone()[0]
            return count
        finally:
            connection.close()
    except sqlite3.Error:
        return 0


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path, tiny_package: Path) -> None:
    """Where no more can be written, what was committed stays and a rerun ends the work."""
    folder = tmp_path / "notes"
    folder.mkdir()
    for i in range(400):
        (folder / f"{i}.txt").write_text(f"note {i}" + " the" * 200, "utf-8")
    path = tmp_path / "index.sqlite"
    command = [*ADD, "--db", str(path), "-m", str(tiny_package), str(folder)]
    limited = f"ulimit -f 1000; exec {shlex.join(command)}"  # blocks of 512 or 1,024 bytes
    run = subprocess.run(["bash", "-c", limited], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 1, run.stderr
    assert "Free space on the disk" in run.stderr
    with Index.open(path, model=tiny_package) as index:
        before = index.status()
        assert 0 < before.documents < 400
        report = index.add(folder)
        assert report.unchanged == before.documents - before.incomplete
        assert index.status().documents == 400
        assert index.status().incomplete == 0


@pytest.fixture(scope="module")
def other_package(tiny_qwen: Path, exported: Exported) -> Path:
    """A package of another model, of the same dimension."""
    return exported(tiny_qwen, "fp32")


def test_another_model_is_refused(
    index: Index,
    notes: Path,
    other_package: Path,
    tiny_gemma: Path,
    exported: Exported,
) -> None:
    """Vectors of two models, or of two precisions, never meet in one index."""
    index.add(notes)
    path = index.status().path
    with pytest.raises(ModelMismatchError, match=r"built by tiny-gemma in fp32 .*not by tiny-qwen"):
        Index.open(path, model=other_package)
    with pytest.raises(ModelMismatchError, match="precision int8"):
        Index.open(path, model=exported(tiny_gemma, "int8"))
    assert index.status().documents == 30


def measured(package: Path, cosine: float) -> Path:
    """The package, which is changed, with that mean cosine in its manifest."""
    manifest = package / "manifest.toml"
    parity = f'reference = "r"\ntexts = 9\nmean_cosine = {cosine}\nmin_cosine = 0.9'
    manifest.write_text(f"{manifest.read_text('utf-8')}\n[parity]\n{parity}\n", "utf-8")
    return package


def test_a_faithful_package_in_another_precision_may_query(
    own_package: Path,
    tiny_gemma: Path,
    exported: Exported,
    notes: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And that is said; it may not add, and one that is less faithful may do neither."""
    path = tmp_path / "index.sqlite"
    int8 = exported(tiny_gemma, "int8")
    with Index.open(path, model=measured(own_package, 1.0)) as index:
        index.add(notes)
        wanted = [hit.path for hit in index.search("note 7", 5)]
    with pytest.raises(ModelMismatchError, match="precision int8"):
        Index.open(path, model=int8)
    faithful = measured(Path(shutil.copytree(int8, tmp_path / "faithful")), 0.9981)
    with Index.open(path, model=faithful) as index:
        assert "built in fp32; queries are embedded in int8" in caplog.text
        assert "1.0000, 0.9981" in caplog.text
        assert set(wanted) & {hit.path for hit in index.search("note 7", 5)}
        with pytest.raises(ModelMismatchError, match="harrier-edge reembed"):
            index.add(notes)
        with pytest.raises(ModelMismatchError, match="harrier-edge reembed"):
            index.update()
    with Index.open(path) as index:
        assert index.status().model.package == str(own_package)
    with pytest.raises(ModelMismatchError, match="precision int8"):
        Index.open(path, model=measured(Path(shutil.copytree(int8, tmp_path / "int8")), 0.9979))


def test_how_vectors_are_stored_is_chosen_once(own_package: Path, tmp_path: Path) -> None:
    """`add --store` makes the index so; another choice later is told the way."""
    path = tmp_path / "index.sqlite"
    (tmp_path / "a.md").write_text("a falcon", "utf-8")
    add = ["add", "--db", str(path), "-m", str(own_package), str(tmp_path / "a.md")]
    assert main([*add, "--store", "int8"]) == 0
    assert main(add) == 0
    with Index.open(path) as index:
        assert index.status().model.store == "int8"
    with pytest.raises(UsageError, match=r"as int8, not as float16.*reembed .* --store float16"):
        Index.open(path, store="float16")


def test_a_package_that_was_exchanged_is_refused_at_its_first_use(
    own_package: Path, other_package: Path, tmp_path: Path
) -> None:
    """The stored folder is trusted no more than one that is given."""
    path = tmp_path / "index.sqlite"
    Index.open(path, model=own_package).close()
    own_package.rename(tmp_path / "moved")
    own_package.symlink_to(other_package, target_is_directory=True)
    with Index.open(path) as index, pytest.raises(ModelMismatchError, match="tiny-qwen"):
        index.search("a")


def test_an_index_knows_its_model_and_where_it_moved(
    own_package: Path, notes: Path, tmp_path: Path
) -> None:
    """No model need be named again, and a package may move."""
    path = tmp_path / "index.sqlite"
    with Index.open(path, model=own_package) as index:
        index.add(notes)
    moved = own_package.rename(tmp_path / "moved")
    Index.open(path, model=moved).close()
    with Index.open(path) as index:
        assert index.status().model.package == str(moved)
        assert len(index.search("note", 5)) == 5


@pytest.mark.parametrize("begun", [False, True])
def test_what_a_killed_command_left_empty_becomes_an_index(tmp_path: Path, begun: bool) -> None:
    """Of no bytes or of no table, for the default model as if there were no file."""
    path = tmp_path / "index.sqlite"
    path.touch()
    if begun:
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
        connection.close()
        assert path.stat().st_size > 0
    with Index.open(path) as index:
        assert index.status().model.name == "kestrel"


def test_an_index_that_cannot_be_written_is_opened_with_its_package_elsewhere(
    own_package: Path, notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it was is only noted where it can be."""
    path = tmp_path / "index.sqlite"
    with Index.open(path, model=own_package) as index:
        index.add(notes)
    moved = own_package.rename(tmp_path / "moved")
    monkeypatch.setattr(connection_module, "_writable", lambda path: False)
    with Index.open(path, model=moved) as index:
        assert len(index.search("note", 5)) == 5


def test_an_index_is_not_made_by_reading(tmp_path: Path) -> None:
    """Where there is none and none is to be made, no file is left behind."""
    with pytest.raises(StoreError, match="no such index"):
        Index.open(tmp_path / "index.sqlite", create=False)
    assert not (tmp_path / "index.sqlite").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k is 0"),
        ({"mode": "fuzzy"}, "mode is 'fuzzy'"),
        ({"prompt_name": "nope"}, "'nope' is unknown"),
    ],
)
def test_wrong_arguments_are_named(index: Index, options: dict[str, Any], message: str) -> None:
    """Each error names the value that was given."""
    with pytest.raises(UsageError, match=message):
        index.search("a", **options)


def test_the_least_score_and_the_number_of_hits_hold(index: Index, notes: Path) -> None:
    """Scores fall from hit to hit, and none is below the least that was asked for."""
    index.add(notes)
    for mode in ("vector", "text", "hybrid"):
        hits = index.search("note 4 paragraph", 12, mode=mode)
        scores = [hit.score for hit in hits]
        assert len(hits) == len({hit.id for hit in hits}) == 12
        assert scores == sorted(scores, reverse=True)
        assert all(0 <= score <= 1 for score in scores)
        kept = index.search("note 4 paragraph", 12, mode=mode, min_score=scores[5])
        assert [hit.id for hit in kept] == [hit.id for hit in hits if hit.score >= scores[5]]


@pytest.mark.parametrize(
    "query", ["", "  ", "\0", "\ud800", '"', "a AND NOT (b", "*", "naïve 日本"]
)
def test_any_string_is_a_query(index: Index, notes: Path, query: str) -> None:
    """No query is an error; without a word it is ranked by meaning alone."""
    index.add(notes)
    assert len(index.search(query, 5)) == 5
    assert len(index.search(query, 5, mode="text")) <= 5


def test_a_query_gets_the_instruction_unless_told(index: Index, notes: Path) -> None:
    """The default is the model's own instruction for queries."""
    index.add(notes)
    instruction = index.embedder.prompts["web_search_query"]
    default = index.search("note", mode="vector")
    assert default == index.search("note", mode="vector", prompt=instruction)
    assert default != index.search("note", mode="vector", prompt="")
    by_task = index.search("note", mode="vector", task="Retrieve semantically similar text")
    assert by_task == index.search("note", mode="vector", prompt_name="sts_query")


def test_removed_documents_are_gone(index: Index, notes: Path) -> None:
    """A folder takes its files with it; the files themselves stay."""
    index.add(notes)
    assert index.remove(notes / "topic-0") == 10
    assert index.remove([notes / "topic-1" / "1.md", notes / "nowhere"]) == 1
    assert index.status().documents == 19
    assert (notes / "topic-0" / "0.md").exists()


def test_threads_may_share_an_index(index: Index, notes: Path) -> None:
    """Searches while documents are added give sound answers."""
    index.add(notes / "topic-0")
    alone = index.search("note 3", mode="text")
    with ThreadPoolExecutor(4) as pool:
        adding = pool.submit(index.add, notes)
        found = [pool.submit(index.search, "note 3") for _ in range(20)]
        assert adding.result().added == 20
    assert all(len(hits.result()) == 10 for hits in found)
    assert index.search("note 3", 1, mode="text")[0].path == alone[0].path


def test_progress_is_told_in_bytes(index: Index, notes: Path) -> None:
    """It begins at none and ends at all."""
    seen: list[tuple[str, int, int]] = []
    index.add(notes, on_progress=lambda *args: seen.append(args))
    size = sum(path.stat().st_size for path in notes.rglob("*.md"))
    assert (seen[0], seen[-1]) == (("index", 0, size), ("index", size, size))
