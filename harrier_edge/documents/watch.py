"""Folders to the moments at which something in them has changed."""

from __future__ import annotations

import threading
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path

from harrier_edge.paths import is_below

QUIET_MS = 1600  # changes are gathered this long
FIRST_MS = 200  # how long a first change is waited for, before the other watch has its turn


def moments(
    paths: Sequence[Path], ignored: Container[Path], stop: threading.Event | None = None
) -> Iterator[bool]:
    """Yield once when the watch has begun, then whenever files at or below `paths` have changed.

    Nothing that happens between is missed. Files that are `ignored` do not count. It
    ends when `stop` is set.
    """
    from watchfiles import watch  # only who watches needs it

    folders = [path for path in paths if path.is_dir()]
    # Of a file, the folder that it is in: an editor that saves puts a new file in its place.
    above = {path.parent for path in paths if not is_below(path, folders)}
    watches = [
        watch(
            *watched,
            watch_filter=None,  # one that drops all changes would keep the other watch waiting
            debounce=QUIET_MS,
            rust_timeout=FIRST_MS,
            yield_on_timeout=True,
            stop_event=stop,
            recursive=recursive,
            ignore_permission_denied=True,
        )
        for watched, recursive in ((folders, True), (above, False))
        if watched
    ]
    # macOS reports paths without their links.
    names = {name: path for path in paths for name in (path.resolve(), path)}
    begun = False
    for changes in zip(*watches, strict=False):  # strict would wait once more when one has ended
        changed = {Path(name) for some in changes for _, name in some}
        if not begun or any(_counts(path, names, ignored) for path in changed):
            begun = True
            yield True


def _counts(changed: Path, names: Mapping[Path, Path], ignored: Container[Path]) -> bool:
    """Whether a changed file is in a source, by any of its `names`, and not one of `ignored`."""
    for name, source in names.items():
        if is_below(changed, [name]):
            return changed not in ignored and source / changed.relative_to(name) not in ignored
    return False
