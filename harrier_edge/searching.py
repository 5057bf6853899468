"""Query to hits: the rankings, their fusion, and the lines that are shown."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harrier_edge.errors import UsageError
from harrier_edge.fusion import reciprocal_rank_fusion
from harrier_edge.store.database import Database, words_of
from harrier_edge.vectors import Vectors

FUSED = 100  # how far down each ranking hybrid search looks, at the least
SNIPPET_LINES = 3
SNIPPET_CHARACTERS = 240

Mode = Literal["hybrid", "vector", "text"]


@dataclass(frozen=True)
class Hit:
    """A passage that was found. `line` and `end_line` count from 1."""

    id: int
    score: float  # 0 to 1; comparable only within one mode
    path: str
    line: int
    end_line: int
    title: str
    snippet: str
    text: str
    metadata: dict[str, Any]


def search(
    database: Database,
    embed_query: Callable[[], Vectors],
    query: str,
    top_k: int,
    *,
    mode: Mode,
    min_score: float | None,
) -> list[Hit]:
    """What `Index.search` says; `embed_query` is called where the mode needs the vector."""
    if top_k < 1:
        raise UsageError(f"top_k is {top_k}; wanted 1 or more.")
    if mode not in ("hybrid", "vector", "text"):
        raise UsageError(f"mode is {mode!r}; wanted 'hybrid', 'vector' or 'text'.")
    limit = top_k if mode != "hybrid" else max(FUSED, top_k)
    by_word = database.matching(query, limit) if mode != "vector" else []
    by_meaning: list[tuple[int, float]] = []
    if mode != "text":
        by_meaning = database.nearest(embed_query(), limit)
    if mode == "hybrid":
        ranked = reciprocal_rank_fusion([[i for i, _ in r] for r in (by_meaning, by_word)])
    else:
        ranked = [(i, max(0.0, score)) for i, score in by_meaning or by_word]
    floor = 0.0 if min_score is None else min_score
    best = [(i, score) for i, score in ranked[:top_k] if score >= floor]
    passages = database.passages([i for i, _ in best])
    words = words_of(query)
    return [
        Hit(
            id=i,
            score=score,
            path=passages[i].path,
            line=passages[i].line,
            end_line=passages[i].end_line,
            title=passages[i].title,
            snippet=_snippet(passages[i].text, words),
            text=passages[i].text,
            metadata=passages[i].metadata,
        )
        for i, score in best
        if i in passages  # another process may have removed it meanwhile
    ]


def _snippet(text: str, words: Sequence[str]) -> str:
    """The lines of `text` around the one that has the most of `words`."""
    lines = [line for line in text.splitlines() if line.strip()]
    pattern = re.compile("|".join(rf"\b{re.escape(w)}\b" for w in words) or "$^", re.IGNORECASE)
    found = [len({m.lower() for m in pattern.findall(line)}) for line in lines]
    start = max(0, min(found.index(max(found)), len(lines) - SNIPPET_LINES)) if lines else 0
    snippet = "\n".join(lines[start : start + SNIPPET_LINES])
    if len(snippet) <= SNIPPET_CHARACTERS:
        return snippet
    return snippet[:SNIPPET_CHARACTERS].rstrip() + "…"
