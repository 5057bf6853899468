"""Where things are kept, and how a small file gets there: the cache, the settings, the index."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import platformdirs

PROJECT_INDEX = Path(".harrier", "index.sqlite")


def cache_folder() -> Path:
    """`$HARRIER_EDGE_CACHE_DIR`, or `harrier-edge` in the user's cache folder."""
    chosen = os.environ.get("HARRIER_EDGE_CACHE_DIR")
    return Path(chosen) if chosen else platformdirs.user_cache_path("harrier-edge", False)


def settings_file() -> Path:
    """`harrier-edge/settings.json` in the user's folder of settings."""
    return platformdirs.user_config_path("harrier-edge", False) / "settings.json"


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all, whoever else writes it. Raises OSError."""
    part = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def lacking_space(folder: Path, needed: int) -> str:
    """In words, that the disk of `folder` has no room for `needed` bytes; "" where it has."""
    free = shutil.disk_usage(folder).free
    if free >= needed:
        return ""
    return (
        f"{folder}: {free / 1e9:.2f} GB are free, {needed / 1e9:.2f} GB are needed. Free space, or "
        "choose another disk with $HARRIER_EDGE_CACHE_DIR."
    )


def index_file() -> Path:
    """`$HARRIER_EDGE_DB`, else the project's `.harrier/index.sqlite`, else the user's index.

    A project is the working folder or the nearest one above it that has such an index.
    """
    if chosen := os.environ.get("HARRIER_EDGE_DB"):
        return Path(chosen)
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / PROJECT_INDEX).exists():
            return folder / PROJECT_INDEX
    return platformdirs.user_data_path("harrier-edge", False) / "index.sqlite"
