"""harrier_export.rounding: weights rounded by what their inputs are."""

from __future__ import annotations

import numpy as np
import pytest

from harrier_export.rounding import feedback, round_with_feedback


def nearest(_: int, column: np.ndarray) -> np.ndarray:
    """The nearest multiple of a half."""
    rounded: np.ndarray = np.rint(column * 2) / 2
    return rounded


@pytest.mark.parametrize("width", [40, 128, 300])
def test_correlated_inputs_lose_less_than_by_rounding_each_weight(width: int) -> None:
    """The more so the more alike the inputs are; on both sides of a block's width."""
    random = np.random.default_rng(0)
    hidden = random.standard_normal((2000, 12)) @ random.standard_normal((12, width))
    x = (hidden + 0.1 * random.standard_normal((2000, width))).astype(np.float32)
    w = random.standard_normal((24, width)).astype(np.float32)
    q = round_with_feedback(w, feedback(x.T @ x), nearest)
    assert (q * 2 == np.rint(q * 2)).all()
    errors = [np.square(x @ (v - w).T).mean() for v in (q, nearest(0, w))]
    assert errors[0] < 0.25 * errors[1]


def test_independent_inputs_change_nothing() -> None:
    """With nothing to make up for, it is rounding to the nearest."""
    w = np.random.default_rng(1).standard_normal((8, 64)).astype(np.float32)
    q = round_with_feedback(w, feedback(np.eye(64, dtype=np.float32)), nearest)
    assert np.array_equal(q, nearest(0, w))


def test_an_input_that_never_comes_is_no_obstacle() -> None:
    """A channel of zeros has no moments; damping keeps the factor finite."""
    x = np.random.default_rng(2).standard_normal((100, 16)).astype(np.float32)
    x[:, 5] = 0
    assert np.isfinite(feedback(x.T @ x).factor).all()
    assert np.isfinite(feedback(np.zeros((16, 16), np.float32)).factor).all()
