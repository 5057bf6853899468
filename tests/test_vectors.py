"""Vectors as stored bytes, and as sign bits."""

from __future__ import annotations

import numpy as np
import pytest

from harrier_edge.vectors import (
    STORES,
    Vectors,
    cosines,
    from_blobs,
    rotate,
    sign_products,
    sign_words,
    to_blobs,
)


def units(count: int, dimension: int) -> Vectors:
    """Random vectors of unit length, whose first dimension is much larger than the others."""
    vectors = np.random.default_rng(0).standard_normal((count, dimension)).astype(np.float32)
    vectors[:, 0] += 10
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


@pytest.mark.parametrize(
    ("store", "size", "least"), [("float32", 4, 1), ("float16", 2, 0.999999), ("int8", 1, 0.999)]
)
def test_a_vector_comes_back_from_its_bytes(store: str, size: int, least: float) -> None:
    """float32 exactly, the others at unit length and nearly in their direction."""
    vectors = units(50, 70)
    blobs = to_blobs(vectors, store)
    assert {len(blob) for blob in blobs} == {size * 70}
    back = from_blobs(blobs, store, 70)
    assert back.dtype == np.float32
    assert (back * vectors).sum(axis=1).min() >= least - 1e-6
    np.testing.assert_allclose(np.linalg.norm(back, axis=1), 1, atol=1e-3)
    assert np.array_equal(back, vectors) == (store == "float32")
    assert store in STORES


def test_the_bytes_are_little_endian_float32() -> None:
    """As the README and the schema promise."""
    assert to_blobs(np.array([[1, -2]], np.float32), "float32") == [b"\0\0\x80?\0\0\0\xc0"]


@pytest.mark.parametrize("dimension", [4, 32, 384, 640, 1024])
def test_a_rotation_keeps_lengths_and_angles_and_evens_dimensions_out(dimension: int) -> None:
    """All products are what they were, and no dimension stands out any more."""
    vectors = units(300, dimension)
    turned = rotate(vectors)
    np.testing.assert_allclose(turned @ turned.T, vectors @ vectors.T, atol=1e-5)
    if dimension > 100:
        assert np.abs(vectors).mean(axis=0).max() > 8 * np.abs(vectors).mean()
        assert np.abs(turned).mean(axis=0).max() < 6 * np.abs(turned).mean()


@pytest.mark.parametrize("dimension", [4, 64, 70, 640])
def test_sign_bits_and_their_products(dimension: int) -> None:
    """Each bit is a sign, and the product with the bits is that with +1 and -1."""
    vectors = units(9, dimension)
    words = sign_words(vectors)
    assert words.shape == (9, -(-dimension // 64))
    for row, vector in zip(words.tolist(), vectors, strict=True):
        number = sum(word << (64 * i) for i, word in enumerate(row))
        assert [bool(number >> i & 1) for i in range(dimension)] == (vector > 0).tolist()
        assert number >> dimension == 0
    wanted = np.where(vectors > 0, 1, -1) @ vectors[0]
    np.testing.assert_allclose(sign_products(words, vectors[0]), wanted, atol=1e-4)


def test_equal_rows_have_equal_cosines_wherever_they_stand() -> None:
    """So that ties are ties."""
    vectors = units(257, 640)
    vectors[::2] = vectors[0]
    assert len(set(cosines(vectors, vectors[1])[::2].tolist())) == 1
