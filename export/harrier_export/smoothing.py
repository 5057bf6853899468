"""Where the difficulty of a product lies, in its activations or its weights, is free to choose.

A product x W^T is unchanged when each input channel j of x is divided by s_j and each column j of
W multiplied by it (SmoothQuant, Xiao et al. 2023, https://arxiv.org/abs/2211.10438). SmoothQuant
takes s from the largest magnitudes and a strength; here s minimizes the expected squared error of
the output directly, with 8-bit rounding noise uniform in half a step to both sides:

    activations:  E_t[(max_j |x_tj| / s_j)^2] * sum_j s_j^2 sum_n W_nj^2
    weights:      sum_n (max_j |W_nj| s_j)^2  * sum_j E_t[x_tj^2] / s_j^2

Both are sums and maxima of exponentials of log s, so the minimum is the only one: a geometric
program (Boyd et al. 2007, https://doi.org/10.1007/s11081-007-9001-7), solved by descent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]

# How much the error of activations counts: those of the last token, which matter most, are rounded
# far finer than the others (`precision.tokens`), while weights are the same for all.
_ACTIVATIONS = 0.3
_STEPS = 100
_RATE = 0.08


def smooth(x: Float32, weights: Sequence[Float32], tied: npt.NDArray[np.int64]) -> Float32:
    """The factors s (in,) for inputs `x` (tokens, in) of products with `weights` (out, in) each.

    `tied` (in,) numbers the channels that must have the same factor, from 0 without gaps. The
    error of each product and token counts in relation to its size. Returns float32.
    """
    outputs = [x @ w.T for w in weights]
    energy = [np.square(y).sum(-1) for y in outputs]  # (tokens,) each
    scaled = [w / np.sqrt(e.mean() + 1e-30) for w, e in zip(weights, energy, strict=True)]
    relative = sum(e / (e.mean() + 1e-30) for e in energy) / len(energy)
    r = (1 / np.maximum(relative, 1e-3)).astype(np.float32)
    w = np.abs(np.concatenate(scaled))
    w2 = np.square(w).sum(0)
    c = (r[:, None] * np.square(x)).mean(0)
    magnitude = np.abs(x)
    count = int(tied.max()) + 1
    largest = np.full(count, 1e-6, np.float32)
    np.maximum.at(largest, tied, magnitude.max(0))
    heaviest = np.full(count, 1e-6, np.float32)
    np.maximum.at(heaviest, tied, w.max(0))
    log_s = 0.65 * np.log(largest) - 0.35 * np.log(heaviest)
    first, second = np.zeros(count), np.zeros(count)
    best, least = log_s, np.inf
    for step in range(1, _STEPS + 1):
        s = np.exp(log_s)[tied].astype(np.float32)
        loss, gradient = _error(magnitude, w, w2, c, r, s)
        if loss < least:
            best, least = log_s, loss
        g = np.bincount(tied, gradient, count)
        first = 0.9 * first + 0.1 * g  # Adam, Kingma & Ba 2015, https://arxiv.org/abs/1412.6980
        second = 0.99 * second + 0.01 * g * g
        rate = _RATE * (1 - step / (_STEPS + 1))
        log_s = log_s - rate * (first / (1 - 0.9**step)) / (
            np.sqrt(second / (1 - 0.99**step)) + 1e-12
        )
    best = best - best.mean()
    factors: Float32 = np.exp(best)[tied].astype(np.float32)
    return factors


def _error(
    magnitude: Float32, w: Float32, w2: Float32, c: Float32, r: Float32, s: Float32
) -> tuple[float, npt.NDArray[np.float64]]:
    """Logarithm of the expected error and its gradient in log s (in,)."""
    channels = len(s)
    rows = magnitude / s
    top = rows.argmax(1)
    peak = r * np.square(rows[np.arange(len(rows)), top])
    spread = np.square(s) * w2
    activations = _ACTIVATIONS * peak.mean() * spread.sum()
    g_activations = (2 * _ACTIVATIONS) * (
        peak.mean() * spread - np.bincount(top, peak, channels) / len(rows) * spread.sum()
    )
    columns = w * s
    heavy = columns.argmax(1)
    step = np.square(columns[np.arange(len(w)), heavy])
    noise = c / np.square(s)
    weights = step.sum() * noise.sum()
    g_weights = 2 * np.bincount(heavy, step, channels) * noise.sum() - 2 * step.sum() * noise
    total = activations + weights + 1e-30
    return float(np.log(total)), (g_activations + g_weights) / total
