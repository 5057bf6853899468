"""Rounding weights so that the product's error, not each weight's, is least.

GPTQ (Frantar et al. 2023, https://arxiv.org/abs/2210.17323): input channels are rounded one after
the other, and what each rounding does to the output is made up for by those that follow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

_BLOCK = 128
_ROWS = 512  # of a matrix that are worked on at once where no copy of it may be made
# Of the mean diagonal. The paper has 0.01; more keeps channels that calibration hardly saw from
# making up for the others, which real texts then would see.
_DAMPING = 0.1


@dataclass(frozen=True)
class Feedback:
    """What rounding one input channel of a product costs, and how the others make up for it.

    The heaviest channels are rounded first, while all others are still free to make up for them.
    """

    order: npt.NDArray[np.int64]  # (in,) channels, heaviest first
    # (in, in), mapped: the upper Cholesky factor of the damped inverse of X^T X, in that order.
    factor: Float32


def feedback(moments: npt.NDArray[Any], path: Path) -> Feedback:
    """From the second moments X^T X of a product's inputs, `moments` (in, in).

    The factor is written to `path` and mapped. Beside `moments` this takes one matrix of their
    shape in float64.
    """
    order = np.argsort(-np.diag(moments), kind="stable")
    # With the lightest channel first, the inverse of the lower factor of X^T X is what is wanted,
    # but for the order of its rows and columns: nothing else need be inverted.
    backwards = order[::-1]
    h = np.empty(moments.shape, np.float64)
    for start in range(0, len(h), _ROWS):
        h[start : start + _ROWS] = moments[np.ix_(backwards[start : start + _ROWS], backwards)]
    mean = float(np.diag(h).mean()) or 1.0
    h[np.diag_indices_from(h)] += _DAMPING * mean
    _cholesky(h)
    _invert_lower(h)
    with path.open("wb") as file:
        for end in range(len(h), 0, -_ROWS):
            file.write(h[max(0, end - _ROWS) : end][::-1, ::-1].astype(np.float32).data)
    return Feedback(order, np.asarray(np.memmap(path, np.float32, mode="r", shape=h.shape)))


def _cholesky(h: Float64) -> None:
    """Put the lower Cholesky factor of `h` (n, n), of which the lower half is read, in its place.

    By blocks of columns, each from those before it, so that there is no second matrix.
    """
    for start in range(0, len(h), _ROWS):
        end = start + _ROWS
        h[start:, start:end] -= h[start:, :start] @ h[start:end, :start].T
        corner = np.linalg.cholesky(h[start:end, start:end])
        h[start:end, start:end] = corner
        h[start:end, end:] = 0
        h[end:, start:end] = h[end:, start:end] @ np.linalg.inv(corner).T


def _invert_lower(h: Float64) -> None:
    """Put the inverse of a lower triangular matrix `h` (n, n) in its place."""
    for start in range(0, len(h), _ROWS):
        end = start + _ROWS
        corner = np.linalg.inv(h[start:end, start:end])
        h[start:end, :start] = -corner @ (h[start:end, :start] @ h[:start, :start])
        h[start:end, start:end] = np.tril(corner)


def round_with_feedback(
    rows: Float32, known: Feedback, quantize: Callable[[int, Float32], Float32]
) -> Float32:
    """Round `rows` (out, in) channel by channel: the values, (out, in) float32.

    `quantize(j, column)` gives the representable values nearest to `column` (out,) of channel j.
    """
    factor = known.factor
    w = rows[:, known.order].astype(np.float32)
    result = np.empty_like(w)
    for start in range(0, w.shape[1], _BLOCK):
        end = min(start + _BLOCK, w.shape[1])
        errors = np.empty((len(w), end - start), np.float32)
        for j in range(start, end):
            result[:, j] = quantize(int(known.order[j]), w[:, j])
            errors[:, j - start] = (w[:, j] - result[:, j]) / factor[j, j]
            w[:, j + 1 : end] -= errors[:, j - start, None] * factor[None, j, j + 1 : end]
        w[:, end:] -= errors @ factor[start:end, end:]
    back = np.empty_like(result)
    back[:, known.order] = result
    return back
