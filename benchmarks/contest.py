"""Contenders that take turns: each is measured at its best, and all in the same rounds."""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from process import EndedError, Files, Process, make_files
from protocol import Vectors

from harrier_export.parity import row_cosines

Texts = Iterator[list[int]]  # without end, as token ids

SEARCH_TOKENS = 8192  # of the largest batch that is tried
SEARCH_SECONDS = 3.0  # of one batch: a text that takes longer alone is not put into batches
TRY_SECONDS = 0.3  # at least, of a batch size
QUERIES = 40  # a contender and round
QUERY_SECONDS = 4.0  # after which a slow contender's round of queries ends
_START = time.perf_counter()


@dataclass(frozen=True)
class Pace:
    """How a contender takes documents of one length."""

    batch: int
    tokens_per_second: float  # about


class Contest:
    """The contenders that are still in, and why the others are not."""

    def __init__(self, checkpoint: Path, names: Sequence[str], rounds: int, seconds: float) -> None:
        """`seconds` is about what a contender's documents of one length may take a round."""
        self.names = list(names)
        self.absent: dict[str, str] = {}
        self.figures: dict[str, Any] = {}  # "NAME, WHAT" -> value
        self._checkpoint = checkpoint
        self._rounds = rounds
        self._seconds = seconds
        self._files: dict[str, Files] = {}
        self._paces: dict[tuple[str, int], Pace] = {}
        self._processes: list[Process] = []

    def prepare(self, texts_of: Callable[[int], Texts], lengths: Sequence[int]) -> None:
        """Make all files, and find the batch size that suits each contender at each length.

        In processes of their own: neither an export nor a batch that is too large is then in the
        memory that is measured.
        """
        for name in self.names:
            say(f"{name}: files and batch sizes")
            with self._or_absent(name):
                self._files[name] = files = make_files(name, self._checkpoint)
                self.figures[f"{name}, disk mb"] = round(files.disk_mb, 1)
                process = Process(name, self._checkpoint, files.path)
                for length in lengths:
                    self._paces[name, length] = self._pace(process, texts_of(length), length)
                process.close()

    def load(self) -> None:
        """Load everyone anew, now that all files have been read before."""
        for name in self.names:
            if name in self.absent:
                continue
            with self._or_absent(name):
                process = Process(name, self._checkpoint, self._files[name].path)
                self._processes.append(process)
                self.figures[f"{name}, load s"] = round(process.load_s, 2)

    def queries(self, texts: Texts) -> None:
        """Milliseconds for one query after the other."""
        seen: dict[str, list[float]] = {}
        for _ in range(self._rounds):
            some = list(islice(texts, QUERIES))
            for process in self._turns():
                with self._or_absent(process.name):
                    process.seconds(some[:1], 1)
                    times = seen.setdefault(process.name, [])
                    spent = 0.0
                    for query in some:
                        seconds = process.run([query])["seconds"]
                        times.append(seconds * 1000)
                        spent += seconds
                        if spent > QUERY_SECONDS:
                            break
        for name, times in seen.items():
            self.figures[f"{name}, query p50 ms"] = round(statistics.median(times), 2)
            self.figures[f"{name}, query p99 ms"] = round(float(np.percentile(times, 99)), 2)
        self._note_memory("queries")

    def documents(self, texts: Texts, length: int, between: Callable[[], object]) -> None:
        """Tokens a second for documents of `length` tokens; `between` is measured in all rounds.

        Each contender gets as many texts a round as its time allows, at least one batch. One that
        takes far longer than its time misses later rounds.
        """
        seen: dict[str, list[float]] = {}
        spent: dict[str, float] = {}
        for _ in range(self._rounds):
            between()
            some: list[list[int]] = []
            for process in self._turns():
                name = process.name
                if spent.get(name, 0.0) > self._rounds * self._seconds:
                    continue
                pace = self._paces[name, length]
                count = self._seconds * pace.tokens_per_second / length
                count = pace.batch * max(1, round(count / pace.batch))
                some += islice(texts, max(0, count - len(some)))
                with self._or_absent(name):
                    seconds = process.seconds(some[:count], pace.batch)
                    seen.setdefault(name, []).append(count * length / seconds)
                    spent[name] = spent.get(name, 0.0) + seconds
        for name, speeds in seen.items():
            self.figures[f"{name}, tokens/s at {length}"] = round(statistics.median(speeds), 1)
            self.figures[f"{name}, batch at {length}"] = self._paces[name, length].batch
            self.figures[f"{name}, rounds at {length}"] = len(speeds)
        self._note_memory(str(length))
        say(f"documents of {length} tokens are done")

    def memory(self) -> None:
        """Resident memory as it is now, and as it was at most, all lengths included."""
        for process in self._turns():
            self.figures[f"{process.name}, rss mb"] = round(process.rss_mb)
            self.figures[f"{process.name}, peak mb"] = round(process.peak_mb)

    def fidelity(self, texts: Sequence[Sequence[int]], wanted: Vectors) -> None:
        """Mean and minimum cosine to the vectors `wanted`, of texts embedded one at a time."""
        for process in self._turns():
            with self._or_absent(process.name):
                vectors = process.run(texts, vectors=True)["vectors"]
                cosines = row_cosines(vectors, wanted)
                self.figures[f"{process.name}, mean cosine"] = round(float(cosines.mean()), 6)
                self.figures[f"{process.name}, min cosine"] = round(float(cosines.min()), 6)

    def close(self) -> None:
        """End all processes."""
        for process in self._processes:
            process.close()

    def _pace(self, process: Process, texts: Texts, length: int) -> Pace:
        """The best of the batch sizes 1, 2, 4, …: up to two in a row may be no better."""
        known = [pace for (name, _), pace in self._paces.items() if name == process.name]
        if known and length / known[-1].tokens_per_second > SEARCH_SECONDS:
            return Pace(1, known[-1].tokens_per_second)
        speed = length / process.seconds([next(texts)], 1)  # cold
        tried: dict[int, float] = {}
        best = size = 1
        while size * length <= min(SEARCH_TOKENS, SEARCH_SECONDS * speed) and size <= 4 * best:
            count = size * math.ceil(min(TRY_SECONDS, self._seconds) * speed / length / size)
            seconds = process.seconds(list(islice(texts, count)), size)
            tried[size] = count * length / seconds
            best = max(tried, key=lambda size: tried[size])
            speed = tried[best]
            size *= 2
        return Pace(best, speed)

    def _note_memory(self, after: str) -> None:
        for process in self._processes:
            self.figures[f"{process.name}, peak mb up to {after}"] = round(process.peak_mb)

    def _turns(self) -> Iterator[Process]:
        """Those still in, each in its turn."""
        yield from list(self._processes)

    @contextmanager
    def _or_absent(self, name: str) -> Iterator[None]:
        """A contender whose process ends is out, and the others go on."""
        try:
            yield
        except EndedError as error:
            self.absent[name] = str(error)
            self._processes = [p for p in self._processes if p.name != name]
            say(f"{name} is out: {error}")


def say(what: str) -> None:
    """Tell on stderr how far things are, and after how many seconds."""
    print(f"{time.perf_counter() - _START:5.0f} s  {what}", file=sys.stderr)
