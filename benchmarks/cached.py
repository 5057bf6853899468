"""Vectors that take minutes to make, in a file of the stand-ins' cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from harrier_edge.vectors import Vectors


def cached_vectors(kept: Path, make: Callable[[], Vectors]) -> Vectors:
    """What is in the file `kept` (.npy), which `make` fills first if it is not there.

    A run that is interrupted leaves no file.
    """
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(".partial.npy")
        np.save(partial, make())
        partial.replace(kept)
    vectors: Vectors = np.load(kept)
    return vectors
