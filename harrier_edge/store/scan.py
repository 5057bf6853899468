"""The sign bits of all chunks in memory, and the scan that picks candidates from them.

A scan narrows in three steps. The Hamming distance in the first 256 bits, which the rotation has
made as good a sample as any, leaves a small share of all rows; that in all bits leaves a pool; and
the product of the query itself with their bits orders the pool. What stands first is then to be
scored by its whole vector.

All runs in one thread: NumPy's calls are so short here that threads would wait for the
interpreter's lock longer than they work.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harrier_edge.vectors import Vectors, Words, rotate, sign_products, sign_words

SEGMENT = 4096  # slots of a segment, which is stored and read as a whole
BLOCK = 16 * SEGMENT  # slots that are scanned in one go: half a megabyte for each word
FIRST_WORDS = 4  # that all rows are compared in, unless they have
FEW_WORDS = 6  # or fewer, which are then compared at once
SHARE = 64  # one of so many rows is compared in all words, and at least
NEAR = 64  # rows for each candidate
POOL = 12  # rows that are ordered by products, for each candidate
SAMPLE = 4096  # rows from which the pool's distance is guessed
GATHERED = 0.25  # a filter that keeps less than this share has its rows gathered first
FAR = np.uint16(0xFFFF)

Documents = npt.NDArray[np.uint32]
Rows = npt.NDArray[np.int64]
Distances = npt.NDArray[np.uint16]


@dataclass(frozen=True)
class Scope:
    """What may be found: in some documents, among some chunks, without some; None for no limit."""

    documents: Rows | None = None
    only: Rows | None = None
    without: Rows | None = None

    def holds(self, chunks: Rows, documents: Rows) -> npt.NDArray[np.bool_]:
        """Which of some chunks, given with their documents, are in it."""
        found = np.ones(len(chunks), np.bool_)
        if self.documents is not None:
            found &= np.isin(documents, self.documents)
        if self.only is not None:
            found &= np.isin(chunks, self.only)
        if self.without is not None:
            found &= ~np.isin(chunks, self.without)
        return found


def default_candidates(dimension: int) -> int:
    """How many are scored by their whole vectors, unless another number is asked for.

    Fewer bits say less, so there are more where vectors are short: 150 of 640 dimensions, 250 of
    384. `benchmarks/search.py` has what share of the true ten nearest each number finds.
    """
    return max(100, 96_000 // dimension)


class _Block:
    """The bits of BLOCK slots, laid out as they are read.

    All rows are scanned in their first words, so each word is a run of its own; the rest is
    fetched of few rows, so each row is.
    """

    def __init__(self, first: int, rest: int) -> None:
        # Not `zeros`: only what NumPy allocates itself gets huge pages, and a scan needs them.
        self.first = np.empty((first, BLOCK), np.uint64)
        self.rest = np.empty((BLOCK, rest), np.uint64)
        self.first[:] = 0
        self.rest[:] = 0


class Scan:
    """Segments of sign bits, each with the document of every slot, 0 where there is none.

    A chunk's slot is fixed by its id: slot id % 4096 of segment id // 4096. Safe to share between
    threads, which take turns.
    """

    def __init__(self, dimension: int) -> None:
        self._words = -(-dimension // 64)
        self._first = FIRST_WORDS if self._words > FEW_WORDS else self._words
        self._lock = threading.Lock()
        self._blocks: list[_Block] = []
        self._segments: list[int] = []
        self._documents = np.zeros(0, np.uint32)
        self.state = 0  # the last change that was taken in

    def put(self, segment: int, documents: bytes, bits: bytes) -> None:
        """Take a segment in, or take what it holds now; nothing where it is empty."""
        with self._lock:
            if not documents:
                if segment in self._segments:
                    place = self._segments.index(segment)
                    self._documents[place * SEGMENT :][:SEGMENT] = 0
                return
            if segment in self._segments:
                place = self._segments.index(segment)
            else:
                place = len(self._segments)
                self._segments.append(segment)
                self._grow(len(self._segments) * SEGMENT)
            number, start = divmod(place * SEGMENT, BLOCK)
            words = np.frombuffer(bits, "<u8").reshape(self._words, SEGMENT)
            block = self._blocks[number]
            block.first[:, start : start + SEGMENT] = words[: self._first]
            block.rest[start : start + SEGMENT] = words[self._first :].T
            self._documents[place * SEGMENT :][:SEGMENT] = np.frombuffer(documents, "<u4")

    def _grow(self, rows: int) -> None:
        """Room for `rows` rows. The documents' array doubles, the bits are never copied."""
        while len(self._blocks) * BLOCK < rows:
            self._blocks.append(_Block(self._first, self._words - self._first))
        if rows > len(self._documents):
            grown = np.zeros(max(rows, len(self._documents) * 5 // 4), np.uint32)
            grown[: len(self._documents)] = self._documents
            self._documents = grown

    def candidates(self, query: Vectors, count: int, scope: Scope) -> tuple[Rows, Rows]:
        """The about `count` chunks nearest to `query` (dimension,), by id, and their documents.

        Only chunks in `scope` are looked at. Fewer than `count` means that it holds no more.
        """
        rotated = rotate(query[None])[0]
        bits = sign_words(rotated[None])[0]
        with self._lock:
            if not self._blocks:
                return np.zeros(0, np.int64), np.zeros(0, np.int64)
            rows, distances = self._near(bits[: self._first], count * NEAR, scope)
            rest = self._rest(rows)
            distances += _hamming(rest.T, bits[self._first :])
            places = _smallest(distances, count * POOL)
            pool = rows[places]
            products = sign_products(np.hstack([self._firsts(pool).T, rest[places]]), rotated)
            best = pool[np.lexsort((pool, -products))[:count]]
            return self._ids(best), self._documents[best].astype(np.int64)

    def _near(self, first: Words, least: int, scope: Scope) -> tuple[Rows, Distances]:
        """The rows in the scope, in rising order, whose first words are nearest to `first`.

        They are a small share of all rows, but `least` if there are as many. And how far they are.
        """
        total = len(self._segments) * SEGMENT
        most = max(least, total // SHARE)
        found = self._found(scope, total)
        kept = np.count_nonzero(found)
        if kept < GATHERED * total:
            rows = np.flatnonzero(found)
            distances = _hamming(self._firsts(rows), first)
            if kept > most:
                near = _small(distances, most)
                rows, distances = rows[near], distances[near]
            return rows, distances
        distances = np.empty(total, np.uint16)
        for block, start in zip(self._blocks, range(0, total, BLOCK), strict=True):
            part = distances[start : start + BLOCK]
            part[:] = _hamming(block.first[:, : len(part)], first)
        distances[~found] = FAR
        rows = np.flatnonzero(_small(distances, most))
        return rows, distances[rows]

    def _found(self, scope: Scope, total: int) -> npt.NDArray[np.bool_]:
        """Which rows are chunks in the scope."""
        documents = self._documents[:total]
        if scope.documents is None:
            found = np.asarray(documents != 0)
        else:
            top = int(documents.max(initial=0))
            known = np.zeros(top + 1, np.bool_)
            known[scope.documents[scope.documents <= top]] = True
            found = np.empty(total, np.bool_)
            for start in range(0, total, BLOCK):  # by block, for `take` makes its indices wide
                known.take(documents[start : start + BLOCK], out=found[start : start + BLOCK])
        if scope.only is not None:
            only = np.zeros(total, np.bool_)
            only[self._rows(scope.only)] = True
            found &= only
        if scope.without is not None:
            found[self._rows(scope.without)] = False
        return found

    def _rows(self, ids: Rows) -> Rows:
        """Where chunks stand, those that are not held left out."""
        places = np.full(max(self._segments, default=0) + 2, -1, np.int64)
        places[self._segments] = np.arange(len(self._segments))
        segments = np.minimum(ids // SEGMENT, len(places) - 1)
        held = places[segments] >= 0
        rows: Rows = places[segments[held]] * SEGMENT + ids[held] % SEGMENT
        return rows

    def _firsts(self, rows: Rows) -> Words:
        """The first words of rows in rising order: (words, n)."""
        return np.concatenate([b.first.take(inside, axis=1) for b, inside in self._split(rows)], 1)

    def _rest(self, rows: Rows) -> Words:
        """The other words of rows in rising order: (n, words)."""
        return np.concatenate([b.rest.take(inside, axis=0) for b, inside in self._split(rows)])

    def _split(self, rows: Rows) -> Iterator[tuple[_Block, Rows]]:
        """The blocks, and which of rows in rising order stand where in each."""
        ends = np.searchsorted(rows, np.arange(len(self._blocks) + 1) * BLOCK).tolist()
        for number, block in enumerate(self._blocks):
            yield block, rows[ends[number] : ends[number + 1]] - number * BLOCK

    def _ids(self, rows: Rows) -> Rows:
        return np.array(self._segments, np.int64)[rows // SEGMENT] * SEGMENT + rows % SEGMENT


def _hamming(words: Words, bits: Words) -> Distances:
    """The bits in which each column of words (words, n) differs from `bits` (words,)."""
    different = np.empty(words.shape[1], np.uint64)  # written again for each word, so it stays
    count = np.empty(words.shape[1], np.uint8)  # in the cache
    distances = np.zeros(words.shape[1], np.uint16)
    for word, other in zip(words, bits, strict=True):
        np.bitwise_xor(word, other, out=different)
        np.bitwise_count(different, out=count)
        distances += count
    return distances


def _smallest(distances: Distances, count: int) -> Rows:
    """Where the `count` smallest distances are, in rising order; of equal ones the first."""
    found = np.flatnonzero(_small(distances, count))
    return np.sort(found[np.argsort(distances[found], kind="stable")[:count]])


def _small(distances: Distances, count: int) -> npt.NDArray[np.bool_]:
    """Which distances are small: `count` or some more, or all there are; FAR never is.

    A guess from a sample spares the ordering of all, and is widened until it holds enough.
    """
    step = max(1, len(distances) // SAMPLE)
    sample = np.sort(distances[::step])
    rank = 9 * count // (8 * step) + 8
    while rank < len(sample) and sample[rank] < FAR:
        small: npt.NDArray[np.bool_] = distances <= sample[rank]
        if np.count_nonzero(small) >= count:
            return small
        rank *= 4
    every: npt.NDArray[np.bool_] = distances < FAR
    return every
