"""A session that keeps its process within a limit of memory, at the cost of time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from harrier_edge.budget import Budget
from harrier_edge.machine import return_large_memory, trim_memory
from harrier_edge.releases import SCORES_IN_TILES
from harrier_edge.session import BATCH_TOKENS, Session, Vectors

# Of what a text takes layer by layer, in states: its own, keys and values, and what copies them.
_STATES = 3
_FLOAT_BYTES = 4
# What a batch takes beside others, of what it takes alone: they leave gaps in each other's memory.
_GAPS = 1.125
# The power of its tokens with which what a text takes grows: without tiles scores are a square.
_GROWTH = 1 if SCORES_IN_TILES else 2


class LimitedSession(Session):
    """A session that is used by one thread after the other, and takes no more than it may.

    It has the graph for all threads or that for single ones loaded, both only where there is room;
    as many batches side by side as there is room for; and texts go layer by layer from where one
    pass would not fit.
    """

    _shares_memory = False  # a graph that is let go takes its memory with it

    def __init__(self, *arguments: Any, limit: int, **options: Any) -> None:
        """As a Session, with `limit` in bytes for all that is resident of this process.

        Raises UsageError, naming the least limit that works, where the model and one batch of
        BATCH_TOKENS tokens do not fit.
        """
        self._budget = Budget(limit)
        self._turn = threading.RLock()
        # What a batch takes, measured: that depends on graph, precision and processor.
        self._batch_bytes: dict[Path, int] = {}
        self._has_room_for_both = True  # for the first to be loaded
        self._change = threading.Condition()
        self._running = 0  # bytes for the batches that run now
        self._allowed = 0  # likewise, at the most
        return_large_memory()
        before, peak = self._budget.taken(), self._budget.peak()
        super().__init__(*arguments, **options)
        if self._budget.peak() > max(peak, limit):
            self._budget.require(self._budget.peak() - self._budget.taken(), "loading")
        self._graph_bytes = self._budget.taken() - before
        batch = max(self._batch_bytes.values())
        self._require(batch, "a batch")
        both = self._graph_bytes + self._threads * batch
        self._has_room_for_both = self._once or self._budget.room() >= both
        self._longest = self._one_pass_tokens

    def run(self, batch: Sequence[Sequence[int]]) -> Vectors:
        """As `Session.run`; raises UsageError where a text does not fit into the limit."""
        with self._turn:
            self._plan(batch, self._query or self._model)
            return super().run(batch)

    def run_after(self, beginning: Sequence[int], text: Sequence[int]) -> Vectors | None:
        """As `Session.run_after`; likewise."""
        with self._turn:
            self._plan([text], self._query or self._model)
            return super().run_after(beginning, text)

    def run_many(
        self,
        texts: Sequence[Sequence[int]],
        *,
        batch_size: int | None = None,
        on_texts: Callable[[int], object] = lambda count: None,
    ) -> Vectors:
        """As `Session.run_many`; likewise."""
        with self._turn:
            self._plan(texts, self._model)
            return super().run_many(texts, batch_size=batch_size, on_texts=on_texts)

    def run_beside(self, batch: Sequence[Sequence[int]]) -> Vectors:
        """As `Session.run_beside`, but one after the other."""
        with self._turn:
            self._plan(batch, self._model)
            return super().run_beside(batch)

    def give_back(self) -> None:
        """As `Session.give_back`."""
        with self._turn:
            self._tidy()

    def _plan(self, texts: Sequence[Sequence[int]], graph: Path) -> None:
        """Find what may be run in one pass of a graph and side by side, or refuse the texts."""
        batch = self._bytes_of_batch(graph)
        vectors = len(texts) * self.dimension * _FLOAT_BYTES
        wanted = batch + vectors
        if self._room() < wanted + (self._threads - 1) * batch:
            self._tidy()
        self._budget.require(wanted, "a batch")
        self._allowed = self._room() - vectors
        longest = max(texts, key=len, default=())
        room = max(0, self._allowed - self._table_bytes(longest))
        self._one_pass_tokens = min(self._longest, max(BATCH_TOKENS, _tokens_in(room / batch)))
        if len(longest) <= self._one_pass_tokens:
            return
        if self._layers:
            states = _STATES * len(longest) * self.dimension * _FLOAT_BYTES
            needed = vectors + states + 2 * batch  # a layer's pieces are two batches long
            if self._budget.room() < needed:
                self._whole = self._one_thread = None  # loaded again for shorter texts
        else:
            needed = vectors + int(batch * _batches(len(longest)))
        self._require(needed, f"a text of {len(longest)} tokens")

    def _room(self) -> int:
        """Bytes that may be taken beside a graph, which may have to be loaded first."""
        is_loaded = self._whole or self._one_thread
        return self._budget.room() - (0 if is_loaded else self._graph_bytes)

    def _bytes_of_batch(self, graph: Path) -> int:
        return self._batch_bytes.get(graph) or max(self._batch_bytes.values())

    def _table_bytes(self, tokens: Sequence[int]) -> int:
        return self._packed.bytes_of(tokens) if self._packed else 0

    def _require(self, needed: int, what: str) -> None:
        if self._budget.room() < needed:
            self._tidy()
        self._budget.require(needed, what)

    def _load(self, model: Path, threads: int) -> onnxruntime.InferenceSession:
        session = super()._load(model, threads)
        if model not in self._batch_bytes:
            self._tidy()  # what loading took and freed would hide what the batch takes
            loaded = self._budget.taken()
            super()._one_pass(session, [[self._pad_token] * BATCH_TOKENS])
            taken = self._budget.taken() - loaded
            self._give_back_of(session)
            trim_memory()
            least = BATCH_TOKENS * self.dimension * _FLOAT_BYTES
            self._batch_bytes[model] = max(int(taken * _GAPS), least)
        self._allowed = self._budget.room()
        return session

    def _one_pass(
        self,
        session: onnxruntime.InferenceSession,
        batch: Sequence[Sequence[int]],
        options: onnxruntime.RunOptions | None = None,
    ) -> Vectors:
        """As `Session._one_pass`, once there is room beside the batches that run now."""
        graph = self._model if session is self._one_thread else self._query or self._model
        tokens = len(batch) * max(map(len, batch))
        needed = int(self._bytes_of_batch(graph) * _batches(tokens))
        needed += self._table_bytes([token for text in batch for token in text])
        with self._change:
            self._change.wait_for(
                lambda: not self._running or self._running + needed <= self._allowed
            )
            self._running += needed
        try:
            if self._budget.room() < self._running:  # others may not have taken theirs yet
                self._tidy()
            return super()._one_pass(session, batch, options)
        finally:
            with self._change:
                self._running -= needed
                self._change.notify_all()

    def _all_threads(self) -> onnxruntime.InferenceSession:
        with self._loading:
            if not self._has_room_for_both:
                self._one_thread = None
            return super()._all_threads()

    def _single(self) -> onnxruntime.InferenceSession:
        with self._loading:
            if not self._has_room_for_both:
                self._whole = None
            return super()._single()

    def _tidy(self) -> None:
        """Give back what is held for the next run, and the table's pages."""
        for session in (self._whole, self._one_thread):
            if session is not None:
                self._give_back_of(session)
        if self._packed:
            self._packed.forget()
        trim_memory()


def _batches(tokens: int) -> float:
    """How many times as much as a batch so many tokens take in one pass, at the most."""
    share = tokens / BATCH_TOKENS
    return float(max(share, share**_GROWTH))


def _tokens_in(batches: float) -> int:
    """How many tokens may be run in one pass in the room for so many batches."""
    return int(BATCH_TOKENS * batches ** (1 / _GROWTH))
