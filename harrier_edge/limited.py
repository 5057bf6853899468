"""A session that keeps its process within a limit of memory, at the cost of time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import onnxruntime

from harrier_edge.budget import Budget
from harrier_edge.session import BATCH_TOKENS, Session, Vectors

# Of what a text takes layer by layer, in states: its own, keys and values, and what copies them.
_STATES = 3
_FLOAT_BYTES = 4


class LimitedSession(Session):
    """A session that is used by one thread after the other, and takes no more than it may.

    It has the graph for all threads or that for single ones loaded, both only where there is room;
    as many batches side by side as there is room for; and texts go layer by layer from where one
    pass would not fit.
    """

    def __init__(self, *arguments: Any, limit: int, **options: Any) -> None:
        """As a Session, with `limit` in bytes for all that is resident of this process.

        Raises UsageError, naming the least limit that works, where the model and one batch of
        BATCH_TOKENS tokens do not fit.
        """
        self._budget = Budget(limit)
        self._turn = threading.RLock()
        self._batch_bytes = 0  # not measured yet
        self._has_room_for_both = True  # for the first to be loaded
        before = self._budget.taken()
        super().__init__(*arguments, **options)
        loaded = self._budget.taken()
        self._run_text(self._all_threads(), [self._pad_token] * BATCH_TOKENS)
        # What a batch takes, measured: that depends on the model, the precision and the processor.
        taken = self._budget.taken() - loaded
        self._tidy()
        self._batch_bytes = max(taken, BATCH_TOKENS * self.dimension * _FLOAT_BYTES)
        self._require(self._batch_bytes, "a batch")
        both = loaded - before + self._threads * self._batch_bytes
        self._has_room_for_both = self._once or self._budget.room() >= both
        self._longest = self._one_pass_tokens
        self._batch_tokens = BATCH_TOKENS  # of the widest batch that is to come

    def run(self, batch: Sequence[Sequence[int]]) -> Vectors:
        """As `Session.run`; raises UsageError where a text does not fit into the limit."""
        with self._turn:
            self._plan(batch)
            return super().run(batch)

    def run_after(self, beginning: Sequence[int], text: Sequence[int]) -> Vectors | None:
        """As `Session.run_after`; likewise."""
        with self._turn:
            self._plan([text])
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
            self._plan(texts)
            return super().run_many(texts, batch_size=batch_size, on_texts=on_texts)

    def run_beside(self, batch: Sequence[Sequence[int]]) -> Vectors:
        """As `Session.run_beside`, but one after the other."""
        with self._turn:
            self._plan(batch)
            return super().run_beside(batch)

    def give_back(self) -> None:
        """As `Session.give_back`."""
        with self._turn:
            self._tidy()

    def _plan(self, texts: Sequence[Sequence[int]]) -> None:
        """Find how long a text may be in one pass, or refuse them."""
        vectors = len(texts) * self.dimension * _FLOAT_BYTES
        self._require(vectors + self._batch_bytes, "a batch")
        room = self._budget.room() - vectors
        self._one_pass_tokens = min(
            self._longest, max(BATCH_TOKENS, room * BATCH_TOKENS // self._batch_bytes)
        )
        longest = max(map(len, texts), default=0)
        self._batch_tokens = max(BATCH_TOKENS, min(longest, self._one_pass_tokens))
        if longest <= self._one_pass_tokens:
            return
        if self._layers:
            states = _STATES * longest * self.dimension * _FLOAT_BYTES
            needed = 2 * self._batch_bytes + states  # a layer's pieces are two batches long
            if self._budget.room() < vectors + needed:
                self._whole = self._one_thread = None  # loaded again for shorter texts
        else:
            needed = longest * self._batch_bytes // BATCH_TOKENS
        self._require(vectors + needed, f"a text of {longest} tokens")

    def _require(self, needed: int, what: str) -> None:
        if self._budget.room() < needed:
            self._tidy()
        self._budget.require(needed, what)

    def _side_by_side(self) -> int:
        # What the arena has for the first batch is counted as taken only once that has run.
        widest = self._batch_bytes * self._batch_tokens // BATCH_TOKENS
        return max(1, min(super()._side_by_side(), self._budget.room() // widest))

    def _run(
        self, session: onnxruntime.InferenceSession, batch: Sequence[Sequence[int]]
    ) -> Vectors:
        vectors = super()._run(session, batch)
        if self._budget.room() < self._batch_bytes:
            self._tidy()
        return vectors

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
