"""Where things are kept: the cache folder and the index file."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

PROJECT_INDEX = Path(".harrier", "index.sqlite")


def cache_folder() -> Path:
    """`$HARRIER_EDGE_CACHE_DIR`, or `harrier-edge` in the user's cache folder."""
    chosen = os.environ.get("HARRIER_EDGE_CACHE_DIR")
    return Path(chosen) if chosen else platformdirs.user_cache_path("harrier-edge", False)


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
