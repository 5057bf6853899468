"""BitNet's shapes with random ternary weights: parity with the formula, size and speed.

    PYTHONPATH=tests .venv/bin/python benchmarks/ternary.py

Parity is told in three ways. Of single layers, each given the reference's own state, by what they
add to it. Of the whole model, for weights whose branches add little, as in a model that was trained
("damped"), and for plain random ones. And of the formula with itself, in float64 and float32: where
a float's last bit decides how an activation is rounded, the difference goes through all layers.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from report import finish, machine, print_table, versions
from standins.folder import full_tokenizer
from standins.random_checkpoint import bitnet_270m, qwen3_0_6b, random_checkpoint

from harrier_edge.layers import _Layer
from harrier_edge.package import Package
from harrier_edge.session import Session
from harrier_edge.spec import MANIFEST_NAME, PackageManifest, read_table
from harrier_export import ExportOptions, export, reference
from harrier_export.checkpoint import held
from harrier_export.graph import FLOAT, MICROSOFT, GraphBuilder
from harrier_export.parity import row_cosines
from harrier_export.precision import TERNARY_PRECISIONS
from harrier_export.precision.formats import Rows
from harrier_export.precision.ternary import TernaryLinear, ternary
from harrier_export.weights import WeightFiles

SHAPES = {"270m": (bitnet_270m, "gemma3"), "0.6b": (qwen3_0_6b, "qwen3")}
LENGTHS = (4, 9, 17, 24, 33, 48, 64, 96, 128)  # tokens of the texts for parity
DOUBLES = 5  # texts that float64 is given, too
DOCUMENT_TOKENS, QUERY_TOKENS = 256, 24
TURNS = 3
Array = npt.NDArray[Any]
Ids = list[list[int]]


def random_texts(lengths: Sequence[int], vocabulary: int) -> Ids:
    """Texts of so many tokens, each ending alike."""
    random = np.random.default_rng(1)
    return [[*random.integers(3, vocabulary - 1, n - 1).tolist(), 1] for n in lengths]


def states(model: Any, texts: Ids) -> list[list[Array]]:
    """The reference's state before every layer, and its last one, for each text."""
    with torch.inference_mode():
        runs = [
            model(input_ids=torch.tensor([ids]), use_cache=False, output_hidden_states=True)
            for ids in texts
        ]
    return [[state.numpy() for state in run.hidden_states] for run in runs]


def vectors(found: list[list[Array]]) -> Array:
    """The unit vectors of these states."""
    last = np.stack([state[-1][0, -1] for state in found])
    unit: Array = last / np.linalg.norm(last, axis=1, keepdims=True)
    return unit


def of_layers(package: Path, texts: Ids, wanted: list[list[Array]]) -> Array:
    """The cosines of what each layer but the last adds to a token, given the reference's state."""
    paths = Package(package, read_table(package / MANIFEST_NAME, PackageManifest)).layers
    cosines = []
    for i, path in enumerate(paths[:-1]):
        layer = _Layer(path, onnxruntime.InferenceSession(path), bool(i))
        for ids, given in zip(texts, wanted, strict=True):
            before = given[i].copy() if i else None
            after = layer.run(np.array([ids], np.int64), before, only_end=False)
            cosines.append(row_cosines(after[0] - given[i][0], given[i + 1][0] - given[i][0]))
    return np.concatenate(cosines)


def session(package: Path) -> Session:
    """The package's graph on all cores."""
    manifest = read_table(package / MANIFEST_NAME, PackageManifest)
    return Session(package / "model.onnx", dimension=manifest.dimension, pad_token=0)


