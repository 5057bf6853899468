"""Graphs of unknown origin, checked before ONNX Runtime sees them."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import helper
from standins.mutations import mutate, rehash

from harrier_edge.archive import install
from harrier_edge.errors import ModelError, PackageError
from harrier_edge.graphs import check_graph, with_entries, with_narrower_windows
from harrier_edge.package import open_package, pulled_packages


def sizes(package: Path) -> dict[str, int]:
    """Files of a package and their sizes."""
    return {path.name: path.stat().st_size for path in package.iterdir()}


def test_what_the_exporter_writes_passes(tiny_package: Path) -> None:
    """No false alarm."""
    graphs = sorted(tiny_package.glob("*.onnx"))
    assert len(graphs) == 2 + 7  # the tiny Gemma has seven layers
    for path in graphs:
        check_graph(path, sizes(tiny_package))


def external(model: onnx.ModelProto) -> onnx.TensorProto:
    """The first tensor that is in another file."""
    tensors: list[onnx.TensorProto] = list(model.graph.initializer)
    return next(tensor for tensor in tensors if tensor.external_data)


def located(key: str, value: str) -> Callable[[onnx.ModelProto], None]:
    """A change of one entry of where a tensor is."""

    def change(model: onnx.ModelProto) -> None:
        (entry,) = (e for e in external(model).external_data if e.key == key)
        entry.value = value

    return change


def windows(graph: onnx.GraphProto) -> list[int]:
    """The sliding windows of a graph and its branches, in order; they are set to 0."""
    found = []
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == "local_window_size":
                found.append(attribute.i)
                attribute.i = 0
            found += windows(attribute.g)
    return found


def test_windows_become_narrower_and_nothing_else_changes(tiny_package: Path) -> None:
    """Also in branches; where there is none, it stays so. As the onnx package reads it."""
    graphs = sorted(tiny_package.glob("*.onnx"))
    seen = set()
    for path in graphs:
        before = onnx.load(path, load_external_data=False)
        after = onnx.ModelProto.FromString(with_narrower_windows(path))
        wanted = [size - 1 if size > 0 else size for size in windows(before.graph)]
        assert windows(after.graph) == wanted
        assert after == before
        seen |= set(wanted)
    assert seen == {-1, 15}


def test_entries_are_replaced_and_nothing_else(tiny_package: Path) -> None:
    """By the name of the tensor; as the onnx package reads it."""
    path = tiny_package / "model.onnx"
    before = onnx.load(path, load_external_data=False)
    name = external(before).name
    moved = {"location": "weights", "offset": "0" * 200}
    after = onnx.ModelProto.FromString(with_entries(path, {name: moved}))
    assert {e.key: e.value for e in external(after).external_data} == moved
    assert external(after).name == name
    for model in (before, after):
        del external(model).external_data[:]
    assert after == before


def branch(tensor: onnx.TensorProto) -> onnx.NodeProto:
    """An If whose branch holds a tensor."""
    inner = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [], [], [tensor])
    return helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)


def outside() -> onnx.TensorProto:
    """A tensor in /etc/passwd."""
    tensor = onnx.TensorProto(name="x", dims=[8], data_type=3, data_location="EXTERNAL")
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def nested(depth: int) -> onnx.NodeProto:
    """An If in an If, and so on."""
    node = helper.make_node("Identity", ["x"], ["y"])
    for _ in range(depth):
        graph = helper.make_graph([node], "g", [], [])
        node = helper.make_node("If", ["c"], ["y"], then_branch=graph, else_branch=graph)
    return node


HOSTILE: dict[str, tuple[Callable[[onnx.ModelProto], object], str]] = {
    "upward": (located("location", "../model.onnx_data"), "manifest lists"),
    "absolute": (located("location", "/etc/passwd"), "manifest lists"),
    "not listed": (located("location", "other"), "manifest lists"),
    "no place": (located("location", ""), "manifest lists"),
    "past the end": (located("offset", "9999999999"), "which has"),
    "too long": (located("length", "9999999999"), "which has"),
    "negative": (located("offset", "-4096"), "lies at"),
    "not a number": (located("offset", "１"), "lies at"),
    "in a branch": (lambda m: m.graph.node.append(branch(outside())), "manifest lists"),
    "in a constant": (
        lambda m: m.graph.node.append(helper.make_node("Constant", [], ["z"], value=outside())),
        "manifest lists",
    ),
    "too many elements": (lambda m: external(m).dims.extend([2**40]), "elements in"),
    "a foreign operator": (
        lambda m: m.graph.node.append(helper.make_node("Run", [], ["z"], domain="evil")),
        "'Run' of 'evil'",
    ),
    "a function": (
        lambda m: m.functions.append(
            helper.make_function("evil", "f", [], [], [], [helper.make_opsetid("", 21)])
        ),
        "functions",
    ),
    "too deep": (lambda m: m.graph.node.append(nested(9)), "8 deep"),
}


@pytest.mark.parametrize(("change", "match"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_graph_is_refused(
    own_package: Path, change: Callable[[onnx.ModelProto], object], match: str
) -> None:
    """By what it is, with a message that names it."""
    path = own_package / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    change(model)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(PackageError, match=match):
        check_graph(path, sizes(own_package))


def test_any_cut_of_a_graph_ends_in_an_error(own_package: Path) -> None:
    """Never in another exception, and never in a graph."""
    path = own_package / "model.onnx"
    data = path.read_bytes()
    for length in range(0, len(data), len(data) // 60):
        path.write_bytes(data[:length])
        with pytest.raises(PackageError, match="is not an ONNX model"):
            check_graph(path, sizes(own_package))


def test_mutated_packages_end_cleanly_before_any_is_loaded(
    tiny_package: Path, tmp_path: Path
) -> None:
    """Under hashes that are right; `python -m standins.mutations` loads them, too."""
    refused = 0
    for seed in range(100):
        mutant = Path(shutil.copytree(tiny_package, tmp_path / str(seed)))
        mutate(mutant, seed)
        try:
            open_package(mutant)
        except ModelError:
            refused += 1
        shutil.rmtree(mutant)
    assert refused > 20


def test_a_package_that_crashes_its_process_is_refused(
    tiny_package: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The caller lives, and nothing is taken in."""
    if os.name == "nt":
        pytest.skip("signals are POSIX's")
    crash = tmp_path / "python"
    crash.write_text("#!/bin/sh\nkill -SEGV $$\n")
    crash.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(crash))
    with pytest.raises(PackageError, match="signal 11"):
        install(tiny_package)
    assert pulled_packages() == []


@pytest.mark.parametrize("name", ["model.onnx", "query.onnx"])
def test_a_package_that_does_not_load_is_refused(own_package: Path, name: str) -> None:
    """A graph in bounds with an operator that does not exist: told by the process that tried."""
    path = own_package / name
    path.write_bytes(path.read_bytes().replace(b"Identity", b"Idontity"))
    rehash(own_package, name)
    with pytest.raises(PackageError, match=r"when it is loaded \(exit code 1: .*Idontity"):
        install(own_package)
    assert pulled_packages() == []
