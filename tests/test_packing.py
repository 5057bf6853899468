"""Weights in the processor's own form, mapped from the cache."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from standins.mutations import rehash
from standins.packages import Exported

from harrier_edge import packing
from harrier_edge.doctor.caches import examine
from harrier_edge.embedder import Embedder
from harrier_edge.package import MODEL_DATA, QUERY, find_package, open_package
from harrier_edge.packing import packed_bytes, packed_folders, packed_graphs, remove_packed
from harrier_edge.places import cache_folder
from harrier_edge.session import LONG_TEXT_TOKENS

TEXTS = ["one", "two words", "three of them " * 30, "", "four"]


@pytest.fixture(autouse=True)
def small_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages of any size are packed."""
    monkeypatch.setattr(packing, "LEAST_WEIGHTS", 0)


def vectors(package: Path) -> npt.NDArray[np.float32]:
    """Queries and documents, by both graphs, one and several at a time."""
    embedder = Embedder(package, threads=2)
    queries = [embedder.encode_query(text) for text in TEXTS]
    return np.stack([*queries, *embedder.encode_query(TEXTS), *embedder.encode_document(TEXTS)])


def vector_by_layers(package: Path) -> npt.NDArray[np.float32]:
    """That of a text just too long for one pass."""
    return Embedder(package, threads=2)._session.run([[5] * (LONG_TEXT_TOKENS + 1)])


