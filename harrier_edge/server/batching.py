"""Threads that embed what many requests want, in batches across them.

As in `Session.run_many`, every thread runs a batch by itself on one core, side by side with the
others: that is faster than one batch after the other on all cores. Nothing waits for a batch to
fill; what comes while all threads are busy makes the next one. The bits are those of `embed`.

Queries do not wait behind bulk: they have as many threads of their own, before which the system
lets the others stand back (Linux; elsewhere both get an equal share of the cores). Who sends short
texts without end is no query after a while, and waits as all do.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Hashable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass

from harrier_edge.embedder import Embedder
from harrier_edge.errors import BusyError, UsageError
from harrier_edge.server.queue import FairQueue, Job, Text
from harrier_edge.session import GIVE_BACK_TOKENS
from harrier_edge.vectors import Vectors

BULK_NICENESS = 10  # a tenth of what a thread gets that is not nice
BURST_TOKENS = 512  # by which a client's queries may be ahead of its share: some twenty

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Load:
    """What a Batcher has done and has to do."""

    waiting_tokens: int
    tokens: int
    texts: int
    batches: int


class Batcher:
    """The threads and the queue before them. Safe to share between threads."""

    def __init__(self, threads: int, max_waiting_tokens: int) -> None:
        """Start `threads` threads for bulk and as many for queries.

        No more than `max_waiting_tokens` tokens wait or run at a time.
        """
        self._max_waiting = max_waiting_tokens
        self._changed = threading.Condition()
        self._closed = False
        self._waiting = self._tokens = self._texts = self._batches = 0
        self._seconds = 0.0  # that threads have been at work
        self._urgent, self._bulk = FairQueue(), FairQueue()
        self._threads = [
            threading.Thread(
                target=self._work, args=(queue, niceness), name=f"harrier-edge-{name}-{number}"
            )
            for name, queue, niceness in (
                ("query", self._urgent, 0),
                ("bulk", self._bulk, BULK_NICENESS),
            )
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def load(self) -> Load:
        """As it is now."""
        with self._changed:
            return Load(self._waiting, self._tokens, self._texts, self._batches)

    def submit(
        self,
        model: Embedder,
        texts: Sequence[Sequence[int]],
        *,
        client: Hashable = None,
        prompt: str = "",
        urgent: bool = False,
    ) -> Future[Vectors]:
        """Have texts embedded, given as the ids of `Embedder.tokenize`.

        The future's result is (len(texts), dimension) float32 in order; to cancel it takes what is
        still waiting back. `client` is whom the texts count for where the queue is fair; `prompt`
        is what all texts begin with, or "".

        Raises BusyError where so many tokens cannot wait now, UsageError where they never can.
        """
        job = Job(model, prompt, texts, client)
        if not texts:
            job.future.set_result(job.vectors)
            return job.future
        if job.tokens > self._max_waiting:
            raise UsageError(
                f"the texts of this request have {job.tokens} tokens, and this server takes "
                f"{self._max_waiting} at a time. Send fewer at once."
            )
        with self._changed:
            if self._closed:
                raise BusyError("the server is about to end.", retry_after=1.0)
            if self._waiting + job.tokens > self._max_waiting:
                raise BusyError(
                    f"{self._waiting} tokens wait already, of {self._max_waiting} that may. Send "
                    "the request again later.",
                    retry_after=self._waiting * self._seconds_a_token(),
                )
            self._waiting += job.tokens
            if urgent and self._bulk.lead(client) <= BURST_TOKENS:
                self._bulk.charge(client, job.tokens)
                self._urgent.put(job)
            else:
                self._bulk.put(job)
            self._changed.notify_all()
        job.future.add_done_callback(lambda future: self._end(job))
        return job.future

    def close(self) -> None:
        """Let what waits be done, then end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _seconds_a_token(self) -> float:
        """How long a token has taken, all threads at work."""
        return self._seconds / max(1, self._tokens) / (len(self._threads) / 2)

    def _end(self, job: Job) -> None:
        """A job is done, has failed or is no longer wanted."""
        with self._changed:
            self._waiting -= job.tokens

    def _work(self, queue: FairQueue, niceness: int) -> None:
        """What a thread does."""
        if sys.platform == "linux" and niceness:
            with contextlib.suppress(OSError):  # some sandboxes forbid it
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
        while batch := self._next(queue):
            begun = time.perf_counter()
            self._embed(batch)
            with self._changed:
                self._seconds += time.perf_counter() - begun
                self._tokens += sum(len(text.ids) for text in batch)
                self._texts += len(batch)
                self._batches += 1
            del batch  # it would keep its model in memory while the thread waits for the next

    def _next(self, queue: FairQueue) -> list[Text]:
        with self._changed:
            while not (batch := queue.take()) and not self._closed:
                self._changed.wait()
            return batch

    def _embed(self, batch: Sequence[Text]) -> None:
        job = batch[0].job
        try:
            vectors = job.model.embed_batch([text.ids for text in batch], prompt=job.prompt)
            if len(batch[0].ids) > GIVE_BACK_TOKENS:
                job.model.give_back()
        except Exception as error:
            if len(batch) > 1:  # one text may be at fault: the others are not to suffer for it
                for text in batch:
                    self._embed([text])
                return
            with contextlib.suppress(InvalidStateError):  # it was cancelled
                job.future.set_exception(error)
            return
        for text, vector in zip(batch, vectors, strict=True):
            text.job.vectors[text.row] = vector
            with self._changed:
                text.job.missing -= 1
                done = not text.job.missing
            if done:
                with contextlib.suppress(InvalidStateError):
                    text.job.future.set_result(text.job.vectors)
