"""Document to chunks: passages that respect its structure and fit a number of tokens."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise

from harrier_edge.documents.document import Document

CountTokens = Callable[[Sequence[str]], list[int]]

PATH_SEPARATOR = " > "
# Han, kana, Thai, Lao, Khmer and Burmese letters: their words stand without spaces.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff"
# Where a text may be cut below what its format tells, best first. A cut stands behind the match.
_CUTS = (
    re.compile(r"\n(?:[ \t]*\n)+"),  # between paragraphs
    re.compile(r"\n"),
    # Between sentences. Only from the first mark of a run on: from each of them would be quadratic.
    re.compile(r"(?<![.!?])[.!?]+[\"')\]]*\s+|[。！？｡؟।]+[」』”）]*"),
    re.compile(r"\s+"),
    re.compile(rf"\w(?=[^\w\s])|[^\w\s](?=\w)|[{_UNSPACED}](?=[{_UNSPACED}])"),  # between words
)


@dataclass(frozen=True)
class Chunk:
    """A passage of a document: `text` is what stands from character `start` up to `end`.

    `line` and `end_line` are the places of its first and last line (see Document); `heading` is
    the path of the headings above it, which are not in `text`.
    """

    text: str
    start: int
    end: int
    line: int
    end_line: int
    heading: str

    @property
    def embedded(self) -> str:
        """What the model sees."""
        return embedded_text(self.heading, self.text)


def embedded_text(heading: str, text: str) -> str:
    """What the model sees of a chunk: the headings' path, then the text."""
    return f"{heading}\n\n{text}" if heading else text


@dataclass(frozen=True)
class _Section:
    """What is below one heading: its start, and the headings' path at its first line and below."""

    start: int
    first: str
    below: str
    tokens: int  # of the longer path


@dataclass(frozen=True)
class _Piece:
    """A run of characters that is not cut again."""

    start: int
    end: int
    tokens: int


def split(
    document: Document, max_tokens: int, count_tokens: CountTokens, *, whole: bool = False
) -> list[Chunk]:
    """Cut a document into chunks of at most `max_tokens` tokens, in order, without overlap.

    Every character but the white space around chunks is in exactly one of them. Blocks are packed
    as they fit; a heading begins a new chunk where the one before it is at least half full, and
    with `whole` only where it is full. A block is cut only if it alone is too long: where the
    document says, else at a paragraph, a line, a sentence, a word; inside of a word only if that
    is longer than a chunk. The path of the headings above counts towards `max_tokens`.

    `count_tokens` gives the tokens of each text, special tokens not counted; the sum over pieces
    stands for the count of a whole, which is never more but for a token at a seam.
    """
    sections = _sections(document, max_tokens, count_tokens)
    starts = [section.start for section in sections]
    heads = set(starts).union(document.cuts[0] if document.records else ())

    def limit(position: int) -> int:
        return max(1, max_tokens - sections[bisect_right(starts, position) - 1].tokens)

    full = max_tokens if whole else 1 if document.records else max_tokens // 2
    pieces = _pieces(document, heads, limit, count_tokens)
    line_starts = [0, *(match.end() for match in re.finditer("\n", document.text))]
    chunks = []
    for start, end in _pack(document, pieces, limit, heads, full):
        start, end = _trimmed(document.text, start, end)
        if start == end:
            continue
        section = sections[bisect_right(starts, start) - 1]
        first, last = (bisect_right(line_starts, at) - 1 for at in (start, end - 1))
        lines = document.lines
        chunks.append(
            Chunk(
                text=document.text[start:end],
                start=start,
                end=end,
                line=lines[first] if lines else first + 1,
                end_line=lines[last] if lines else last + 1,
                heading=section.first if start == section.start else section.below,
            )
        )
    return chunks


