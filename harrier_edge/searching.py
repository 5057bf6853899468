"""Query to hits: the rankings, their fusion, and the lines that are shown."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harrier_edge.errors import UsageError
from harrier_edge.fusion import Ranking, fuse
from harrier_edge.store.database import Database
from harrier_edge.store.filters import parse_filters
from harrier_edge.store.rows import Found, Passage
from harrier_edge.store.words import fold, parse
from harrier_edge.vectors import Vectors

WORDS = 1.5  # weight of the ranking by words beside that by meaning in hybrid search
FUSED = 100  # how far down each ranking hybrid search looks, at the least
LEAST = 50  # chunks that are asked for: no dearer than 10, and mostly of 10 documents at least
SNIPPET_LINES = 3
SNIPPET_CHARACTERS = 240

Mode = Literal["hybrid", "vector", "text"]
Rank = Callable[[int], list[Found]]  # how many -> the best, best first


@dataclass(frozen=True)
class Explanation:
    """Where a hit stood in the two rankings, from 1, and with what score; None for not at all."""

    vector_rank: int | None
    vector_score: float | None  # cosine
    text_rank: int | None
    text_score: float | None  # BM25 b as b / (1 + b)


@dataclass(frozen=True)
class Hit:
    """A passage that was found. `line`, `end_line` and `snippet_line` count from 1."""

    id: int
    score: float  # 0 to 1; comparable only within one mode
    path: str
    line: int
    end_line: int
    title: str
    heading: str  # the headings above it: "A > B"
    snippet: str
    snippet_line: int  # the document's line that the snippet begins with
    text: str
    metadata: dict[str, Any]
    explanation: Explanation


@dataclass(frozen=True)
class SearchOptions:
    """How to search, beside the query itself; `Index.search` says what each means."""

    mode: Mode = "hybrid"
    min_score: float | None = None
    filters: Sequence[str] = ()
    every_chunk: bool = False
    candidates: int | None = None  # by the dimension
    exact: bool = False


def search(
    database: Database,
    embed_query: Callable[[str], Vectors],
    query: str,
    top_k: int,
    options: SearchOptions,
) -> list[Hit]:
    """What `Index.search` says; `embed_query` is called where the mode needs the vector."""
    for name, number in (("top_k", top_k), ("candidates", options.candidates)):
        if number is not None and number < 1:
            raise UsageError(f"{name} is {number}; wanted 1 or more.")
    mode = options.mode
    if mode not in ("hybrid", "vector", "text"):
        raise UsageError(f"mode is {mode!r}; wanted 'hybrid', 'vector' or 'text'.")
    within = parse_filters(options.filters)
    text = parse(query)
    limit = top_k if mode != "hybrid" else max(FUSED, top_k)
    rankings: dict[str, list[Found]] = {"vector": [], "text": []}
    if mode != "text":
        hybrid = mode == "hybrid"
        vector = embed_query(text.plain if hybrid else query)
        rankings["vector"] = _ranking(
            lambda count: database.nearest(
                vector,
                count,
                candidates=options.candidates,
                exact=options.exact,
                within=within,
                text=text if hybrid else None,
            ),
            limit,
            options.every_chunk,
        )
    if mode != "vector":
        rankings["text"] = _ranking(
            lambda count: database.matching(text, count, within=within), limit, options.every_chunk
        )
    return _hits(database, rankings, text.words, top_k, options)


def _ranking(rank: Rank, limit: int, every_chunk: bool) -> list[Found]:
    """The `limit` best, of each document only its best chunk unless `every_chunk`."""
    count = max(limit, LEAST)
    while True:
        found = rank(count)
        best = found if every_chunk else list({one.document: one for one in found[::-1]}.values())
        if not every_chunk:
            best.sort(key=lambda one: (-one.score, one.chunk))
        if len(best) >= limit or len(found) < count:
            return best[:limit]
        count *= 4


def _fused(vector: dict[int, float], text: dict[int, float], limit: int) -> list[tuple[int, float]]:
    """Both rankings as one, of which each holds `limit` or all that were found."""
    words = {item: score / (1 - score) for item, score in text.items()}  # BM25 itself
    full = len(words) >= limit
    return fuse(
        [
            Ranking(vector, floor=min(vector.values(), default=0.0)),
            # What has no word of the query has a BM25 of 0.
            Ranking(words, floor=min(words.values()) if full else 0.0, weight=WORDS),
        ]
    )


def _hits(
    database: Database,
    rankings: dict[str, list[Found]],
    words: Sequence[str],
    top_k: int,
    options: SearchOptions,
) -> list[Hit]:
    """Fuse two rankings, or take the only one, and fetch what is shown of the best."""

    def unit(one: Found) -> int:
        return one.chunk if options.every_chunk else one.document

    places = {
        name: {unit(one): (rank, one) for rank, one in enumerate(ranking, 1)}
        for name, ranking in rankings.items()
    }
    if options.mode == "hybrid":
        vector, text = (
            {unit(one): one.score for one in rankings[name]} for name in ("vector", "text")
        )
        ranked = _fused(vector, text, max(FUSED, top_k))
    else:
        ranked = [(unit(one), max(0.0, one.score)) for one in rankings[options.mode]]
    floor = 0.0 if options.min_score is None else options.min_score
    best = [(item, score) for item, score in ranked[:top_k] if score >= floor]
    # Of a document that both rankings have, the chunk that stands higher.
    shown = {
        item: min((place[item] for place in places.values() if item in place), key=lambda at: at[0])
        for item, _ in best
    }
    passages = database.passages([one.chunk for _, one in shown.values()])
    return [
        _hit(passages[chunk], score, words, *(place.get(item) for place in places.values()))
        for item, score in best
        if (chunk := shown[item][1].chunk) in passages  # unless it was removed meanwhile
    ]


def _hit(
    passage: Passage,
    score: float,
    words: Sequence[str],
    vector: tuple[int, Found] | None,
    text: tuple[int, Found] | None,
) -> Hit:
    snippet, line = _snippet(passage.text, words)
    return Hit(
        id=passage.id,
        score=score,
        path=passage.path,
        line=passage.line,
        end_line=passage.end_line,
        title=passage.title,
        heading=passage.heading,
        snippet=snippet,
        snippet_line=place_of(passage.line, passage.end_line, passage.text, line),
        text=passage.text,
        metadata=passage.metadata,
        explanation=Explanation(
            vector_rank=vector[0] if vector else None,
            vector_score=vector[1].score if vector else None,
            text_rank=text[0] if text else None,
            text_score=text[1].score if text else None,
        ),
    )


def place_of(first: int, last: int, text: str, line: int) -> int:
    """Where line `line` (from 0) of a text stands whose places are from `first` to `last`.

    Places are lines in a file of lines; in a PDF they are pages, in a table its rows: then it is
    only known where the text begins.
    """
    return first + line if last - first == text.count("\n") else first


def _snippet(text: str, words: Sequence[str]) -> tuple[str, int]:
    """The lines of `text` from just before the one that has the most of `words`, and its number.

    The number is that of the first line shown, from 0. Characters are cut off around the words.
    """
    lines = text.split("\n")
    pattern = re.compile("|".join(rf"(?<!\w){re.escape(word)}" for word in words) or "$^")
    found = [len(set(pattern.findall(fold(line)))) if line.strip() else -1 for line in lines]
    if not found:
        return "", 0
    most = found.index(max(found))
    start = max(0, min(most - 1, len(lines) - SNIPPET_LINES))
    while start < most and not lines[start].strip():
        start += 1
    snippet = "\n".join(lines[start : start + SNIPPET_LINES]).rstrip()
    if len(snippet) > SNIPPET_CHARACTERS and len(lines[start]) > SNIPPET_CHARACTERS // 2:
        start, snippet = most, lines[most]
    if len(snippet) <= SNIPPET_CHARACTERS:
        return snippet, start
    match = pattern.search(snippet.lower())
    cut = max(
        0,
        min(
            (match.start() if match else 0) - SNIPPET_CHARACTERS // 3,
            len(snippet) - SNIPPET_CHARACTERS,
        ),
    )
    cut = 0 if cut < SNIPPET_CHARACTERS // 6 else cut
    shown = snippet[cut : cut + SNIPPET_CHARACTERS].strip()
    return (
        f"{'…' if cut else ''}{shown}{'…' if cut + SNIPPET_CHARACTERS < len(snippet) else ''}",
        start,
    )
