"""Tasks that run side by side, whose results are taken in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

MOST_BYTES = 2**28


class OrderedTasks:
    """Threads for tasks; who gives them also takes their results, in the order in which he gave.

    Two tasks a thread are under way or waiting to be taken at most, and of large results as many
    as `MOST_BYTES` hold, or one, so that memory grows neither with them nor with the threads.
    """

    def __init__(self, threads: int) -> None:
        """No thread starts before the first task."""
        self._pool = ThreadPoolExecutor(threads, "harrier-edge-export")
        self._most = 2 * threads
        self._pending: deque[tuple[Future[Any], Callable[[Any], object], int]] = deque()
        self._bytes = 0  # of all pending results

    def give(self, task: Callable[[], T], take: Callable[[T], object], nbytes: int = 0) -> None:
        """Run `task` on a thread; `take` gets its result here, in a later call of this object.

        The result has about `nbytes`. What an earlier task raised is raised.
        """
        while self._pending and (
            len(self._pending) >= self._most or self._bytes + nbytes > MOST_BYTES
        ):
            self._take_first()
        self._pending.append((self._pool.submit(task), take, nbytes))
        self._bytes += nbytes

    def take_all(self) -> None:
        """Wait for all tasks and take their results."""
        while self._pending:
            self._take_first()

    def close(self) -> None:
        """Drop what has not begun, wait for what has."""
        self._pending.clear()
        self._bytes = 0
        self._pool.shutdown(cancel_futures=True)

    def _take_first(self) -> None:
        future, take, nbytes = self._pending.popleft()
        self._bytes -= nbytes
        take(future.result())
