"""all-MiniLM-L6-v2 through this runtime: STS-B's test, size, speed, and fidelity, by precision.

    PYTHONPATH=tests .venv/bin/python benchmarks/sts.py

Its Spearman correlation is known: 0.820, which sentence-transformers gives too.
"""

from __future__ import annotations

import argparse
import csv
import io
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from evaluation import FOLDER, require_data
from report import finish, machine, print_table, versions
from scipy.stats import spearmanr
from standins.minilm import minilm

from harrier_edge import Embedder
from harrier_export import ExportOptions, export_via_optimum

PRECISIONS = ("fp32", "int8")
Pairs = tuple[list[str], list[str], list[float]]


def stsb_test() -> Pairs:
    """Both sentences of each pair, and how alike people found them, from 0 to 5."""
    with tarfile.open(FOLDER / "stsb.tar.gz") as archive:
        file = archive.extractfile("stsb/test.tsv")
        assert file is not None
        text = io.StringIO(file.read().decode("utf-8"))
    rows = list(csv.DictReader(text, delimiter="\t", quoting=csv.QUOTE_NONE))
    return (
        [row["sentence1"] for row in rows],
        [row["sentence2"] for row in rows],
        [float(row["score"]) for row in rows],
    )


def spearman(embedder: Embedder, pairs: Pairs) -> float:
    """Spearman's correlation of the cosines with what people said."""
    first, second, scores = pairs
    vectors = embedder.encode_document([*first, *second])
    cosines = (vectors[: len(first)] * vectors[len(first) :]).sum(1)
    return float(spearmanr(cosines, scores).statistic)


def main() -> None:
    """Export both packages and measure them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, help="only the first so many, to try it out")
    args = parser.parse_args()
    require_data()
    pairs = stsb_test()
    first, second, scores = pairs[0][: args.pairs], pairs[1][: args.pairs], pairs[2][: args.pairs]
    result: dict[str, Any] = {
        **machine(),
        **versions("onnxruntime", "optimum-onnx", "sentence-transformers", "torch"),
        "pairs": len(scores),
    }
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for precision in PRECISIONS:
            options = ExportOptions(precision=precision)
            manifest = export_via_optimum(minilm(), Path(scratch) / precision, options).manifest
            embedder = Embedder(Path(scratch) / precision)
            embedder.encode_document(first[:32])
            start = time.perf_counter()
            figure = spearman(embedder, (first, second, scores))
            seconds = time.perf_counter() - start
            size = sum(file.size for file in manifest.files.values()) / 1e6
            assert manifest.parity
            tokens = sum(embedder.count_tokens([*first, *second]))
            figures = {
                "spearman": round(figure, 4),
                "mean_cosine": round(manifest.parity.mean_cosine, 5),
                "min_cosine": round(manifest.parity.min_cosine, 5),
                "size_mb": round(size, 1),
                "tokens_per_s": round(tokens / seconds),
            }
            result |= {f"{precision}_{name}": value for name, value in figures.items()}
            rows.append([precision, *figures.values()])
    fast, whole = result["int8_tokens_per_s"], result["fp32_tokens_per_s"]
    result["int8_speed_ratio"] = round(float(np.divide(fast, whole)), 2)
    print_table(["", "Spearman", "mean cosine", "min cosine", "MB", "tokens/s"], rows)
    finish("sts", result, keep=args.pairs is None)


if __name__ == "__main__":
    main()
