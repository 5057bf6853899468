"""The texts on which fidelity is measured: real ones of many kinds, none of calibration's.

They come from the archives in `../shared/eval` (BEIR's layout, and folders of files), and the
same are drawn every time.
"""

from __future__ import annotations

import json
import random
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "eval"
LANGUAGES = ("ar", "de", "el", "en", "es", "hi", "ro", "ru", "th", "tr", "vi", "zh")
RANKED_LANGUAGES = ("en", "zh")  # whose paragraphs are all there, to be searched
FILES = {  # archive -> pieces of its files
    "notes-jbranchaud": 30,
    "notes-simonw": 15,
    "peps": 10,
    "rust-rfcs": 10,
    "postgres-html": 10,
}
PIECE_CHARACTERS = 900
PARAGRAPH_CHARACTERS = 600  # to which abstracts and paragraphs are cut, for the sake of time
SCIFACT_QUERIES = 200
LONG_ARCHIVES = ("peps", "rust-rfcs", "postgres-html")
LONG_CHARACTERS = 9000
LONG_TOKENS = 2000  # a long text has more
LONG_TEXTS = 2  # an archive
QUERIES, SCIFACT, XQUAD, FOLDERS, LONG = "queries", "scifact", "xquad", "code and notes", "long"
KINDS = (QUERIES, SCIFACT, XQUAD, FOLDERS, LONG)


@dataclass(frozen=True)
class Text:
    """One text; those of the kind "queries" are to be embedded as such."""

    kind: str
    content: str


@dataclass(frozen=True)
class Collection:
    """Documents to be ranked for queries, each by its row among all texts."""

    name: str
    documents: list[int]
    queries: list[int]
    relevant: list[dict[int, int]]  # of each query, document -> grade


@dataclass
class Sample:
    """All texts, and the collections among them."""

    texts: list[Text] = field(default_factory=list)
    collections: list[Collection] = field(default_factory=list)

    def add(self, kind: str, content: str) -> int:
        """Add a text; returns its row."""
        self.texts.append(Text(kind, content))
        return len(self.texts) - 1


def require_data() -> None:
    """Exit where the archives are missing."""
    if not FOLDER.is_dir():
        raise SystemExit(
            f"the evaluation data is missing: {FOLDER} does not exist. Put it there, beside the "
            "checkout, or do without this benchmark."
        )


def draw(
    count_tokens: Callable[[Sequence[str]], list[int]],
    *,
    scifact_documents: int,
    scale: float,
) -> Sample:
    """The sample: `scale` of it, with `scifact_documents` SciFact abstracts (0 for all).

    Those that are judged come first; the corpus is filled with others. `count_tokens` tells which
    texts are long. Exits where the archives are missing.
    """
    require_data()
    sample = Sample()
    chance = random.Random(0)
    _add_scifact(sample, chance, scifact_documents, scale)
    for language in LANGUAGES:
        _add_xquad(sample, chance, language, scale)
    for archive, count in FILES.items():
        contents = [text for _, text in files_of(FOLDER / f"folder-{archive}.tar.gz")]
        chance.shuffle(contents)
        pieces = _scaled(count, scale)
        for content in contents[:pieces]:
            start = chance.randrange(max(1, len(content) - PIECE_CHARACTERS))
            sample.add(FOLDERS, content[start : start + PIECE_CHARACTERS])
        if archive in LONG_ARCHIVES:
            others = [content[:LONG_CHARACTERS] for content in contents[pieces:]]
            lengths = count_tokens(others)
            long = [text for text, n in zip(others, lengths, strict=True) if n > LONG_TOKENS]
            for content in long[: _scaled(LONG_TEXTS, scale)]:
                sample.add(LONG, content)
    return sample


