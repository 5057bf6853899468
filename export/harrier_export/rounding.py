"""Rounding weights so that the product's error, not each weight's, is least.

GPTQ (Frantar et al. 2023, https://arxiv.org/abs/2210.17323): input channels are rounded one after
the other, and what each rounding does to the output is made up for by those that follow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]

_BLOCK = 128
# Of the mean diagonal. The paper has 0.01; more keeps channels that calibration hardly saw from
# making up for the others, which real texts then would see.
_DAMPING = 0.1


@dataclass(frozen=True)
class Feedback:
    """What rounding one input channel of a product costs, and how the others make up for it.

    The heaviest channels are rounded first, while all others are still free to make up for them.
    """

    order: npt.NDArray[np.int64]  # (in,) channels, heaviest first
    factor: Float32  # (in, in) upper Cholesky factor of the damped inverse of X^T X, in that order


def feedback(moments: npt.NDArray[Any]) -> Feedback:
    """From the second moments X^T X of a product's inputs, `moments` (in, in)."""
    order = np.argsort(-np.diag(moments), kind="stable")
    h = moments.astype(np.float64)[np.ix_(order, order)]
    mean = float(np.diag(h).mean()) or 1.0
    h[np.diag_indices_from(h)] += _DAMPING * mean
    factor: Float32 = np.linalg.cholesky(np.linalg.inv(h)).T.astype(np.float32)
    return Feedback(order, factor)


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
