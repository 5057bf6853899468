"""Vectors as the bytes that are stored."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]


def to_blob(vector: Vectors) -> bytes:
    """A vector (dimension,) as 4 * dimension bytes: float32, little-endian."""
    return vector.astype("<f4").tobytes()


def from_blob(blob: bytes) -> Vectors:
    """The vector (dimension,) float32 that `to_blob` made these bytes of."""
    return np.frombuffer(blob, "<f4").astype(np.float32)