def _add_scifact(sample: Sample, chance: random.Random, documents: int, scale: float) -> None:
    """Claims, and abstracts with their titles."""
    corpus, queries, judged = beir("scifact", "scifact")
    chosen = chance.sample(sorted(queries), _scaled(min(SCIFACT_QUERIES, len(queries)), scale))
    wanted = sorted({document for query in chosen for document in judged[query]})
    others = sorted(corpus.keys() - wanted)
    chance.shuffle(others)
    total = _scaled(documents, scale) if documents else len(corpus)
    rows = {
        name: sample.add(SCIFACT, corpus[name][:PARAGRAPH_CHARACTERS])
        for name in [*wanted, *others[: max(0, total - len(wanted))]]
    }
    _add_collection(sample, SCIFACT, rows, {name: queries[name] for name in chosen}, judged)


def _add_xquad(sample: Sample, chance: random.Random, language: str, scale: float) -> None:
    """Paragraphs and questions in one language: all paragraphs if it is one to be ranked."""
    corpus, queries, judged = beir("xquad", f"xquad/{language}")
    ranked = language in RANKED_LANGUAGES
    names = sorted(corpus)
    if not ranked or scale < 1:
        names = chance.sample(names, _scaled(len(names) if ranked else 12, scale))
    rows = {name: sample.add(XQUAD, corpus[name][:PARAGRAPH_CHARACTERS]) for name in names}
    known = sorted(name for name in queries if not ranked or judged[name].keys() <= rows.keys())
    chosen = chance.sample(known, min(len(known), _scaled(100 if ranked else 10, scale)))
    if ranked:
        texts = {name: queries[name] for name in chosen}
        _add_collection(sample, f"xquad {language}", rows, texts, judged)
    else:
        for name in chosen:
            sample.add(QUERIES, queries[name])


def _add_collection(
    sample: Sample,
    name: str,
    rows: dict[str, int],
    queries: dict[str, str],
    judged: dict[str, dict[str, int]],
) -> None:
    sample.collections.append(
        Collection(
            name,
            list(rows.values()),
            [sample.add(QUERIES, text) for text in queries.values()],
            [{rows[d]: grade for d, grade in judged[query].items()} for query in queries],
        )
    )


def _scaled(count: int, scale: float) -> int:
    return max(1, round(count * scale))


def beir(archive: str, folder: str) -> tuple[dict[str, str], dict[str, str], dict[str, Any]]:
    """Documents and queries by id, and of each query the judged documents with their grades."""
    with tarfile.open(FOLDER / f"{archive}.tar.gz") as tar:
        corpus = {
            line["_id"]: f"{line.get('title') or ''} {line['text']}".strip()
            for line in map(json.loads, lines(tar, f"{folder}/corpus.jsonl"))
        }
        queries, judged = read_queries(tar, folder)
    return corpus, queries, judged


def read_queries(
    tar: tarfile.TarFile, folder: str
) -> tuple[dict[str, str], dict[str, dict[str, int]]]:
    """Queries by id, and of each the judged documents with their grades."""
    queries = {
        line["_id"]: line["text"] for line in map(json.loads, lines(tar, f"{folder}/queries.jsonl"))
    }
    judged: dict[str, dict[str, int]] = {name: {} for name in queries}
    for line in lines(tar, f"{folder}/qrels.tsv")[1:]:
        query, document, grade = line.split("\t")
        judged[query][document] = int(grade)
    return queries, judged


def files_of(archive: Path) -> Iterator[tuple[str, str]]:
    """The files of an archive by their names, as text."""
    with tarfile.open(archive) as tar:
        for member in sorted(tar.getmembers(), key=lambda member: member.name):
            if member.isfile():
                yield member.name, _read(tar, member.name)


def lines(tar: tarfile.TarFile, name: str) -> list[str]:
    """The lines of a file of an archive."""
    return _read(tar, name).removesuffix("\n").split("\n")


def _read(tar: tarfile.TarFile, name: str) -> str:
    file = tar.extractfile(name)
    assert file is not None
    return file.read().decode("utf-8", "replace")
