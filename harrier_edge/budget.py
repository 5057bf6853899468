"""How much memory this process may take: a promise that whoever loads a model may ask for."""

from __future__ import annotations

import os
import re

from harrier_edge.errors import UsageError
from harrier_edge.machine import memory

MEGABYTE = 10**6
_UNITS = {"": 1} | {
    unit + binary: base**power
    for power, unit in enumerate("KMGT", start=1)
    for binary, base in (("", 1000), ("I", 1024))
}
# Of the limit, what is left free: threads of the system and of libraries take memory unseen.
_SLACK = 0.03


class Budget:
    """A limit on the resident memory of this process, all that runs in it included."""

    def __init__(self, limit: int) -> None:
        """`limit` in bytes. Raises UsageError where the system does not tell what is taken."""
        self.limit = limit
        if memory().now_mb is None:
            raise UsageError(
                "memory is limited, but this system does not tell how much is taken. Leave the "
                "limit out; smaller batches take less memory."
            )

    def taken(self) -> int:
        """Resident memory of this process now, in bytes."""
        return int((memory().now_mb or 0) * MEGABYTE)

    def peak(self) -> int:
        """The most that was ever resident of this process, in bytes."""
        return int((memory().peak_mb or 0) * MEGABYTE)

    def room(self) -> int:
        """Bytes that may still be taken; below 0 where too many are."""
        return int(self.limit * (1 - _SLACK)) - self.taken()

    def require(self, needed: int, what: str) -> None:
        """Raise UsageError, naming the least limit that works, where `needed` bytes do not fit."""
        if (room := self.room()) < needed:
            least = -(-int((self.limit - room + needed) * 1.02) // MEGABYTE)
            raise UsageError(
                f"memory is {self.limit / MEGABYTE:.0f}MB, and {what} needs "
                f"{needed / MEGABYTE:.0f} MB on top of the {self.taken() / MEGABYTE:.0f} MB that "
                f"this process has. The least that works is {least}MB."
            )


def memory_limit(chosen: str | int | None) -> int | None:
    """A limit in bytes, as given ("512MB", "1.5GB", "800MiB" or bytes), or by the environment.

    None where neither says one. Raises UsageError for what is no amount of memory, or under 1 MB.
    """
    if chosen is None:
        chosen = os.environ.get("HARRIER_EDGE_MEMORY") or None
    if chosen is None:
        return None
    limit = amount(str(chosen))
    if limit is None or limit < MEGABYTE:
        raise UsageError(
            f"memory is {chosen!r}; wanted an amount such as 512MB, 1.5GB or 800MiB, from --memory "
            "or HARRIER_EDGE_MEMORY."
        )
    return limit


def amount(text: str) -> int | None:
    """Bytes, of a number with an optional unit: 512MB, 1.5 GB, 800MiB; None for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]I?|)B?", text.strip().upper())
    return int(float(match[1]) * _UNITS[match[2]]) if match else None
