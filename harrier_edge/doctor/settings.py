"""What the environment says, and what is chosen for all commands."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from harrier_edge.budget import memory_limit
from harrier_edge.doctor.finding import Finding, broken, note, ok, told
from harrier_edge.encoding import is_url
from harrier_edge.errors import ModelNotFoundError, SettingsError, UsageError
from harrier_edge.package import default_package, find_package, installed_packages
from harrier_edge.places import settings_file
from harrier_edge.settings import read_settings

NAMES = ("MODEL", "DB", "CACHE_DIR", "THREADS", "MEMORY", "OFFLINE")
YES = ("1", "ON", "YES", "TRUE")
NO = ("", "0", "OFF", "NO", "FALSE")


def examine(index: Path | None) -> Iterator[Finding]:
    """Each variable that is set, and whether its value can work."""
    values = {name: os.environ.get(f"HARRIER_EDGE_{name}", "") for name in NAMES}
    found = [*_threads(values["THREADS"]), *_memory(values["MEMORY"])]
    found += [*_model(values["MODEL"]), *_default()]
    for variable in ("HARRIER_EDGE_OFFLINE", "HF_HUB_OFFLINE"):
        found += _offline(variable)
    yield from found
    if not found:
        said = [f"HARRIER_EDGE_{name}={value}" for name, value in values.items() if value]
        yield ok("settings", ", ".join(said) or "no variable is set")


def _threads(value: str) -> Iterator[Finding]:
    if value and not (value.isdecimal() and int(value) > 0):
        yield broken(
            "settings",
            f"HARRIER_EDGE_THREADS is {value!r}; wanted a whole number above 0",
            "unset HARRIER_EDGE_THREADS, or give it the number of threads",
        )


def _memory(value: str) -> Iterator[Finding]:
    try:
        memory_limit(value or None)
    except UsageError:
        yield broken(
            "settings",
            f"HARRIER_EDGE_MEMORY is {value!r}; wanted an amount such as 512MB, 1.5GB or 800MiB",
            "unset HARRIER_EDGE_MEMORY, or give it the most memory to take",
        )


def _model(value: str) -> Iterator[Finding]:
    if is_url(value):
        return  # no server is asked
    if value and len(installed_packages(value)) < 2:  # of several, --precision chooses
        try:
            find_package(value)
        except ModelNotFoundError as error:
            yield told(
                "settings",
                error,
                cure=f"harrier-edge pull {value}, or let HARRIER_EDGE_MODEL name what "
                "harrier-edge models lists",
            )


def _default() -> Iterator[Finding]:
    try:
        if read_settings().model:
            default_package()
    except (SettingsError, ModelNotFoundError) as error:
        yield told(
            "settings", error, settings_file(), "choose another: harrier-edge models default MODEL"
        )


def _offline(variable: str) -> Iterator[Finding]:
    value = os.environ.get(variable, "")
    if value.upper() not in YES + NO:
        yield note(
            "settings",
            f"{variable} is {value!r}, by which the network is not forbidden",
            f"{variable}=1 forbids it",
        )
