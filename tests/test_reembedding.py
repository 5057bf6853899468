"""Another model for an index."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from standins.packages import Exported

from harrier_edge import Embedder, Index
from harrier_edge.admission import identity
from harrier_edge.cli import main
from harrier_edge.errors import ModelMismatchError, StoreError, UsageError
from harrier_edge.store.exchange import Exchange


@pytest.fixture(scope="module")
def other(tiny_qwen: Path, exported: Exported) -> Embedder:
    """Another model."""
    return Embedder(exported(tiny_qwen, "fp32"))


@pytest.fixture
def path(tmp_path: Path, tiny_embedder: Embedder) -> Path:
    """An index of 150 notes."""
    (tmp_path / "notes").mkdir()
    for i in range(150):
        (tmp_path / "notes" / f"{i}.md").write_text(f"# Note {i}\n\nword{i} is here\n", "utf-8")
    with Index.open(tmp_path / "index.sqlite", model=tiny_embedder) as index:
        index.add(tmp_path / "notes")
    return tmp_path / "index.sqlite"


def same_answers(path: Path, embedder: Embedder, tmp_path: Path) -> bool:
    """Whether an index answers as one that was built by the model from the start."""
    with Index.open(tmp_path / "fresh.sqlite", model=embedder) as fresh:
        fresh.add(tmp_path / "notes")
        wanted = [[(h.path, h.score) for h in fresh.search(f"word{i}")] for i in (3, 77)]
    with Index.open(path, model=embedder) as index:
        assert index.check() == []
        return wanted == [[(h.path, h.score) for h in index.search(f"word{i}")] for i in (3, 77)]


def test_an_index_gets_another_model(path: Path, other: Embedder, tmp_path: Path) -> None:
    """It then answers as one that this model built; the old model is refused, and told the way."""
    with pytest.raises(ModelMismatchError, match=r"harrier-edge reembed --db .* -m "):
        Index.open(path, model=other)
    assert Index.reembed(path, other) == 150
    assert Index.reembed(path, other) == 0
    assert same_answers(path, other, tmp_path)


def test_an_interrupted_run_goes_on_while_the_old_model_serves(
    path: Path, other: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was embedded is not embedded again, and what comes meanwhile is not forgotten."""
    with Index.open(path) as old:
        before = old.search("word7")
        put = Exchange.put

        def once(self: Exchange, *args: Any) -> None:
            put(self, *args)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Exchange, "put", once)
            with pytest.raises(KeyboardInterrupt):
                Index.reembed(path, other)
        assert old.search("word7") == before
        (tmp_path / "notes" / "later.md").write_text("# Later\n\nquokka\n", "utf-8")
        old.add(tmp_path / "notes")
        old.remove(tmp_path / "notes" / "5.md")
        (tmp_path / "notes" / "5.md").unlink()
        assert Index.reembed(path, other) == 150 - 64
        with pytest.raises(ModelMismatchError, match="Open it again"):
            old.search("word7")
        (tmp_path / "notes" / "more.md").write_text("# More\n", "utf-8")
        with pytest.raises(ModelMismatchError, match="Open it again"):
            old.add(tmp_path / "notes")
        (tmp_path / "notes" / "more.md").unlink()
    assert same_answers(path, other, tmp_path)


def test_the_store_can_be_changed_alone(
    path: Path, tiny_embedder: Embedder, capsys: pytest.CaptureFixture[str]
) -> None:
    """To a quarter of the bytes and nearly the same scores."""
    with Index.open(path) as index:
        before = index.search("word9", 20, mode="vector")
    command = ["reembed", "-q", "--db", str(path), "-m", str(tiny_embedder.package)]
    assert main([*command, "--store", "int8"]) == 0
    assert "150 chunks" in capsys.readouterr().out
    with Index.open(path) as index:
        assert index.status().model.store == "int8"
        after = index.search("word9", 20, mode="vector")
        scores = [hit.score for hit in before]
        assert [hit.score for hit in after] == pytest.approx(scores, abs=0.01)
    with pytest.raises(UsageError, match="store is 'int4'"):
        Index.reembed(path, tiny_embedder, store="int4")
    assert main(["reembed", "--db", str(path)]) == 2


def test_a_chunk_that_gets_the_id_of_a_deleted_one_is_embedded(
    path: Path, other: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite gives the highest ids again: what was embedded for the old chunk is not the new's."""

    def interrupted(self: Exchange) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Exchange, "finish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Index.reembed(path, other)
    with Index.open(path) as old:
        last = max(old.search("word", 200, mode="vector"), key=lambda hit: hit.id)
        note = Path(last.path)
        note.write_text("# Another\n\nquokkas everywhere\n", "utf-8")
        old.add(note)
        assert {hit.id for hit in old.search("quokkas", 1, mode="text")} == {last.id}
    assert Index.reembed(path, other) == 1
    assert same_answers(path, other, tmp_path)


def test_what_changes_while_it_is_embedded_is_embedded_again(path: Path, other: Embedder) -> None:
    """A vector is stored only for the text that it was made of."""
    with Index.open(path) as index:
        database = index._database
        exchange = Exchange(database, identity(other))
        exchange.begin()
        texts = exchange.missing(200)
        note = Path(max(index.search("word", 200, mode="vector"), key=lambda hit: hit.id).path)
        note.write_text("# Another\n\nquokkas everywhere\n", "utf-8")
        index.add(note)
        exchange.put(texts, np.full((150, other.dimension), 0.125, np.float32))
        (left,) = exchange.missing(200)
        assert "quokkas" in left.text
        assert exchange.progress() == (149, 150)


def test_of_two_runs_at_once_the_later_one_ends_the_other(path: Path, other: Embedder) -> None:
    """No vector of the one gets among those of the other."""
    with Index.open(path) as index, Index.open(path) as second:
        wanted = identity(other)
        one = Exchange(index._database, wanted)
        one.begin()
        texts = one.missing(10)
        two = Exchange(second._database, replace(wanted, store="int8"))
        two.begin()
        vectors = np.full((10, other.dimension), 0.125, np.float32)
        steps = (lambda: one.put(texts, vectors), one.finish, one.progress, lambda: one.missing(1))
        for step in steps:
            with pytest.raises(StoreError, match="another process has given it a model"):
                step()
        assert two.progress() == (0, 150)
        two.put(two.missing(150), np.full((150, other.dimension), 0.125, np.float32))
        assert two.finish()
        with pytest.raises(StoreError, match="another process has given it a model"):
            one.missing(1)


def test_an_open_index_says_that_its_vectors_are_stored_otherwise_now(
    path: Path, tiny_embedder: Embedder, tmp_path: Path
) -> None:
    """Where it looks for a vector by its text, too."""
    with Index.open(path) as old:
        Index.reembed(path, tiny_embedder, store="int8")
        (tmp_path / "notes" / "3.md").write_text("# Note 3\n\nword3 was here\n", "utf-8")
        with pytest.raises(ModelMismatchError, match="Open it again"):
            old.update()
