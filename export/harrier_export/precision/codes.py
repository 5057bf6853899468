"""Rows of weights as codes in 8 or 4 bits, with a scale for each block of a row.

A weight w of a block is stored as q = round(w / step) + zero point, an unsigned integer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harrier_export.checkpoint import Float32
from harrier_export.graph import INT32, GraphBuilder

Bytes = npt.NDArray[np.uint8]

# Shrinking a block's range clips its largest weight and rounds all others finer: of these factors
# the best is taken. With the best scale for the codes, two lose as little as ten (1, 0.96, … 0.64)
# that keep their own: on Gaussian weights in blocks of 32 a mean square of 0.00608 against 0.00615.
_SHRINK = (1.0, 0.95)
_WORD = np.dtype("<u2")  # codes are packed as numbers, which takes less time than as bits
# Weights at a time. All there is of them stays in the processor's cache, yet each operation is long
# enough that threads seldom wait for the interpreter: at 2**16 two are no faster than one.
# A little off a power of two, so that what stands below one another in a matrix of blocks does not
# all fall into the same lines of the cache.
_AT_ONCE = 2**19 + 2**12
_TURNED = 256  # blocks that are turned at once


@dataclass(frozen=True)
class Quantized:
    """Rows of weights: `packed` (rows, blocks, bytes), `scales` and `zeros` (rows, blocks)."""

    packed: Bytes
    scales: Float32
    zeros: Bytes


def quantize(rows: Float32, bits: int, block_size: int, asymmetric: bool) -> Quantized:
    """Quantize rows (rows, columns), each cut into blocks; a short last block is filled with 0.

    In 8 bits the range of a block is all of it. In 4 it is what leaves the least squared error of
    several that are shorter, and the scale the best one for the codes: with codes q (less the zero
    point) that is sum(q w) / sum(q q), which leaves sum(w w) - sum(q w)^2 / sum(q q).
    """
    count, columns = rows.shape
    blocks = -(-columns // block_size)
    if columns < blocks * block_size:
        rows = np.pad(rows, ((0, 0), (0, blocks * block_size - columns)))
    flat = rows.reshape(-1, block_size)
    packed = np.empty((len(flat), block_size * bits // 16), _WORD)
    scales = np.empty(len(flat), np.float32)
    zeros = np.empty(len(flat), np.uint8)
    step = max(1, _AT_ONCE // block_size)
    for start in range(0, len(flat), step):
        part = slice(start, start + step)
        # A block is a column here, so that every operation runs along many of them.
        w = _turned(flat[part])
        words, scales[part], zeros[part] = _columns(w, bits, asymmetric)
        np.copyto(packed[part], words.T, casting="unsafe")
    return Quantized(
        packed.view(np.uint8).reshape(count, blocks, -1),
        scales.reshape(count, blocks),
        zeros.reshape(count, blocks),
    )


def _turned(blocks: Float32) -> Float32:
    """Blocks (n, block_size) as columns (block_size, n), a few at a time as the cache has it."""
    columns = np.empty(blocks.shape[::-1], np.float32)
    for start in range(0, len(blocks), _TURNED):
        columns[:, start : start + _TURNED] = blocks[start : start + _TURNED].T
    return columns


def _columns(w: Float32, bits: int, asymmetric: bool) -> tuple[Float32, Float32, Float32]:
    """Packed codes (words, n) of blocks w (block_size, n), their scales and zero points (n,).

    The words are whole numbers below 2**16.
    """
    top = np.float32(2**bits - 1)
    low, high = w.min(0), w.max(0)
    if asymmetric:
        step = (np.maximum(high, 0) - np.minimum(low, 0)) / top
        step[step == 0] = 1
        zero = np.rint(-np.minimum(low, 0) / step)
    else:
        # The end of largest magnitude gets the one code more that the negative side has.
        zero = np.full_like(low, 2 ** (bits - 1))
        step = np.where(-low >= high, low, high) / -zero
        step[step == 0] = 1
    q = np.empty_like(w)

    def rounded(inverse: Float32) -> None:
        np.multiply(w, inverse, out=q)
        np.rint(q, out=q)

    def clipped() -> None:
        np.maximum(q, -zero, out=q)  # np.clip takes eight times as long
        np.minimum(q, top - zero, out=q)

    inverse, scale = 1 / step, step.copy()
    if bits == 4:
        most_gained = np.full_like(step, -1)
        for factor in _SHRINK:
            candidate = np.float32(1 / factor) / step
            rounded(candidate)
            if factor < 1:
                clipped()
            squares = np.einsum("ij,ij->j", q, q)
            product = np.einsum("ij,ij->j", q, w)
            squares[squares == 0] = 1
            gained = product * product / squares
            better = gained > most_gained
            np.copyto(most_gained, gained, where=better)
            np.copyto(scale, product / squares, where=better)
            np.copyto(inverse, candidate, where=better)
        scale[scale == 0] = 1
    rounded(inverse)
    clipped()
    codes = q.reshape(-1, 16 // bits, q.shape[1])
    places = np.float32(2**bits) ** np.arange(16 // bits, dtype=np.float32)
    words = np.matmul(places, codes)
    words += zero * places.sum()
    return words, scale, zero


def dequantize(q: Quantized, bits: int) -> Float32:
    """The rows (rows, columns) that codes stand for, those filled in included."""
    codes = q.packed
    if bits == 4:
        codes = np.stack([codes & 15, codes >> 4], -1).reshape(*codes.shape[:2], -1)
    steps = codes.astype(np.float32) - q.zeros[..., None]
    values: Float32 = (steps * q.scales[..., None]).reshape(len(codes), -1)
    return values


def unpacked_fours(graph: GraphBuilder, packed: str, zero: int) -> str:
    """What `pack` packed of 2 bits, less `zero`: bytes (…) to int8 (…, 4).

    Each byte is looked up in the table of the four codes that it stands for, which every release of
    ONNX Runtime can.
    """
    table = graph.constant((np.arange(256)[:, None] >> np.arange(0, 8, 2) & 3) - zero, np.int8)
    return graph.node("Gather", table, graph.node("Cast", packed, to=INT32))


def pack(codes: Bytes, bits: int) -> Bytes:
    """Codes of 2, 4 or 8 bits along the last axis in bytes, the earlier ones in the low bits."""
    each = 8 // bits
    if short := -codes.shape[-1] % each:
        codes = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, short)])
    packed = codes[..., ::each].copy()
    for i in range(1, each):
        packed |= codes[..., i::each] << np.uint8(bits * i)
    return packed
