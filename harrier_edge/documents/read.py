"""Paths to files, and files to text."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from harrier_edge.errors import DocumentError

# What a folder is searched for. A file that is named itself may have any name.
SUFFIXES = (".md", ".markdown", ".txt", ".text", ".rst")
_BOMS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def absolute(path: Path) -> Path:
    """`path` from the root, with no `..` in it; links stay as they are named."""
    return Path(os.path.abspath(path.expanduser()))  # noqa: PTH100  Path has no such function


def find_files(paths: Sequence[Path]) -> list[Path]:
    """The files among `paths` and the text files in the folders among them, each once, sorted.

    Hidden files and folders are passed over, and so are links to folders, which may lead in a
    circle. Raises DocumentError where a path does not exist.
    """
    found: set[Path] = set()
    for path in map(absolute, paths):
        if path.is_dir():
            found.update(_walk(path))
        elif path.exists():
            found.add(path)
        else:
            raise DocumentError(f"{path}: no such file or folder. Check the path.")
    return sorted(found)


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield Path(parent, name)


def read_bytes(path: Path) -> bytes:
    """A file's bytes. Raises DocumentError where it cannot be read."""
    try:
        str(path).encode()
        return path.read_bytes()
    except UnicodeEncodeError as error:
        raise DocumentError("its name is not UTF-8, rename it") from error
    except OSError as error:
        raise DocumentError(f"cannot be read: {error.strerror}") from error


def decode(data: bytes) -> str:
    r"""Text of a file in UTF-8, or in UTF-16 with a byte order mark; lines end in "\n".

    Raises DocumentError where it is neither.
    """
    encoding = next((name for bom, name in _BOMS.items() if data.startswith(bom)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DocumentError(
            f"is not UTF-8 text (byte {error.start}), convert it or leave it out"
        ) from error
    if "\0" in text:
        raise DocumentError("holds NUL bytes, so it is not text")
    return text.replace("\r\n", "\n").replace("\r", "\n")
