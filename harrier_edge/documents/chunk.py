"""Text to chunks: runs of whole paragraphs that fit a number of tokens."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

CountTokens = Callable[[Sequence[str]], list[int]]

# Where a text may be cut, best first. A cut stands behind the match.
_CUTS = (
    re.compile(r"\n(?:[ \t]*\n)+"),  # between paragraphs
    re.compile(r"\n"),
    re.compile(r"[.!?]+[\"')\]]*\s+|[。！？｡؟।]+"),  # between sentences
    re.compile(r"\s+"),
)
_HEADING = re.compile(r"^#{1,6}[ \t]+(.+?)[ \t#]*$", re.MULTILINE)


@dataclass(frozen=True)
class Chunk:
    """A passage of a document: its text, and its first and last line counted from 1."""

    text: str
    line: int
    end_line: int


@dataclass(frozen=True)
class _Piece:
    """A run of characters that is not cut again."""

    start: int
    end: int
    tokens: int


def split(text: str, max_tokens: int, count_tokens: CountTokens) -> list[Chunk]:
    """Cut `text` into chunks of at most `max_tokens` tokens, in order, without overlap.

    Every character but the white space around chunks is in exactly one of them. A paragraph is
    cut only if it alone is too long: at a line, else a sentence, else a word, else anywhere.
    `count_tokens` gives the tokens of each text, special tokens not counted; the sum over pieces
    stands for the count of a whole, which is never more but for a token at a seam.
    """
    line_starts = [0, *(match.end() for match in re.finditer("\n", text))]
    chunks = []
    for start, end in _pack(_pieces(text, max_tokens, count_tokens), max_tokens):
        passage = text[start:end]
        start += len(passage) - len(passage.lstrip())
        passage = passage.strip()
        if passage:
            end = start + len(passage)
            first, last = bisect_right(line_starts, start), bisect_right(line_starts, end - 1)
            chunks.append(Chunk(passage, first, last))
    return chunks


def title_of(text: str, default: str) -> str:
    """The first Markdown heading, else `default`."""
    match = _HEADING.search(text)
    return match[1] if match else default


def _pack(pieces: Iterator[_Piece], max_tokens: int) -> Iterator[tuple[int, int]]:
    """Spans of as many pieces in a row as fit."""
    start = end = tokens = 0
    for piece in pieces:
        if tokens and tokens + piece.tokens > max_tokens:
            yield start, end
            start, tokens = piece.start, 0
        end = piece.end
        tokens += piece.tokens
    yield start, end


def _pieces(text: str, max_tokens: int, count_tokens: CountTokens) -> Iterator[_Piece]:
    """The whole text as pieces of at most `max_tokens` tokens, or of one character."""

    def cut(start: int, end: int, level: int) -> Iterator[_Piece]:
        if level < len(_CUTS):
            ends = [match.end() for match in _CUTS[level].finditer(text, start, end)]
        else:
            ends = [(start + end) // 2]
        bounds = sorted({start, *ends, end})
        spans = list(pairwise(bounds))
        for (a, b), tokens in zip(spans, count_tokens([text[a:b] for a, b in spans]), strict=True):
            if tokens <= max_tokens or b - a == 1:
                yield _Piece(a, b, tokens)
            else:
                yield from cut(a, b, level + 1)

    return cut(0, len(text), 0)
