"""What of an export is on the disk, noted so that a run that was killed can be continued."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec


class Written(msgspec.Struct, frozen=True):
    """So many groups of weights are written; the last of them end at `length` of `file`."""

    groups: int
    file: str  # "" where no file is begun
    length: int
    digests: dict[str, str]  # finished file -> sha256


class Journal:
    """A file whose first line says what is being made, and every further one how far it is."""

    def __init__(self, path: Path, identity: str) -> None:
        """Read `path`, or begin it; `state` is None where it begins or is of something else."""
        self._path = path
        self.state: Written | None = None
        first, *lines = path.read_bytes().splitlines(keepends=True) if path.exists() else [b""]
        if first == f"{identity}\n".encode():
            if lines and not lines[-1].endswith(b"\n"):
                os.truncate(path, path.stat().st_size - len(lines.pop()))  # a line was cut short
            self.state = _last_sound(lines)
        else:
            path.write_bytes(f"{identity}\n".encode())

    def note(self, state: Written) -> None:
        """Add a line, which is on the disk when this returns."""
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(state) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.state = state


def _last_sound(lines: list[bytes]) -> Written | None:
    for line in reversed(lines):
        try:
            return msgspec.json.decode(line, type=Written)
        except msgspec.DecodeError:
            continue  # a power cut may leave zeros
    return None
