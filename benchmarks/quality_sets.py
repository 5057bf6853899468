"""The sets on which quality is measured: retrieval collections and sentence pairs."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

import evaluation
import numpy as np
import numpy.typing as npt

FOREIGN = ("de", "es", "ru", "zh", "ar")  # questions against English paragraphs
PIECE_CHARACTERS = 1_200
FILE_CHARACTERS = 3_600  # of a file of the folder, so that the teacher ends within minutes
TOP = 10
_PARAGRAPH = re.compile(r"\n[ \t]*\n")


@dataclass(frozen=True)
class Retrieval:
    """Questions and passages; a document is as good as its best passage."""

    name: str
    passages: list[str]
    documents: list[str]  # of each passage, its document's id
    questions: list[str]
    judged: list[dict[str, int]]  # of each question, document -> grade


@dataclass(frozen=True)
class Pairs:
    """Sentence pairs with how similar people find them."""

    name: str
    left: list[str]
    right: list[str]
    scores: npt.NDArray[np.float64]


def stsb() -> Pairs:
    """STS-B's test set."""
    with tarfile.open(evaluation.FOLDER / "stsb.tar.gz") as tar:
        rows = [line.split("\t") for line in evaluation.lines(tar, "stsb/test.tsv")[1:]]
    scores = np.array([float(row[0]) for row in rows])
    return Pairs("stsb", [row[1] for row in rows], [row[2] for row in rows], scores)


def scifact() -> Retrieval:
    """Claims against 5,183 abstracts."""
    return _collection("scifact", *evaluation.beir("scifact", "scifact"))


def xquad() -> Iterator[Retrieval]:
    """Questions in English and other languages against the 240 English paragraphs."""
    corpus, _, judged = evaluation.beir("xquad", "xquad/en")
    for language in ("en", *FOREIGN):
        _, questions, _ = evaluation.beir("xquad", f"xquad/{language}")
        yield _collection(f"xquad_{language}_en", corpus, questions, judged)


def folder() -> Retrieval:
    """56 questions about a folder of notes, specifications, manuals and books, in pieces."""
    with tarfile.open(evaluation.FOLDER / "folder_queries.tar.gz") as tar:
        queries, judged = evaluation.read_queries(tar, "folder_queries")
    passages, documents = [], []
    for archive in sorted(evaluation.FOLDER.glob("folder-*.tar.gz")):
        for name, text in evaluation.files_of(archive):
            for piece in _pieces(text[:FILE_CHARACTERS]):
                passages.append(piece)
                documents.append(name.partition("/")[2])
    return Retrieval(
        "folder", passages, documents, list(queries.values()), [judged[q] for q in queries]
    )


def document_ranking(ranking: npt.NDArray[np.int64], documents: list[str]) -> list[str]:
    """The best documents of a ranking of passages, each once."""
    return list(dict.fromkeys(documents[row] for row in ranking.tolist()))[:TOP]


def _collection(
    name: str, corpus: dict[str, str], queries: dict[str, str], judged: dict[str, dict[str, int]]
) -> Retrieval:
    return Retrieval(
        name,
        list(corpus.values()),
        list(corpus),
        list(queries.values()),
        [judged[query] for query in queries],
    )


def _pieces(text: str) -> Iterator[str]:
    """Paragraphs put together up to a size; a longer one is cut."""
    held = ""
    for paragraph in _PARAGRAPH.split(text):
        if held and len(held) + len(paragraph) > PIECE_CHARACTERS:
            yield held
            held = ""
        held = f"{held}\n\n{paragraph}".strip()
        while len(held) > PIECE_CHARACTERS:
            yield held[:PIECE_CHARACTERS]
            held = held[PIECE_CHARACTERS:]
    if held:
        yield held
