"""Python, the libraries, the processor, memory, and the disk."""

from __future__ import annotations

import os
import platform
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from harrier_edge.doctor.finding import Finding, broken, note, ok, told
from harrier_edge.errors import StoreError
from harrier_edge.machine import available_memory, this_machine
from harrier_edge.places import cache_folder, index_file

LITTLE_MEMORY = 10**9  # bytes
LITTLE_DISK = 10**9
NO_DISK = 64 * 2**20
# What multiplies 8-bit numbers, the fastest first, by Linux's names.
_PRODUCTS = {
    "amx_int8": "AMX",
    "avx512_vnni": "AVX512-VNNI",
    "avx_vnni": "AVX-VNNI",
    "i8mm": "I8MM",
    "asimddp": "dot products",
}


def examine(index: Path | None) -> Iterator[Finding]:
    """All of this that `index`, or the user's own, needs."""
    bits = 8 * struct.calcsize("P")
    yield ok("python", f"{platform.python_version()}, {bits} bits, {platform.platform()}")
    yield _library("sqlite", _sqlite)
    yield _library("onnxruntime", _runtime)
    yield _processor()
    yield _memory()
    yield _folder("cache", cache_folder(), "another place in $HARRIER_EDGE_CACHE_DIR")
    yield _folder("index", (index or index_file()).absolute().parent, "another file with --db")


def _library(name: str, look: Callable[[], str]) -> Finding:
    again = f"pip install --force-reinstall {'apsw sqlite-vec' if name == 'sqlite' else name}"
    try:
        return ok(name, look())
    except ImportError as error:
        return broken(name, f"cannot be loaded: {error}", again)
    except StoreError as error:
        return told(name, error, cure=again)


def _sqlite() -> str:
    from harrier_edge.store.connection import sqlite_versions  # may be what is broken

    return ", ".join(f"{name} {version}" for name, version in sqlite_versions().items())


def _runtime() -> str:
    from harrier_edge.runtime import runtime  # may be what is broken

    version, providers = runtime()
    return f"{version}, with {', '.join(providers)}"


def _processor() -> Finding:
    machine = this_machine()
    told = f"{machine.processor}, {machine.cores} cores, {machine.system}"
    if machine.extensions is None:
        return ok("processor", f"{told}; the system does not tell what it can do")
    fast = [name for flag, name in _PRODUCTS.items() if flag in machine.extensions]
    if fast:
        return ok("processor", f"{told}; int8 packages run on {fast[0]}")
    return note(
        "processor",
        f"{told}; it has no instructions for products of 8-bit numbers, so that int8 packages may "
        "be slower than others",
        "measure and take what is recommended: harrier-edge bench MODEL",
    )


def _memory() -> Finding:
    free = available_memory()
    if free is None:
        return ok("memory", "the system does not tell")
    if free < LITTLE_MEMORY:
        return note("memory", f"only {free / 1e9:.1f} GB are left", "close other programs")
    return ok("memory", f"{free / 1e9:.1f} GB are left")


def _folder(subject: str, folder: Path, other: str) -> Finding:
    """Whether `folder`, or what is to hold it, can be written and has room."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        return broken(
            subject, "is a file, where a folder is wanted", f"move it away, or name {other}", there
        )
    if not os.access(there, os.W_OK | os.X_OK):
        return broken(subject, "cannot be written", f"chmod u+rwx {there}, or name {other}", there)
    free = shutil.disk_usage(there).free
    room = f"{free / 1e9:.1f} GB are free on its disk"
    if free < LITTLE_DISK:
        state = broken if free < NO_DISK else note
        return state(subject, f"only {room}", f"free space, or name {other}", folder)
    return ok(subject, room, folder)
