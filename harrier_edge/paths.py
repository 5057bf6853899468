"""Paths as an index names them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path


def absolute(path: Path) -> Path:
    """`path` from the root, with no `..` in it; links stay as they are named."""
    with suppress(RuntimeError):  # a name such as ~$notes.docx, which is nobody's home
        path = path.expanduser()
    return Path(os.path.abspath(path))  # noqa: PTH100  Path has no such function


def printable(path: Path) -> str:
    """A path that any terminal and JSON can hold."""
    return os.fsencode(path).decode("utf-8", "replace")


def is_below(path: Path, folders: Sequence[Path]) -> bool:
    """Whether `path` is one of `folders` or inside of one."""
    return any(path == folder or folder in path.parents for folder in folders)
