"""harrier_export.smoothing: channels scaled so that 8 bits lose least."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from harrier_export.smoothing import smooth

Float32 = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def inputs() -> Float32:
    """Rows in which a few channels are much larger than the others, as in real decoders."""
    random = np.random.default_rng(0)
    x = random.standard_normal((400, 64)).astype(np.float32)
    x[:, [3, 17, 40]] *= np.array([80, 40, 200], np.float32)
    return x


@pytest.fixture(scope="module")
def weights() -> list[Float32]:
    """Two products of different size."""
    random = np.random.default_rng(1)
    return [random.standard_normal((n, 64)).astype(np.float32) * n for n in (32, 96)]


def rounded(x: Float32) -> Float32:
    """Each row in 8 bits of its own scale."""
    step = np.abs(x).max(-1, keepdims=True) / 127
    result: Float32 = np.rint(x / step) * step
    return result


def error(x: Float32, weights: list[Float32], s: Float32) -> float:
    """The squared error of the products in 8 bits to each token's size, channels scaled by `s`."""
    errors, sizes = [], []
    for w in weights:
        y = x @ w.T
        sizes.append(np.square(y).sum(1) / np.square(y).sum())
        off = rounded(x / s) @ rounded(w * s).T - y
        errors.append(np.square(off).sum(1) / np.square(y).sum())
    return float((sum(errors) / sum(sizes)).mean())


def test_it_takes_most_of_the_error_away(inputs: Float32, weights: list[Float32]) -> None:
    """Less than plain rounding, and less than SmoothQuant's rule at any of its strengths."""
    s = smooth(inputs, weights, np.arange(64))
    largest = np.abs(inputs).max(0)
    heaviest = np.abs(np.concatenate([w / np.square(inputs @ w.T).sum() ** 0.5 for w in weights]))
    by_rule = [
        error(inputs, weights, largest**a / heaviest.max(0) ** (1 - a))
        for a in (0.3, 0.5, 0.65, 0.8)
    ]
    ours = error(inputs, weights, s)
    assert ours < 0.3 * error(inputs, weights, np.ones(64, np.float32))
    assert ours <= 1.02 * min(by_rule)


def test_tied_channels_share_a_factor(inputs: Float32, weights: list[Float32]) -> None:
    """Heads that share values can only be scaled together."""
    tied = np.tile(np.arange(16), 4)
    s = smooth(inputs, weights, tied)
    assert s.dtype == np.float32
    assert (s.reshape(4, 16) == s[:16]).all()
    assert len(np.unique(s)) > 8


def test_channels_that_are_always_zero_do_no_harm(weights: list[Float32]) -> None:
    """Neither do inputs that are all zero."""
    x = np.zeros((50, 64), np.float32)
    assert np.isfinite(smooth(x, weights, np.arange(64))).all()
    x[:, ::2] = np.random.default_rng(2).standard_normal((50, 32))
    s = smooth(x, weights, np.arange(64))
    assert np.isfinite(s).all()
    assert (s > 0).all()
