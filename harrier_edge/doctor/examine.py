"""The examination: every room of it in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

from harrier_edge.doctor.finding import Finding, broken

ROOMS = ("system", "settings", "packages", "indexes", "caches")
REINSTALL = "pip install --force-reinstall harrier-edge"


def examine(
    index: Path | None = None,
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Iterator[Finding]:
    """Look at this machine, the settings, every package and every index that is known.

    Of the indexes only `index`, if that is given. Nothing is changed. Each package is loaded, one
    at a time, and each index is read whole.
    """
    for done, room in enumerate(ROOMS):
        on_progress("examining", done, len(ROOMS))
        try:
            # Imported in its turn: that a library cannot be loaded is a finding, too.
            module = import_module(f"harrier_edge.doctor.{room}")
        except ImportError as error:
            yield broken(room, f"not examined, for a library cannot be loaded: {error}", REINSTALL)
        else:
            yield from module.examine(index)
    on_progress("examining", len(ROOMS), len(ROOMS))
