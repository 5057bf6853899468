"""The weights of a graph: external data in files under a size limit, made by tasks side by side.

Where a weight lies follows from the shapes alone, so that it is known before there is a byte. The
files hold the same bytes however many threads made them, and whether or not they were made in one
go: what is on the disk is noted in a journal, from which a later run continues.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from harrier_edge.machine import available_cores
from harrier_export.journal import Journal, Written
from harrier_export.tasks import OrderedTasks

Array = npt.NDArray[Any]
# Makes the next rows of each weight of a group, which follow those of the task before.
Task = Callable[[], Sequence[Array]]

MAX_FILE_BYTES = 2 * 10**9
CHECKPOINT_SECONDS = 10.0  # what a killed export has to do again, about
_ALIGNMENT = 4096  # a page, so that every weight can be mapped by itself


@dataclass(frozen=True)
class Weight:
    """A weight by name, dtype and shape."""

    name: str
    dtype: npt.DTypeLike
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Place:
    """Where the bytes of a weight lie."""

    file: str
    offset: int
    length: int


class Weights(Protocol):
    """Takes the weights of a graph, a group of those that are made together at a time."""

    def add(self, group: Sequence[Weight], tasks: Iterable[Task]) -> list[Place]:
        """Say where each weight of `group` lies; `tasks` make their rows.

        `tasks` is gone through here, or not at all where the bytes are not wanted.
        """


class WeightPlan:
    """Where weights will lie: one after another, in as many files as it takes."""

    def __init__(self, first: str, max_file_bytes: int = MAX_FILE_BYTES) -> None:
        """The files are called `first`, then `first`_1 and so on.

        A weight that is larger than `max_file_bytes` has a file of its own.
        """
        self._first = first
        self._max_file_bytes = max_file_bytes
        self._sizes = [0]

    @property
    def nbytes(self) -> int:
        """The size of all files together."""
        return sum(self._sizes)

    def add(self, group: Sequence[Weight], tasks: Iterable[Task] = ()) -> list[Place]:
        """See Weights; no task is run."""
        return [self._place(weight) for weight in group]

    def _place(self, weight: Weight) -> Place:
        end = self._sizes[-1]
        offset = end + -end % _ALIGNMENT
        if offset and offset + weight.nbytes > self._max_file_bytes:
            self._sizes.append(0)
            offset = 0
        self._sizes[-1] = offset + weight.nbytes
        number = len(self._sizes) - 1
        return Place(f"{self._first}_{number}" if number else self._first, offset, weight.nbytes)


@dataclass
class _Group:
    """Weights on their way: the rows of the first are written as they come, others wait."""

    weights: Sequence[Weight]
    places: list[Place]
    waiting: list[list[Array]] = field(default_factory=list)


class WeightFiles:
    """Writes weights; a context, at whose end all is on the disk and `digests` is complete."""

    def __init__(
        self,
        first: Path,
        *,
        max_file_bytes: int = MAX_FILE_BYTES,
        journal: Journal | None = None,
        on_bytes: Callable[[int], object] = lambda count: None,
    ) -> None:
        """Files as `WeightPlan` names them. `on_bytes` is told how many bytes are written.

        With a `journal`, what it says to be written already is kept, and not made again.
        """
        self._folder = first.parent
        self._plan = WeightPlan(first.name, max_file_bytes)
        self._journal = journal
        self._on_bytes = on_bytes
        self._tasks = OrderedTasks(available_cores())
        self.digests: dict[str, str] = {}  # file -> sha256
        self._groups = 0  # asked for
        self._written = 0  # groups that are written
        self._total = 0  # bytes
        self._notes = ThreadPoolExecutor(1, "harrier-edge-journal")  # disks keep one waiting
        self._note: Future[None] | None = None
        self._noted = time.monotonic()
        self._unsynced: list[int] = []  # descriptors of finished files
        self._file: Any = None
        self._name = ""
        self._digest = hashlib.sha256()
        self._continue(first.name)

    def add(self, group: Sequence[Weight], tasks: Iterable[Task]) -> list[Place]:
        """See Weights. What a task of an earlier group raised may be raised."""
        places = self._plan.add(group)
        self._groups += 1
        if self._groups <= self._written:
            return places
        self._take(_Group(group, places, [[] for _ in group]), tasks)
        return places

    def _take(self, group: _Group, tasks: Iterable[Task]) -> None:
        dtypes = [np.dtype(weight.dtype).newbyteorder("<") for weight in group.weights]

        def rows_of(task: Task) -> list[Array]:
            return [np.ascontiguousarray(a, d) for a, d in zip(task(), dtypes, strict=True)]

        self._tasks.give(_nothing, lambda _: self._begin(group.places[0]))
        tasks = list(tasks)
        nbytes = sum(place.length for place in group.places) // max(1, len(tasks))  # of each
        for task in tasks:
            self._tasks.give(
                lambda task=task: rows_of(task),  # type: ignore[misc]
                lambda rows: self._rows(group, rows),
                nbytes,
            )
        self._tasks.give(_nothing, lambda _: self._end(group))

    def flush(self) -> None:
        """Have all that was added on the disk and in the journal."""
        self._tasks.take_all()
        self._checkpoint()
        if self._note:
            self._note.result()

    def __enter__(self) -> WeightFiles:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        try:
            if error is None:
                self._tasks.take_all()
                self._finish_file()
                self.flush()
        finally:
            self._tasks.close()
            self._notes.shutdown()
            if self._file:
                self._file.close()

    def _continue(self, first: str) -> None:
        """Go back to what the journal knows; files of which it knows nothing are removed."""
        state = self._journal.state if self._journal else None
        if state:
            self.digests = dict(state.digests)
            self._written = state.groups
            self._total = sum((self._folder / name).stat().st_size for name in self.digests)
        for path in self._folder.glob(f"{first}*"):
            if path.name not in self.digests and not (state and path.name == state.file):
                path.unlink()
        if state and state.file:
            self._open(state.file, "r+b")
            self._file.truncate(state.length)
            while chunk := self._file.read(2**22):
                self._digest.update(chunk)
            self._total += state.length
        self._on_bytes(self._total)

    def _open(self, name: str, mode: str) -> None:
        self._name = name
        self._file = (self._folder / name).open(mode)
        self._digest = hashlib.sha256()

    def _begin(self, place: Place) -> None:
        """Go to where a weight begins."""
        if place.file != self._name:
            self._finish_file()
            self._open(place.file, "xb")
        self._write(bytes(place.offset - self._file.tell()))

    def _rows(self, group: _Group, rows: Sequence[Array]) -> None:
        self._write(rows[0])
        for waiting, array in zip(group.waiting[1:], rows[1:], strict=True):
            waiting.append(array)

    def _end(self, group: _Group) -> None:
        """Write the other weights of a group."""
        self._check(group.weights[0], group.places[0])
        others = zip(group.weights, group.places, group.waiting, strict=True)
        for weight, place, arrays in list(others)[1:]:
            self._begin(place)
            for array in arrays:
                self._write(array)
            self._check(weight, place)
        self._written += 1
        if time.monotonic() - self._noted >= CHECKPOINT_SECONDS:
            self._checkpoint()

    def _check(self, weight: Weight, place: Place) -> None:
        if (written := self._file.tell() - place.offset) != place.length:
            raise ValueError(
                f"{weight.name}: {written} bytes written for {weight.dtype} {list(weight.shape)}"
            )

    def _write(self, data: Any) -> None:
        view = memoryview(data).cast("B") if len(data) else b""
        self._file.write(view)
        self._digest.update(view)
        self._total += len(view)
        self._on_bytes(self._total)

    def _finish_file(self) -> None:
        if self._file:
            self._file.flush()
            if self._journal:
                self._unsynced.append(os.dup(self._file.fileno()))
            self._file.close()
            self.digests[self._name] = self._digest.hexdigest()
            self._file, self._name = None, ""

    def _checkpoint(self) -> None:
        """Begin to put what is written on the disk, and then to say so in the journal."""
        self._noted = time.monotonic()
        if not self._journal:
            return
        if self._note:
            self._note.result()
        length, unsynced = 0, self._unsynced
        if self._file:
            self._file.flush()
            length = self._file.tell()
            unsynced.append(os.dup(self._file.fileno()))
        self._unsynced = []
        state = Written(self._written, self._name, length, dict(self.digests))
        self._note = self._notes.submit(_sync_and_note, unsynced, self._journal, state)


def _sync_and_note(descriptors: Sequence[int], journal: Journal, state: Written) -> None:
    try:
        for descriptor in descriptors:
            os.fsync(descriptor)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    journal.note(state)


def _nothing() -> None:
    """For what has to be done between the results of tasks."""
