"""Rounding weights so that the product's error, not each weight's, is least.

GPTQ (Frantar et al. 2023, https://arxiv.org/abs/2210.17323): input channels are rounded one after
the other, and what each rounding does to the output is made up for by those that follow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]

_BLOCK = 128
_DAMPING = 0.01  # of the mean diagonal, as in the paper


def inverse_factor(hessian: npt.NDArray[Any]) -> Float32:
    """The upper Cholesky factor of the damped inverse of X^T X, `hessian` (in, in)."""
    h = hessian.astype(np.float64)
    mean = float(np.diag(h).mean()) or 1.0
    h[np.diag_indices_from(h)] += _DAMPING * mean
    factor: Float32 = np.linalg.cholesky(np.linalg.inv(h)).T.astype(np.float32)
    return factor


def round_with_feedback(
    rows: Float32, factor: Float32, quantize: Callable[[int, Float32], Float32]
) -> Float32:
    """Round `rows` (out, in) channel by channel: the values, (out, in) float32.

    `quantize(j, column)` gives the representable values nearest to `column` (out,) of channel j.
    `factor` is from `inverse_factor`.
    """
    w = rows.astype(np.float32).copy()
    result = np.empty_like(w)
    for start in range(0, w.shape[1], _BLOCK):
        end = min(start + _BLOCK, w.shape[1])
        errors = np.empty((len(w), end - start), np.float32)
        for j in range(start, end):
            result[:, j] = quantize(j, w[:, j])
            errors[:, j - start] = (w[:, j] - result[:, j]) / factor[j, j]
            w[:, j + 1 : end] -= errors[:, j - start, None] * factor[None, j, j + 1 : end]
        w[:, end:] -= errors @ factor[start:end, end:]
    return result
