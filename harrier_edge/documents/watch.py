"""Folders to the moments at which something in them has changed."""

from __future__ import annotations

import threading
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

from harrier_edge.paths import is_below

QUIET_MS = 1600  # changes are gathered this long
FIRST_MS = 200  # how long the first moment is waited for


def moments(
    paths: Sequence[Path], ignored: Container[Path], stop: threading.Event | None = None
) -> Iterator[bool]:
    """Yield once when the watch has begun, then whenever files at or below `paths` have changed.

    Nothing that happens between is missed. Files that are `ignored` do not count. It
    ends when `stop` is set.
    """
    from watchfiles import watch  # only who watches needs it

    folders = sorted({path if path.is_dir() else path.parent for path in paths})

    def counts(_: object, changed: str) -> bool:
        return is_below(Path(changed), paths) and Path(changed) not in ignored

    begun = False
    for changes in watch(
        *folders,
        watch_filter=counts,
        debounce=QUIET_MS,
        rust_timeout=FIRST_MS,
        yield_on_timeout=True,
        stop_event=stop,
        recursive=any(path.is_dir() for path in paths),
    ):
        if changes or not begun:
            begun = True
            yield True
