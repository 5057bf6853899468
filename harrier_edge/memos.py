"""What was found out on this machine about a file or folder, remembered in the cache.

A memo is a small JSON file, whose name is a hash of the path that it is about. Each can be lost:
that costs time, nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from harrier_edge.places import cache_folder, write_whole

T = TypeVar("T")


def remember(kind: str, about: Path, value: object) -> None:
    """Note `value`, which JSON can hold; in silence where the cache cannot be written.

    What is noted already is not written again: every search notes its index.
    """
    memo = _memo(kind, about)
    data = msgspec.json.encode(value)
    with contextlib.suppress(OSError):
        if memo.exists() and memo.read_bytes() == data:
            return
        memo.parent.mkdir(parents=True, exist_ok=True)
        write_whole(memo, data)


def recall(kind: str, about: Path, form: type[T]) -> T | None:
    """What was noted of `kind` about that path; None where nothing was, or it cannot be read."""
    return _read(_memo(kind, about), form)


def recall_all(kind: str, form: type[T]) -> Iterator[T]:
    """All that was noted of `kind`, in no order."""
    folder = cache_folder() / kind
    names = sorted(folder.iterdir()) if folder.is_dir() else []
    for memo in names:
        if (value := _read(memo, form)) is not None:
            yield value


def _memo(kind: str, about: Path) -> Path:
    return cache_folder() / kind / hashlib.sha256(bytes(about.resolve())).hexdigest()


def _read(memo: Path, form: type[T]) -> T | None:
    try:
        return msgspec.json.decode(memo.read_bytes(), type=form)
    except (OSError, msgspec.DecodeError):
        return None
