"""One thing that was looked at, and how it was found."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harrier_edge.errors import HarrierError

State = Literal["ok", "note", "broken"]


@dataclass(frozen=True)
class Finding:
    """`note` is for what works, but not as it could; `cure` is empty where all is well."""

    subject: str  # python, sqlite, package, index, …
    where: str  # a file or folder, or empty
    state: State
    message: str
    cure: str = ""


def ok(subject: str, message: str, where: Path | str = "") -> Finding:
    """Nothing to do."""
    return Finding(subject, str(where), "ok", message)


def note(subject: str, message: str, cure: str, where: Path | str = "") -> Finding:
    """Something to know."""
    return Finding(subject, str(where), "note", message, cure)


def broken(subject: str, message: str, cure: str, where: Path | str = "") -> Finding:
    """Something that does not work."""
    return Finding(subject, str(where), "broken", message, cure)


def told(subject: str, error: HarrierError, where: Path | str = "", cure: str = "") -> Finding:
    """What an error of this project says; what follows its first sentence is the cure.

    `cure` takes its place where a better one is known.
    """
    message, *next_step = re.split(r"\. (?=[A-Z])", str(error), maxsplit=1)
    message = message.removeprefix(f"{where}: ")
    return broken(subject, message, cure or "".join(next_step) or "See above.", where)
