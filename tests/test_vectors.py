"""Vectors as bytes."""

from __future__ import annotations

import numpy as np

from harrier_edge.vectors import from_blob, to_blob


def test_bytes_are_little_endian_float32_and_come_back() -> None:
    """The stored form is documented, so it must not drift."""
    vector = np.array([1.0, -2.5, 0.0], np.float32)
    assert to_blob(vector) == bytes.fromhex("0000803f000020c000000000")
    assert np.array_equal(from_blob(to_blob(vector)), vector)
