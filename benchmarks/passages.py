"""Many passages of real documents in many languages, and their vectors, for search.

They come from the archives in `../shared/eval`. The vectors are made once, by kestrel, the model
that every installation has (384 dimensions), and kept in the stand-ins' cache.
"""

from __future__ import annotations

import functools
import hashlib
import json
import random
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from cached import cached_vectors
from evaluation import FOLDER, files_of, require_data
from standins.folder import cache

from harrier_edge import Embedder
from harrier_edge.vectors import Vectors

PASSAGES = 60_000
QUERIES = 1_000
MODEL = "kestrel"
STEP = 2_000  # passages between two lines of progress
_SPACE = re.compile(r"\s+")
_PASSAGE = re.compile(r"(?=\w).{100,400}(?:\s|[。！？।]|$)")


def draw() -> tuple[list[str], list[str]]:
    """Passages of 100 to 400 characters, and questions to them: each once, always the same."""
    require_data()
    chance = random.Random(0)
    questions: dict[str, None] = {}
    passages: dict[str, None] = {}
    for archive in sorted(FOLDER.glob("*.tar.gz")):
        for name, text in files_of(archive):
            if name.endswith("queries.jsonl"):
                questions.update((json.loads(line)["text"], None) for line in text.splitlines())
            elif name.endswith("corpus.jsonl"):
                for line in text.splitlines():
                    passages.update(dict.fromkeys(_pieces(json.loads(line)["text"])))
            elif "/folder-" in str(archive):
                passages.update(dict.fromkeys(_pieces(text)))
    asked = chance.sample(sorted(questions), QUERIES)
    return chance.sample(sorted(passages), PASSAGES), asked


@functools.cache
def vectors() -> tuple[Vectors, Vectors]:
    """Of the passages (60000, 384) and of the questions (1000, 384), float32 of unit length.

    The first time takes some million tokens; what an interruption leaves is taken up by the next.
    """
    require_data()
    embedder = Embedder(MODEL)
    what = [embedder.fingerprint, embedder.precision, PASSAGES, QUERIES, _PASSAGE.pattern]
    archives = [(path.name, path.stat().st_size) for path in sorted(FOLDER.glob("*.tar.gz"))]
    digest = hashlib.sha256(repr((what, archives)).encode())
    kept = cache() / "search" / f"{digest.hexdigest()[:24]}.npz"
    if not kept.exists():
        passages, questions = draw()
        folder = kept.with_suffix("")
        made = [
            _step(embedder, passages[start : start + STEP], folder / f"{start}.npy")
            for start in range(0, len(passages), STEP)
        ]
        partial = kept.with_suffix(".partial.npz")
        np.savez(partial, passages=np.concatenate(made), questions=embedder.encode_query(questions))
        partial.replace(kept)
        shutil.rmtree(folder)
    known = np.load(kept)
    return known["passages"], known["questions"]


def _step(embedder: Embedder, texts: Sequence[str], kept: Path) -> Vectors:
    def make() -> Vectors:
        print(f"embedding from {kept.stem} on", file=sys.stderr, flush=True)
        return embedder.encode_document(texts)

    return cached_vectors(kept, make)


def _pieces(text: str) -> Iterator[str]:
    for match in _PASSAGE.finditer(_SPACE.sub(" ", text)):
        yield match[0].strip()


if __name__ == "__main__":
    vectors()