def _sections(document: Document, max_tokens: int, count_tokens: CountTokens) -> list[_Section]:
    """The document by its headings; a path that is over a quarter of a chunk is left out."""
    path: list[tuple[int, str]] = []
    spans = [(0, "", "")]
    for heading in document.headings:
        path = [(level, title) for level, title in path if level < heading.level]
        above = PATH_SEPARATOR.join(title for _, title in path)
        if heading.title:
            path.append((heading.level, heading.title))
        spans.append((heading.start, above, PATH_SEPARATOR.join(title for _, title in path)))
    counts = count_tokens([f"{below}\n\n" for _, _, below in spans])
    return [
        _Section(start, first, below, tokens)
        if below and tokens <= max_tokens // 4
        else _Section(start, "", "", 0)
        for (start, first, below), tokens in zip(spans, counts, strict=True)
    ]


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without blank lines at its beginning and white space at its end."""
    passage = text[start:end]
    end = start + len(passage.rstrip())
    first = start + len(passage) - len(passage.lstrip())
    if first >= end:
        return end, end
    line = text.rfind("\n", 0, first) + 1
    return (line if line >= start else first), end  # the first line keeps its indentation


def _pack(
    document: Document,
    pieces: Iterator[_Piece],
    limit: Callable[[int], int],
    heads: Set[int],
    full: int,
) -> Iterator[tuple[int, int]]:
    """Spans of as many pieces in a row as fit; with `full` tokens, up to the next head."""
    start = tokens = 0
    last = _Piece(0, 0, 0)
    for piece in pieces:
        at_head = piece.start in heads
        if tokens and (tokens + piece.tokens > limit(start) or (at_head and tokens >= full)):
            # A heading goes with what stands below it.
            alone = last.start in heads and last.start > start and not at_head
            carried = last if alone and last.tokens + piece.tokens <= limit(last.start) else None
            yield start, carried.start if carried else piece.start
            start, tokens = (carried.start, carried.tokens) if carried else (piece.start, 0)
        tokens += piece.tokens
        last = piece
    yield start, len(document.text)


def _pieces(
    document: Document, heads: Set[int], limit: Callable[[int], int], count_tokens: CountTokens
) -> Iterator[_Piece]:
    """The whole text as pieces that fit, or of one character."""
    text = document.text
    tiers = [sorted(heads), *document.cuts]

    def ends(start: int, end: int, level: int) -> list[int]:
        """Where a tier cuts between `start` and `end`."""
        if level < len(tiers):
            tier = tiers[level]
            return list(tier[bisect_right(tier, start) : bisect_left(tier, end)])
        level -= len(tiers)
        if level == len(_CUTS):
            return [_middle(text, start, end)]
        found = [match.end() for match in _CUTS[level].finditer(text, start, end)]
        return [at for at in found if start < at < end and not _in_character(text, at)]

    def cut(start: int, end: int, level: int) -> Iterator[_Piece]:
        inner: list[int] = []
        while not inner:
            inner = ends(start, end, level)
            level += 1
        level = min(level, len(tiers) + len(_CUTS))
        spans = list(pairwise((start, *inner, end)))
        for (a, b), tokens in zip(spans, count_tokens([text[a:b] for a, b in spans]), strict=True):
            if tokens <= limit(a) or b - a == 1:
                yield _Piece(a, b, tokens)
            else:
                yield from cut(a, b, level)

    if len(text) < 2:
        return iter([_Piece(0, len(text), 0)])
    return cut(0, len(text), 0)


def _middle(text: str, start: int, end: int) -> int:
    """A place between `start` and `end` (two characters apart at least) near their middle."""
    middle = (start + end) // 2
    return next((at for at in range(middle, end) if not _in_character(text, at)), middle)


def _in_character(text: str, at: int) -> bool:
    """Whether a reader sees one character at both sides of `at`: a letter and its marks."""
    return (
        unicodedata.category(text[at])[0] == "M"
        or "\u200d" in (text[at - 1], text[at])
        or text[at - 1] in "\u0e40\u0e41\u0e42\u0e43\u0e44"  # Thai vowels before their consonant
    )
