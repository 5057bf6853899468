"""What each precision loses: cosines to fp32, and rankings, on real texts of many kinds.

The reference is this project's fp32 package, itself compared with transformers in the same run.
Run it with `make bench`: some 200,000 tokens for each precision, and for fp32 the first time.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import evaluation
import numpy as np
import numpy.typing as npt
import onnxruntime
from cached import cached_vectors
from contest import say
from evaluation import KINDS, QUERIES, Collection, Sample
from report import finish, machine, print_table, versions
from standins.folder import cache
from standins.gemma3_270m import gemma3_270m
from standins.packages import cached_package

from harrier_edge import Embedder
from harrier_edge.package import TOKENIZER, sha256_of
from harrier_edge.session import Vectors
from harrier_edge.spec import MANIFEST_NAME
from harrier_edge.tokens import Tokenizer
from harrier_export import reference
from harrier_export.parity import row_cosines
from harrier_export.precision import PRECISIONS
from harrier_export.texts import calibration_texts

REFERENCE = "fp32"
CHECKED_TEXTS = 40  # on which fp32 is compared with transformers
TOP = 10


def embed(embedder: Embedder, sample: Sample) -> Vectors:
    """All texts, queries behind their instruction: (n, dimension) float32."""
    vectors = np.empty((len(sample.texts), embedder.dimension), np.float32)
    is_query = np.array([text.kind == QUERIES for text in sample.texts])
    for encode, rows in (
        (embedder.encode_document, np.flatnonzero(~is_query)),
        (embedder.encode_query, np.flatnonzero(is_query)),
    ):
        vectors[rows] = encode([sample.texts[row].content for row in rows])
    return vectors


def reference_vectors(package: Path, embedder: Embedder, sample: Sample) -> Vectors:
    """The same with the fp32 package, from the cache if that very package made them before."""
    digest = hashlib.sha256(sha256_of(package / MANIFEST_NAME).encode())
    digest.update(onnxruntime.__version__.encode())
    for text in sample.texts:
        digest.update(f"{text.kind}\0{text.content}\0".encode())
    kept = cache() / "fidelity" / f"{digest.hexdigest()[:24]}.npy"
    return cached_vectors(kept, lambda: embed(embedder, sample))


def inputs(embedder: Embedder, sample: Sample) -> list[list[int]]:
    """The token ids of all texts."""
    tokenizer = Tokenizer(
        embedder.package / TOKENIZER,
        final_token=embedder.manifest.tokens.final,
        max_tokens=embedder.max_tokens,
    )
    prompt = embedder.prompts["web_search_query"]
    contents = [(prompt if text.kind == QUERIES else "") + text.content for text in sample.texts]
    return [text.ids for text in tokenizer.encode(contents)]


def check_reference(checkpoint: Path, ids: list[list[int]], vectors: Vectors) -> float:
    """The minimum cosine of fp32 to transformers, on texts of all kinds."""
    rows = np.linspace(0, len(ids) - 1, min(CHECKED_TEXTS, len(ids))).round().astype(int)
    some = [ids[row] for row in rows]
    wanted = reference.transformers_vectors(checkpoint, some, lambda done: None)
    return float(row_cosines(vectors[rows], wanted).min())


def ranked(vectors: Vectors, collection: Collection) -> npt.NDArray[np.int64]:
    """The rows of the best documents of each query, best first: (queries, 10)."""
    scores = vectors[collection.queries] @ vectors[collection.documents].T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :TOP]
    return np.asarray(collection.documents)[order]


def overlap(a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]) -> float:
    """The share of the best documents that two rankings have in common, mean over queries."""
    shares = [len(set(x) & set(y)) / len(y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    return float(np.mean(shares))


def ndcg(ranking: npt.NDArray[np.int64], relevant: Sequence[dict[int, int]]) -> float:
    """nDCG@10, mean over queries (Järvelin & Kekäläinen 2002, linear gain)."""
    discounts = 1 / np.log2(np.arange(2, TOP + 2))
    values = []
    for rows, grades in zip(ranking.tolist(), relevant, strict=True):
        gains = np.array([grades.get(row, 0) for row in rows])
        ideal = np.array(sorted(grades.values(), reverse=True)[:TOP])
        best = (ideal * discounts[: len(ideal)]).sum()
        values.append((gains * discounts[: len(gains)]).sum() / best)
    return float(np.mean(values))


def cosine_figures(vectors: Vectors, wanted: Vectors, sample: Sample) -> dict[str, float]:
    """Mean, first percentile and minimum of the cosines, over all texts and by kind."""
    cosines = row_cosines(vectors, wanted)
    kinds = np.array([text.kind for text in sample.texts])
    figures = {}
    for kind in ("", *KINDS):
        some = cosines[kinds == kind] if kind else cosines
        for what, value in (
            ("mean cosine", some.mean()),
            ("p1 cosine", np.percentile(some, 1)),
            ("min cosine", some.min()),
        ):
            figures[f"{kind} {what}".strip()] = round(float(value), 6)
    return figures


def ranking_figures(vectors: Vectors, wanted: Vectors, sample: Sample) -> dict[str, float]:
    """How far each collection's rankings are fp32's, and what that does to nDCG@10.

    The overlap of all is the worst of the collections.
    """
    figures: dict[str, float] = {}
    overlaps = []
    for collection in sample.collections:
        own, right = ranked(vectors, collection), ranked(wanted, collection)
        value, before = (ndcg(ranking, collection.relevant) for ranking in (own, right))
        overlaps.append(overlap(own, right))
        figures[f"top10 overlap {collection.name}"] = round(overlaps[-1], 4)
        figures[f"ndcg10 {collection.name}"] = round(value, 4)
        figures[f"ndcg10 change {collection.name}"] = round(value - before, 4)
    return {"top10 overlap": round(min(overlaps), 4), **figures}


def main() -> None:
    """Measure, print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    others = [precision for precision in PRECISIONS if precision != REFERENCE]
    parser.add_argument(
        "--precision", action="append", choices=others, help="only this one; nothing is kept"
    )
    parser.add_argument(
        "--scifact-documents", type=int, default=300, help="0: the whole corpus (an hour)"
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, help="a share of the texts; nothing is kept"
    )
    args = parser.parse_args()
    checkpoint = gemma3_270m()
    package = cached_package(checkpoint, REFERENCE)
    embedder = Embedder(package)
    sample = evaluation.draw(
        embedder.count_tokens, scifact_documents=args.scifact_documents, scale=args.scale
    )
    if known := {text.content for text in sample.texts} & set(calibration_texts()):
        sys.exit(f"{len(known)} texts are calibration's too: {sorted(known)[0]!r}")
    ids = inputs(embedder, sample)
    say(f"{REFERENCE}: {len(ids)} texts, {sum(map(len, ids))} tokens")
    wanted = reference_vectors(package, embedder, sample)
    del embedder
    say("transformers, on some of them")
    summary: dict[str, Any] = {
        "texts": len(ids),
        "tokens": sum(map(len, ids)),
        "longest_text_tokens": max(map(len, ids)),
        "fp32_min_cosine_to_transformers": round(check_reference(checkpoint, ids, wanted), 7),
    }
    for collection in sample.collections:
        summary[f"documents {collection.name}"] = len(collection.documents)
        summary[f"queries {collection.name}"] = len(collection.queries)
        value = ndcg(ranked(wanted, collection), collection.relevant)
        summary[f"{REFERENCE} ndcg10 {collection.name}"] = round(value, 4)

    figures: dict[str, dict[str, float]] = {}
    for precision in args.precision or others:
        say(precision)
        vectors = embed(Embedder(cached_package(checkpoint, precision)), sample)
        figures[precision] = {
            **cosine_figures(vectors, wanted, sample),
            **ranking_figures(vectors, wanted, sample),
        }
    _print(figures)
    flat = {
        f"{precision} {what}": value
        for precision, values in figures.items()
        for what, value in values.items()
    }
    result = {_key(name): value for name, value in {**summary, **flat}.items()}
    used = versions("onnxruntime", "torch", "transformers")
    whole = args.scale == 1 and not args.precision
    finish("fidelity", {**machine(), **used, **result}, keep=whole)


def _print(figures: dict[str, dict[str, float]]) -> None:
    """A column a precision."""
    names = list(next(iter(figures.values())))
    rows = [[name, *(values[name] for values in figures.values())] for name in names]
    print_table(["", *figures], rows)


def _key(name: str) -> str:
    """ "int8-block ndcg10 change scifact" -> "int8_block_ndcg10_change_scifact"."""
    return name.replace("-", "_").replace(" ", "_")


if __name__ == "__main__":
    main()