@pytest.mark.parametrize("precision", ["fp32", "int8", "int8-block", "int4"])
def test_packed_weights_give_the_bits_of_the_package(
    precision: str,
    tiny_gemma: Path,
    exported: Exported,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When they are made, and when they are found."""
    package = exported(tiny_gemma, precision)
    made, found = vectors(package), vectors(package)
    long = vector_by_layers(package)
    assert [each.package for each in packed_folders()] == [package.resolve()]
    packed = packed_graphs(open_package(package))
    assert packed
    assert all(packed.graph(path) for path in [package / QUERY, *open_package(package).layers])
    monkeypatch.setattr(packing, "LEAST_WEIGHTS", 10**9)
    assert packed_graphs(open_package(package)) is None
    plain = vectors(package)
    assert np.array_equal(made, plain)
    assert np.array_equal(found, plain)
    assert np.array_equal(long, vector_by_layers(package))


def test_one_file_of_weights_does_for_both_graphs_in_any_order(own_package: Path) -> None:
    """ONNX Runtime writes the weights of a graph in an order of its own."""
    before = vectors(own_package)
    graph = own_package / QUERY
    model = onnx.load(graph, load_external_data=False)
    model.graph.initializer.reverse()
    graph.write_bytes(model.SerializeToString())
    rehash(own_package, QUERY)
    packed = packed_graphs(open_package(own_package))
    assert packed
    assert packed.graph(graph)
    assert np.array_equal(vectors(own_package), before)


def test_another_weight_of_the_query_graph_is_not_mistaken(own_package: Path) -> None:
    """Then neither graph is packed, and each has its own."""
    graph = own_package / QUERY
    model = onnx.load(graph)
    weight = next(w for w in model.graph.initializer if w.name.endswith("q_proj.weight"))
    weight.raw_data = bytes(len(weight.raw_data))
    onnx.save(model, graph)
    rehash(own_package, QUERY)
    assert packed_graphs(open_package(own_package)) is None
    assert vectors(own_package).shape == (15, 64)


def test_the_table_is_mapped_from_the_package() -> None:
    """What is not multiplied is not written a second time: only what is, as it was and packed."""
    package = open_package(find_package("kestrel"))
    packed = packed_graphs(package)
    assert packed
    assert "embed_tokens.weight" in packed.tables
    weights = package.manifest.files[MODEL_DATA].size
    assert 0 < packed_bytes(package.folder) < weights / 2
    assert np.array_equal(vectors(package.folder), vectors(package.folder))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is mapped")
def test_a_table_in_parts_brings_little_more_than_its_rows() -> None:
    """No more than it says itself, by which a limit of memory counts, and nothing once forgotten.

    Each of the spread tokens would bring some 256 KB.
    """

    def mapped() -> int:
        status = Path("/proc/self/status").read_text("ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssFile"))

    packed = packed_graphs(open_package(find_package("kestrel")))
    assert packed
    table = packed.tables["embed_tokens.weight"].numpy()
    tokens = range(0, len(table), len(table) // 50)
    packed.forget()
    before = mapped()
    assert table[list(tokens)].any()
    assert packed.bytes_of([*tokens, *tokens]) <= 50 * len(packed.tables) * 2**16
    assert mapped() - before <= packed.bytes_of(tokens) + 2**18
    packed.forget()
    assert mapped() - before <= 2**18


@pytest.mark.parametrize("name", ["weights", "model.onnx", "packed.json"])
def test_what_was_written_to_is_packed_anew(name: str, own_package: Path) -> None:
    """Damage is not used, nor does it need a command to mend it."""
    before = vectors(own_package)
    (folder,) = (each.folder for each in packed_folders())
    (folder / name).write_bytes((folder / name).read_bytes()[:-100] + b"\1" * 100)
    assert np.array_equal(vectors(own_package), before)
    assert [each.is_needed for each in packed_folders()] == [True]


def test_an_incomplete_folder_is_packed_anew(own_package: Path) -> None:
    """A file that is gone is made again with the others."""
    before = vectors(own_package)
    (folder,) = (each.folder for each in packed_folders())
    (folder / "query.onnx").unlink()
    assert np.array_equal(vectors(own_package), before)
    assert (folder / "query.onnx").exists()


def test_a_cache_that_cannot_be_written_costs_memory_alone(
    tiny_package: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The package is loaded as it is."""
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("HARRIER_EDGE_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert packed_graphs(open_package(tiny_package)) is None
    assert vectors(tiny_package).shape == (15, 64)


def test_what_another_process_has_packed_stays(
    own_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be loading from it; whether it was faster by much or at the last moment."""
    package = open_package(own_package)
    assert packed_graphs(package)
    (folder,) = (each.folder for each in packed_folders())
    inode = (folder / "weights").stat().st_ino
    packing._pack(package, folder)
    assert (folder / "weights").stat().st_ino == inode

    def too_late(self: Path, target: Path) -> Path:
        os.rename(self, target)  # noqa: PTH104  what the other one does
        raise OSError(errno.ENOTEMPTY, "Directory not empty")

    shutil.rmtree(folder)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", too_late)
        packing._pack(package, folder)
    assert packed_graphs(package)
    assert [each.folder for each in packed_folders()] == [folder]


def test_nothing_in_the_working_folder_is_run(own_package: Path, planted: Path) -> None:
    """Whoever put a module there: it is packed with what is installed."""
    assert packed_graphs(open_package(own_package))
    assert not planted.exists()


def test_doctor_tells_what_nobody_needs(own_package: Path) -> None:
    """A package that is gone, or a packing that was cut short."""
    Embedder(own_package)
    assert [finding.state for finding in examine(None)] == ["ok"]
    (cache_folder() / "packed" / ".cut-short").mkdir()
    shutil.rmtree(own_package)
    cures = [finding.cure for finding in examine(None)]
    assert cures == [f"rm -r {each.folder}" for each in packed_folders()]
    assert len(cures) == 2


def test_packed_weights_go_with_their_package(own_package: Path, tiny_package: Path) -> None:
    """Those of others stay."""
    Embedder(own_package)
    Embedder(tiny_package)
    remove_packed(own_package)
    assert packed_bytes(own_package) == 0
    assert packed_bytes(tiny_package) > 0


SHARING = """
import json, sys
from harrier_edge import packing
from harrier_edge.embedder import Embedder
packing.LEAST_WEIGHTS = 0
embedder = Embedder(sys.argv[1])
embedder.encode_query("a query")
print(flush=True)
sys.stdin.readline()
size = {"Rss": 0, "Pss": 0}
is_weights = False
for line in open("/proc/self/smaps"):
    first, *rest = line.split()
    if "-" in first:
        is_weights = line.rstrip().endswith("/weights")
    elif is_weights and first.rstrip(":") in size:
        size[first.rstrip(":")] += int(rest[0]) * 1024
print(json.dumps(size))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/smaps")
def test_two_processes_share_the_pages_of_packed_weights(tmp_path: Path) -> None:
    """Each holds them, and each accounts for half of them."""
    packed_graphs(open_package(find_package("kestrel")))
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", SHARING, str(find_package("kestrel"))],
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in pair:
        assert process.stdout
        process.stdout.readline()  # both have loaded
    first, _ = pair[0].communicate("\n")
    pair[1].communicate("\n")
    size = json.loads(first)
    assert size["Rss"] > 2 * 10**6
    assert size["Pss"] < 0.6 * size["Rss"]
