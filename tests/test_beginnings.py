"""What queries begin with, computed once: the same vectors, in this process and in the next."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from real_queries import real_queries, scripts

from harrier_edge import packing
from harrier_edge.beginnings import KEPT, Beginnings
from harrier_edge.embedder import Embedder
from harrier_edge.packing import packed_bytes, packed_folders, remove_packed
from harrier_export.parity import row_cosines

BEGINNING, SHAPE = (2, 7, 9), (4, 1, 1, 3, 8)


@pytest.fixture
def past() -> npt.NDArray[np.float32]:
    """Some keys and values."""
    return np.random.default_rng(0).standard_normal(SHAPE, np.float32)


def test_a_new_process_finds_what_was_kept(past: npt.NDArray[np.float32], tmp_path: Path) -> None:
    """Bit by bit; another beginning, or another shape, is not found."""
    Beginnings(tmp_path).keep(BEGINNING, past)
    fresh = Beginnings(tmp_path)
    found = fresh.find(BEGINNING, SHAPE)
    assert found is not None
    assert np.array_equal(found, past)
    assert fresh.find((2, 7), SHAPE) is None
    assert Beginnings(tmp_path).find(BEGINNING, (4, 1, 1, 3, 9)) is None


@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_a_damaged_file_is_not_used(
    damage: bytes | None, past: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    """Empty, cut short or with one bit turned; it is written anew."""
    Beginnings(tmp_path).keep(BEGINNING, past)
    (file,) = tmp_path.iterdir()
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]) if damage is None else damage)
    assert Beginnings(tmp_path).find(BEGINNING, SHAPE) is None
    Beginnings(tmp_path).keep(BEGINNING, past)
    assert Beginnings(tmp_path).find(BEGINNING, SHAPE) is not None


def test_files_are_kept_in_bounds(past: npt.NDArray[np.float32], tmp_path: Path) -> None:
    """The newest stay; nothing else lies there."""
    kept = Beginnings(tmp_path)
    for token in range(KEPT + 5):
        kept.keep((2, token), past)
    assert len(list(tmp_path.iterdir())) == KEPT


def test_a_folder_that_is_gone_costs_nothing_but_time(
    past: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    """The memory of the process has it all the same."""
    kept = Beginnings(tmp_path / "gone")
    kept.keep(BEGINNING, past)
    assert kept.find(BEGINNING, SHAPE) is past


def test_the_instruction_lies_with_the_packed_weights(
    own_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another load gives the same bits by it; its size is told with theirs, and it goes too."""
    monkeypatch.setattr(packing, "LEAST_WEIGHTS", 0)
    first = Embedder(own_package)
    before = packed_bytes(own_package)
    wanted = first.encode_query("an owl", prompt="Query: ")
    (folder,) = (each.folder for each in packed_folders())
    (file,) = folder.glob("*.past")
    assert packed_bytes(own_package) > before
    written = file.stat().st_mtime_ns
    assert np.array_equal(Embedder(own_package).encode_query("an owl", prompt="Query: "), wanted)
    assert file.stat().st_mtime_ns == written  # read, not made again
    remove_packed(own_package)
    assert not file.exists()


def test_two_thousand_queries_are_the_same_with_the_instruction_kept() -> None:
    """In twelve scripts and more: the token ids of all, and the vectors."""
    embedder = Embedder("kestrel", threads=1)
    asked = real_queries(2000)
    assert len(scripts(asked)) >= 12
    (prompt,) = {embedder.prompts["web_search_query"]}
    beginning = embedder._tokenizer.beginning(prompt)
    assert len(beginning) > 5
    ids = [text.ids for text in embedder.tokenize(asked, prompt=prompt)]
    plain = embedder._tokenizer._reference.encode_batch([prompt + query for query in asked])
    assert [beginning + one[len(beginning) :] for one in ids] == [one.ids for one in plain]
    kept = [embedder._session.run_after(beginning, one) for one in ids]
    rows = [row for row, vector in enumerate(kept) if vector is not None]
    assert len(rows) >= 1900
    cached = np.concatenate([vector for vector in kept if vector is not None])
    whole = np.concatenate([embedder._session.run([ids[row]]) for row in rows])
    assert float(row_cosines(cached, whole).min()) >= 0.99999