def seconds(run: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def parity(checkpoint: Path, scratch: Path, texts: Ids, *, layers: bool) -> dict[str, float]:
    """All cosines of one checkpoint, its embedding table in float32."""
    options = ExportOptions(precision="int8", embedding="fp32", verify=False)
    package = export(checkpoint, scratch / "parity", options).folder
    model = reference.load(checkpoint)
    found = states(model, texts)
    whole = row_cosines(session(package).run_many(texts), vectors(found))
    figures = {"whole_mean": float(whole.mean()), "whole_min": float(whole.min())}
    if layers:
        each = of_layers(package, texts, found)
        figures |= {"layer_mean": float(each.mean()), "layer_min": float(each.min())}
    double = vectors(states(model.double(), texts[:DOUBLES]))
    itself = row_cosines(double, vectors(found)[:DOUBLES])
    figures |= {"formula_mean": float(itself.mean()), "formula_min": float(itself.min())}
    return figures


def speed(packages: dict[str, Path], vocabulary: int) -> dict[str, dict[str, float]]:
    """Load time, tokens a second and query time of each precision, turn by turn."""
    documents = random_texts([DOCUMENT_TOKENS] * 8, vocabulary)
    query = random_texts([QUERY_TOKENS], vocabulary)
    figures: dict[str, dict[str, float]] = {}
    sessions: dict[str, Session] = {}
    for name, package in packages.items():
        start = time.perf_counter()
        sessions[name] = session(package)
        sessions[name].run(query)
        load = time.perf_counter() - start
        size = sum(path.stat().st_size for path in package.iterdir())
        figures[name] = {"disk_mb": size / 1e6, "load_s": load}
        sessions[name].run_many(documents[:2])
    times: dict[str, list[float]] = {name: [] for name in packages}
    queries: dict[str, list[float]] = {name: [] for name in packages}
    for _ in range(TURNS):
        for name, one in sessions.items():
            times[name].append(seconds(lambda one=one: one.run_many(documents)))  # type: ignore[misc]
            queries[name] += [seconds(lambda one=one: one.run(query)) for _ in range(5)]  # type: ignore[misc]
    for name in packages:
        figures[name]["tokens_per_s"] = DOCUMENT_TOKENS * 8 / min(times[name])
        figures[name]["query_ms"] = 1000 * statistics.median(queries[name])
    return figures


def products(scratch: Path) -> dict[str, float]:
    """Milliseconds of one 640 x 2048 product of 256 rows in each form, on one thread."""
    weight = np.random.default_rng(0).standard_normal((2048, 640), np.float32)
    rows = np.random.default_rng(1).standard_normal((1, 256, 640), np.float32)
    mean, codes = ternary(weight)

    def two_bits(graph: GraphBuilder, x: str) -> str:
        fours = (codes + 2).astype(np.uint8).reshape(2048, 5, 32, 4)  # 2 is their zero point
        packed = np.bitwise_or.reduce(fours << (np.arange(4, dtype=np.uint8) * 2), axis=-1)
        scales = graph.weight("scales", np.full((2048, 5), mean, np.float32))
        form: dict[str, Any] = {"K": 640, "N": 2048, "bits": 2, "block_size": 128}
        stored = graph.weight("packed", packed), scales
        return graph.node("MatMulNBits", x, *stored, domain=MICROSOFT, accuracy_level=4, **form)

    def ours(graph: GraphBuilder, x: str) -> str:
        linear, last = TernaryLinear("ternary"), lambda: None
        made = linear.write(graph, Rows(x), {"w": held("w", weight)}, last)  # type: ignore[arg-type]
        return made[0].settled(graph)

    figures = {}
    for name, write in (("matmulnbits_2bit", two_bits), ("expanded", ours)):
        path = scratch / f"{name}.onnx"
        with WeightFiles(scratch / f"{name}.data") as weights:
            graph = GraphBuilder(weights)
            x = graph.input("x", FLOAT, ["batch", "rows", 640])
            graph.output(write(graph, x), "y", FLOAT, ["batch", "rows", 2048])
            graph.save(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        one = onnxruntime.InferenceSession(path, options)
        one.run(None, {"x": rows})
        runs = [seconds(lambda one=one: one.run(None, {"x": rows})) for _ in range(9)]  # type: ignore[misc]
        figures[f"product_{name}_ms"] = round(1000 * statistics.median(runs), 2)
    return figures


def main() -> None:
    """Measure both shapes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", action="append", choices=sorted(SHAPES), help="only this one")
    parser.add_argument("--layers", type=int, help="only so many, to try it out")
    args = parser.parse_args()
    result: dict[str, Any] = {
        **machine(),
        **versions("onnxruntime", "torch", "transformers"),
    }
    table: list[list[object]] = []
    for shape in args.shape or SHAPES:
        make, tokenizer = SHAPES[shape]
        config = make()
        if args.layers:
            config["num_hidden_layers"] = args.layers
            config["layer_types"] = config["layer_types"][: args.layers]
        texts = random_texts(LENGTHS, config["vocab_size"])
        options: dict[str, Any] = {
            "config": config,
            "tokenizer": full_tokenizer(tokenizer),
            "bitnet": True,
        }
        for kind in ("plain", "damped"):
            with tempfile.TemporaryDirectory() as folder:
                scratch = Path(folder)
                checkpoint = random_checkpoint(
                    scratch / "checkpoint", damped=kind == "damped", **options
                )
                figures = parity(checkpoint, scratch, texts, layers=kind == "damped")
                result |= {f"{shape}_{kind}_{k}": round(v, 6) for k, v in figures.items()}
                print(shape, kind, {k: round(v, 6) for k, v in figures.items()}, flush=True)
                if kind == "plain":
                    continue
                packages = {}
                for name in TERNARY_PRECISIONS:
                    one = ExportOptions(precision=name, verify=False)
                    packages[name] = export(checkpoint, scratch / name, one).folder
                for name, row in speed(packages, config["vocab_size"]).items():
                    result |= {f"{shape}_{name}_{k}": round(v, 2) for k, v in row.items()}
                    table.append([f"{shape} {name}", *(round(v, 2) for v in row.values())])
    with tempfile.TemporaryDirectory() as folder:
        result |= products(Path(folder))
    print_table(["", "disk MB", "load s", "tokens/s at 256", "query ms"], table)
    finish("ternary", result, keep=not (args.shape or args.layers))


if __name__ == "__main__":
    main()
