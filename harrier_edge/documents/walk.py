"""Paths to files: folders are walked, and what is passed over is counted by its reason."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from dataclasses import dataclass, field
from mimetypes import MimeTypes
from pathlib import Path
from typing import Any

from harrier_edge.documents.read import FORMATS
from harrier_edge.documents.text import SNIFFED, is_binary
from harrier_edge.errors import DocumentError
from harrier_edge.paths import absolute, printable

MAX_FILE_BYTES = 64 * 2**20
# The later one may take back, with "!", what the earlier one ignores.
IGNORE_FILES = (".gitignore", ".harrierignore")
_TYPES = MimeTypes()  # Python's own table, the same on every machine
_TEXTUAL = (
    *("text/", "message/", "application/json", "application/xml", "application/javascript"),
    *("application/x-tex", "application/x-latex", "application/x-troff", "application/x-csh"),
)


@dataclass(frozen=True)
class File:
    """A file that is to be read. `stamp` changes whenever size or modification time do."""

    path: Path
    size: int  # bytes
    modified: float  # seconds since 1970
    stamp: str


@dataclass(frozen=True)
class Failure:
    """A file or folder that should have been read and could not be, and why."""

    path: str
    reason: str


@dataclass
class Found:
    """What a walk found: files in the order of their paths, and what was left out."""

    files: list[File] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)  # reason -> files and folders
    failed: list[Failure] = field(default_factory=list)
    unread: list[Path] = field(default_factory=list)  # those of `failed`: nothing is known of them


def find_files(path: Path, max_bytes: int = MAX_FILE_BYTES) -> Found:
    """The file `path`, whatever its name, or the files to be read in the folder `path`.

    Hidden files, what .gitignore and .harrierignore say, links to folders (which may lead in a
    circle), devices and the like, binary files and those over `max_bytes` are skipped. Raises
    DocumentError where `path` does not exist or is neither a file nor a folder.
    """
    path = absolute(path)
    found = Found()
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise DocumentError(f"{path}: no such file or folder. Check the path.") from error
    if stat.S_ISDIR(mode):
        try:
            specs = _specs_above(path)
        except OSError as error:
            _fail(found, path, error)
            return found
        if _is_ignored(path, True, specs):
            specs = ()  # who names an ignored folder wants it
        _walk(path, specs, max_bytes, found)
        found.files.sort(key=lambda file: file.path)
    elif stat.S_ISREG(mode):
        found.files.append(_file(path, path.stat()))
    else:
        raise DocumentError(f"{path}: is neither a file nor a folder. Name another path.")
    return found


# Folders with the patterns of their ignore files: for files, and for folders.
_Specs = tuple[tuple[Path, Any, Any], ...]


def _walk(folder: Path, specs: _Specs, max_bytes: int, found: Found) -> None:
    try:
        with os.scandir(folder) as scan:
            entries = list(scan)
        if any(entry.name in IGNORE_FILES for entry in entries):
            specs = (*specs, *_specs_of(folder))
    except OSError as error:
        _fail(found, folder, error)
        return
    for entry in entries:
        path = folder / entry.name
        try:
            if reason := _reason(entry, path, specs, max_bytes):
                found.skipped[reason] += 1
            elif entry.is_dir():
                _walk(path, specs, max_bytes, found)
            else:
                found.files.append(_file(path, entry.stat()))
        except FileNotFoundError:
            continue  # it has just gone
        except OSError as error:
            _fail(found, path, error)


def _fail(found: Found, path: Path, error: OSError) -> None:
    """Nothing is known of `path`, since it, or an ignore file that counts there, is unreadable."""
    culprit = Path(error.filename or path)
    found.failed.append(Failure(printable(culprit), f"cannot be read: {error.strerror}"))
    found.unread.append(path)


def _reason(entry: os.DirEntry[str], path: Path, specs: _Specs, max_bytes: int) -> str:
    """Why a folder's entry is skipped; "" where it is not."""
    if entry.name.startswith("."):
        return "hidden"
    if entry.is_symlink() and not path.exists():
        return "broken link"
    if _is_ignored(path, entry.is_dir(), specs):
        return "ignored"
    if entry.is_dir():
        return "link to a folder" if entry.is_symlink() else ""
    status = entry.stat()
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file"
    if status.st_size > max_bytes:
        return "too large"
    return "" if path.suffix.lower() in FORMATS else _unknown(path)


def _unknown(path: Path) -> str:
    """Why a file of no known format is skipped: it is not text."""
    media_type, encoding = _TYPES.guess_type(path.name)
    if encoding or (media_type and not media_type.startswith(_TEXTUAL)):
        return "binary"
    with path.open("rb") as file:
        return "binary" if is_binary(file.read(SNIFFED)) else ""


def _file(path: Path, status: os.stat_result) -> File:
    return File(path, status.st_size, status.st_mtime, f"{status.st_size}:{status.st_mtime_ns}")


def _specs_above(folder: Path) -> _Specs:
    """The ignore files of the folders above, up to the top of the git repository, if in one."""
    above: list[Path] = []
    current = folder
    while not (current / ".git").exists():
        if current.parent == current:
            return ()
        current = current.parent
        above.append(current)
    return tuple(spec for parent in reversed(above) for spec in _specs_of(parent))


def _specs_of(folder: Path) -> _Specs:
    from pathspec import GitIgnoreSpec, PathSpec  # most folders have no ignore file

    patterns: list[Any] = []
    for name in IGNORE_FILES:
        file = folder / name
        if file.is_file():
            for line in file.read_text("utf-8-sig", "replace").splitlines():
                patterns += _patterns(line)
    # GitIgnoreSpec lets a pattern for what is in a folder give way to others, whatever their
    # order. For the folder itself only the order counts.
    return ((folder, GitIgnoreSpec(patterns), PathSpec(patterns)),) if patterns else ()


def _patterns(line: str) -> list[Any]:
    """The pattern of a line, if it is one; git too passes over lines that are none."""
    from pathspec import GitIgnoreSpec

    try:
        return list(GitIgnoreSpec.from_lines([line]).patterns)
    except (ValueError, re.error):
        return []


def _is_ignored(path: Path, is_folder: bool, specs: _Specs) -> bool:
    """By the pattern that matches last in the deepest folder, as in git."""
    for folder, of_files, of_folders in reversed(specs):
        name = path.relative_to(folder).as_posix()
        checked = of_folders.check_file(f"{name}/") if is_folder else of_files.check_file(name)
        include: bool | None = checked.include
        if include is not None:
            return include
    return False
