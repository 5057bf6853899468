"""Graphs that run as they are written, so that no process has to look for what could be faster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from standins.packages import Exported
from standins.random_checkpoint import random_checkpoint, tiny_qwen3, tiny_tokenizer

from harrier_edge import Embedder
from harrier_edge.package import MODEL, QUERY, open_package
from harrier_edge.spec import MANIFEST_NAME
from harrier_export import ExportOptions, export
from harrier_export.precision import TERNARY_PRECISIONS

TEXTS = ["one", "two words", "three of them " * 30, "", "four"]
LEVEL = onnxruntime.GraphOptimizationLevel


def share_left(graph: Path, folder: Path) -> float:
    """Of the graph's operators, how many are there when ONNX Runtime has optimized it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / graph.name)
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    before, after = (
        len(onnx.load(path, load_external_data=False).graph.node)
        for path in (graph, folder / graph.name)
    )
    return after / before


def check_promise(package: Path, folder: Path) -> None:
    """That the manifest is right about what an optimizer finds to do."""
    opened = open_package(package)
    graphs = [package / MODEL, package / QUERY, *opened.layers]
    left = [share_left(graph, folder) for graph in graphs]
    if opened.manifest.optimized:
        assert min(left) > 0.9
    else:
        assert min(left) < 0.9


@pytest.mark.parametrize("precision", ["fp32", "int8", "int8-block", "int4"])
def test_a_manifest_says_whether_graphs_run_as_they_are(
    precision: str, tiny_gemma: Path, exported: Exported, tmp_path: Path
) -> None:
    """All do but those whose weights are expanded when they are loaded."""
    package = exported(tiny_gemma, precision)
    assert open_package(package).manifest.optimized == (precision != "int8-block")
    check_promise(package, tmp_path)


@pytest.mark.parametrize("precision", TERNARY_PRECISIONS)
def test_so_does_that_of_a_bitnet(precision: str, tmp_path: Path) -> None:
    """Weights of 2 bits are expanded."""
    tokenizer = tiny_tokenizer(tmp_path / "tokenizer.json")
    checkpoint = random_checkpoint(
        tmp_path / "bitnet", config=tiny_qwen3(), tokenizer=tokenizer, bitnet=True
    )
    options = replace(ExportOptions(verify=False), precision=precision)
    result = export(checkpoint, tmp_path / "package", options)
    assert result.manifest.optimized == (precision != "ternary")
    check_promise(result.folder, tmp_path)


def levels(embedder: Embedder) -> set[onnxruntime.GraphOptimizationLevel]:
    """How far the graphs that are loaded were optimized then."""
    loaded = (embedder._session._whole, embedder._session._one_thread)
    return {graph.get_session_options().graph_optimization_level for graph in loaded if graph}


def test_such_graphs_give_the_bits_of_optimized_ones(own_package: Path) -> None:
    """One text at a time and several; older packages, which say nothing, are optimized."""
    found = []
    for _ in range(2):
        embedder = Embedder(own_package, threads=2)
        one = [embedder.encode_query(text) for text in TEXTS]
        found.append((np.stack([*one, *embedder.encode_document(TEXTS)]), levels(embedder)))
        manifest = own_package / MANIFEST_NAME
        manifest.write_text(manifest.read_text("utf-8").replace("optimized = true\n", ""), "utf-8")
    assert [level for _, level in found] == [{LEVEL.ORT_DISABLE_ALL}, {LEVEL.ORT_ENABLE_ALL}]
    assert np.array_equal(found[0][0], found[1][0])
