"""Texts that wait to be embedded, in fair order, and the batches they leave in.

Fair is start-time fair queueing (Goyal, Vin and Cheng, 1996): a text starts, in a time that is
counted in tokens, when the client's former texts have ended, and the earliest start goes first.
Who sends much thus waits behind itself, not before others.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from harrier_edge.embedder import Embedder
from harrier_edge.session import BATCH_TOKENS
from harrier_edge.vectors import Vectors

# What the padding of a text may cost: a batch of its own costs about as much as so many tokens.
PADDING_TOKENS = 8
WINDOW = 128  # texts next in order among which a batch finds some of like length
REMEMBERED = 4096  # clients whose former texts still count, before those that do not are dropped


@dataclass(eq=False)
class Job:
    """The texts of one request, and the vectors found so far."""

    model: Embedder
    prompt: str
    texts: Sequence[Sequence[int]]
    client: Hashable
    future: Future[Vectors] = field(default_factory=Future)

    def __post_init__(self) -> None:
        self.vectors = np.empty((len(self.texts), self.model.dimension), np.float32)
        self.missing = len(self.texts)
        self.tokens = sum(map(len, self.texts))


@dataclass(frozen=True)
class Text:
    """One text of a job, by its row."""

    job: Job
    row: int

    @property
    def ids(self) -> Sequence[int]:
        """Its token ids."""
        return self.job.texts[self.row]


class FairQueue:
    """What waits. Not safe to share between threads: its owner has a lock."""

    def __init__(self) -> None:
        self._waiting: list[tuple[float, int, Text]] = []  # a heap by start
        self._order = itertools.count()
        self._now = 0.0  # the start of what was taken last, in tokens
        self._ends: dict[Hashable, float] = {}  # of each client's last text

    def put(self, job: Job) -> None:
        """Let the texts of a job wait."""
        for row, ids in enumerate(job.texts):
            start = self.charge(job.client, len(ids))
            heapq.heappush(self._waiting, (start, next(self._order), Text(job, row)))

    def charge(self, client: Hashable, tokens: int) -> float:
        """Count tokens for a client, here or elsewhere; when they start."""
        if not self._waiting:
            self._ends.clear()  # nobody is wronged who does not wait
        elif len(self._ends) > REMEMBERED:
            self._ends = {who: end for who, end in self._ends.items() if end > self._now}
        start = max(self._now, self._ends.get(client, 0.0))
        self._ends[client] = start + tokens
        return start

    def lead(self, client: Hashable) -> float:
        """By how many tokens a client is ahead of those who wait; 0 where nobody does."""
        return max(0.0, self._ends.get(client, 0.0) - self._now) if self._waiting else 0.0

    def take(self) -> list[Text]:
        """The next batch: the text that is first, and others of like length; [] for none.

        All are of one model. A text behind a prompt comes alone: its prompt's tokens are kept, and
        it is the cheaper for that.
        """
        first = self._pop()
        if first is None:
            return []
        start, _, head = first
        self._now = start
        if head.job.prompt:
            return [head]
        passed = []
        near = []
        for _ in range(WINDOW):
            entry = self._pop()
            if entry is None:
                break
            text = entry[2]
            apart = abs(len(text.ids) - len(head.ids))
            fits = text.job.model is head.job.model and not text.job.prompt
            if fits and apart <= PADDING_TOKENS:
                near.append((apart, entry))
            else:
                passed.append(entry)
        near.sort(key=lambda pair: pair[0])  # stable: of one length, who is first stays first
        batch, width = [head], len(head.ids)
        for _, entry in near:
            wider = max(width, len(entry[2].ids))
            if wider * (len(batch) + 1) <= BATCH_TOKENS:
                batch.append(entry[2])
                width = wider
            else:
                passed.append(entry)
        for entry in passed:
            heapq.heappush(self._waiting, entry)
        return batch

    def _pop(self) -> tuple[float, int, Text] | None:
        """What is first of those that are still wanted."""
        while self._waiting:
            entry = heapq.heappop(self._waiting)
            if not entry[2].job.future.done():
                return entry
        return None
