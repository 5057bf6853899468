"""Vectors as the bytes that are stored, and as sign bits. No I/O.

| store | bytes a vector | sqlite-vec reads it as |
|---|---|---|
| float32 | 4 x dimension, little-endian | `vector` |
| int8 | dimension: the vector by 127 / its largest magnitude | `vec_int8(vector)` |
| float16 | 2 x dimension, little-endian | not at all |

Stored vectors are of unit length, so int8 needs no scale beside it: it is that which gives the
length 1 back.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Words = npt.NDArray[np.uint64]

STORES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "int8": np.dtype("i1"),
    "float16": np.dtype("<f2"),
}
WORD_BITS = 64
ROTATED = 64  # rows at once: they stay in the processor's cache
ROUNDS = 3  # of the rotation: after fewer, single large dimensions still show


def to_blobs(vectors: Vectors, store: str) -> list[bytes]:
    """Vectors (n, dimension) of unit length as bytes, each by itself."""
    if store == "int8":
        largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0)
        vectors = np.rint(vectors * (127 / np.maximum(largest, np.finfo(np.float32).tiny)))
    return [row.tobytes() for row in vectors.astype(STORES[store])]


def from_blobs(blobs: Sequence[bytes], store: str, dimension: int) -> Vectors:
    """The vectors (n, dimension) float32 of unit length that `to_blobs` made these bytes of."""
    stored = np.frombuffer(b"".join(blobs), STORES[store]).reshape(len(blobs), dimension)
    vectors: Vectors = stored.astype(np.float32)
    if store != "float32":
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors /= np.maximum(lengths, np.finfo(np.float32).tiny)
    return vectors


def cosines(vectors: Vectors, query: Vectors) -> npt.NDArray[np.float64]:
    """Of each row (n, dimension) with `query` (dimension,), all of unit length, to six decimals.

    Row by row and not as a matrix product, so that equal rows have equal scores wherever they are.
    """
    products = vectors * query
    scores: npt.NDArray[np.float64] = products.sum(axis=1, dtype=np.float64).round(6)
    return scores


def rotate(vectors: Vectors) -> Vectors:
    """Vectors (n, dimension) float32, all turned in one fixed way that evens out their dimensions.

    A model's large or lopsided dimensions make its sign bits say little; after a random rotation
    each bit says as much as the next. It is made of random signs and Hadamard transforms, as in
    Gao and Long 2024, "RaBitQ: Quantizing high-dimensional vectors with a theoretical error bound
    for approximate nearest neighbor search", and takes n log n steps. Lengths and angles stay.
    """
    dimension = vectors.shape[1]
    size = 1 << (dimension.bit_length() - 1)  # the largest power of two that fits
    turned = vectors.astype(np.float32)
    for first in range(0, len(turned), ROTATED):
        some = turned[first : first + ROTATED].T.copy()  # (dimension, rows): long runs of memory
        for signs in _signs(dimension):
            some *= signs[:, None]
            for start in sorted({0, dimension - size}):
                some[start : start + size] = _hadamard(some[start : start + size])
        turned[first : first + ROTATED] = some.T
    return turned


def _hadamard(columns: Vectors) -> Vectors:
    """The orthonormal Walsh-Hadamard transform of each column (power of two, n)."""
    size, rows = columns.shape
    half = 1
    while half < size:
        pairs = columns.reshape(size // (2 * half), 2, half, rows)
        made = np.empty_like(pairs)
        np.add(pairs[:, 0], pairs[:, 1], out=made[:, 0])
        np.subtract(pairs[:, 0], pairs[:, 1], out=made[:, 1])
        columns = made
        half *= 2
    return columns.reshape(size, rows) * np.float32(size**-0.5)


@lru_cache
def _signs(dimension: int) -> Vectors:
    """The rotation's signs (rounds, dimension), the same on every machine and for ever."""
    raw = np.random.PCG64(0).random_raw(ROUNDS * dimension).reshape(ROUNDS, dimension)
    return np.where(raw >> np.uint64(63), np.float32(1), np.float32(-1)).astype(np.float32)


def sign_words(rotated: Vectors) -> Words:
    """The signs of rotated vectors (n, dimension) as (n, ceil(dimension / 64)) words.

    Bit i of a row, counted from the lowest bit of its first word, is 1 where dimension i is over 0.
    """
    rows, dimension = rotated.shape
    words = -(-dimension // WORD_BITS)
    packed = np.zeros((rows, words * 8), np.uint8)
    bits = np.packbits(rotated > 0, axis=1, bitorder="little")
    packed[:, : bits.shape[1]] = bits
    return packed.view("<u8").astype(np.uint64)


def sign_products(words: Words, rotated: Vectors) -> Vectors:
    """The products of a rotated query (dimension,) with each row's signs, +1 and -1: (n,).

    A table holds what each value of each byte adds, as in product quantization.
    """
    codes = np.ascontiguousarray(words, "<u8").view(np.uint8)
    padded = np.zeros(codes.shape[1] * 8, np.float32)
    padded[: len(rotated)] = rotated
    values = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    table = values.astype(np.float32) @ padded.reshape(-1, 8).T  # (256, bytes)
    columns = np.arange(table.shape[1], dtype=np.int32)
    places = codes.astype(np.int32) * len(columns) + columns
    ones: Vectors = table.ravel().take(places).sum(axis=1)
    products: Vectors = 2 * ones - rotated.sum()
    return products
