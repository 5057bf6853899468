"""Where an export is written: a hidden folder that becomes the package, whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from harrier_edge.errors import ExportError
from harrier_edge.spec import MANIFEST_NAME
from harrier_export.journal import Journal, Written

_REPLACED = "replaced"  # the package that stood at the target


@dataclass(frozen=True)
class Unfinished:
    """A package that is being written."""

    folder: Path  # what will be the package
    scratch: Path  # a folder for what will not
    journal: Journal  # what of the weights is on the disk


@contextmanager
def whole_or_nothing(target: Path, overwrite: bool, identity: str = "") -> Iterator[Unfinished]:
    """A hidden folder beside `target` that takes its place if the block ends well.

    If the block fails, it is removed. If the process is killed or interrupted it stays, and the
    next export to `target` finds it as it was left, unless it is of another `identity` or of none.

    Raises ExportError where `target` exists, where another process is writing it, and where the
    disk fails.
    """
    _refuse(target, overwrite)
    try:
        place = target.with_name(f".{target.name}.partial")
        place.mkdir(parents=True, exist_ok=True)
        lock = _lock(place, target)
        try:
            try:
                _give_back(place, target)
                _refuse(target, overwrite)  # what was given back, too
                yield _unfinished(place, identity)
                _put(place / "package", target)
            finally:
                lock.release()
        except Exception:
            _give_back(place, target)
            shutil.rmtree(place, ignore_errors=True)
            raise
        shutil.rmtree(place, ignore_errors=True)
    except OSError as error:
        raise ExportError(
            f"{target}: cannot be written: {error.strerror or error}. "
            "Free space or choose another disk; nothing was left behind."
        ) from error


def _refuse(target: Path, overwrite: bool) -> None:
    """Raise ExportError where what is at `target` must stay."""
    if target.exists() and not overwrite:
        raise ExportError(
            f"{target}: exists already. Choose another folder, or replace it with --overwrite."
        )
    if target.exists() and not (target / MANIFEST_NAME).exists():
        raise ExportError(
            f"{target}: is not a model package, so it is not replaced. Choose another folder."
        )


def _give_back(place: Path, target: Path) -> None:
    """End an exchange that broke off: the old package goes back if no new one is in its place."""
    replaced = place / _REPLACED
    if replaced.exists() and not target.exists():
        replaced.replace(target)
    elif replaced.exists():
        shutil.rmtree(replaced)


def _unfinished(place: Path, identity: str) -> Unfinished:
    folder, scratch = place / "package", place / "scratch"
    journal = Journal(place / "journal", identity)
    if not identity or not _has_all(folder, journal.state):
        shutil.rmtree(folder, ignore_errors=True)
        (place / "journal").unlink()
        journal = Journal(place / "journal", identity)
    shutil.rmtree(scratch, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    scratch.mkdir()
    return Unfinished(folder, scratch, journal)


def _has_all(folder: Path, state: Written | None) -> bool:
    """Whether the journal knows of weights and `folder` still has all the files that it names."""
    if state is None:
        return False
    return all((folder / name).exists() for name in (*state.digests, state.file))


def _lock(place: Path, target: Path) -> FileLock:
    lock = FileLock(place / "lock", blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise ExportError(
            f"{target}: another process is exporting to it. Wait for it, or choose another folder."
        ) from error
    return lock


def _put(folder: Path, target: Path) -> None:
    """Put a finished package on the disk and in its place."""
    for path in folder.iterdir():
        _sync(path)
    if target.exists():
        target.replace(folder.with_name(_REPLACED))
    folder.replace(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    """Put a file or folder on the disk, so that a power cut after the rename loses nothing."""
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open a folder
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
