"""harrier_export.rounding: weights rounded by what their inputs are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from harrier_export import rounding
from harrier_export.rounding import feedback, round_with_feedback


def nearest(_: int, column: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The nearest multiple of a half."""
    rounded: npt.NDArray[np.float32] = (np.rint(column * 2) / 2).astype(np.float32)
    return rounded


@pytest.mark.parametrize("width", [40, 128, 300])
def test_correlated_inputs_lose_less_than_by_rounding_each_weight(
    tmp_path: Path, width: int
) -> None:
    """The more so the more alike the inputs are; on both sides of a block's width."""
    random = np.random.default_rng(0)
    hidden = random.standard_normal((2000, 12)) @ random.standard_normal((12, width))
    x = (hidden + 0.1 * random.standard_normal((2000, width))).astype(np.float32)
    w = random.standard_normal((24, width)).astype(np.float32)
    q = round_with_feedback(w, feedback(x.T @ x, tmp_path / "factor"), nearest)
    assert (q * 2 == np.rint(q * 2)).all()
    errors = [np.square(x @ (v - w).T).mean() for v in (q, nearest(0, w))]
    assert errors[0] < 0.25 * errors[1]


def test_independent_inputs_change_nothing(tmp_path: Path) -> None:
    """With nothing to make up for, it is rounding to the nearest."""
    w = np.random.default_rng(1).standard_normal((8, 64)).astype(np.float32)
    q = round_with_feedback(w, feedback(np.eye(64, dtype=np.float32), tmp_path / "factor"), nearest)
    assert np.array_equal(q, nearest(0, w))


def test_an_input_that_never_comes_is_no_obstacle(tmp_path: Path) -> None:
    """A channel of zeros has no moments; damping keeps the factor finite."""
    x = np.random.default_rng(2).standard_normal((100, 16)).astype(np.float32)
    x[:, 5] = 0
    assert np.isfinite(feedback(x.T @ x, tmp_path / "factor").factor).all()
    assert np.isfinite(feedback(np.zeros((16, 16), np.float32), tmp_path / "zeros").factor).all()


def test_the_factor_made_in_place_is_the_papers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The upper Cholesky factor of the damped inverse, whatever blocks it was made of."""
    x = np.random.default_rng(3).standard_normal((300, 70)).astype(np.float32)
    moments = x.T @ x
    monkeypatch.setattr(rounding, "_ROWS", 16)
    known = feedback(moments, tmp_path / "factor")
    h = moments.astype(np.float64)[np.ix_(known.order, known.order)]
    assert (np.diff(np.diag(h)) <= 0).all()
    h += 0.1 * np.diag(h).mean() * np.eye(70)
    wanted = np.linalg.cholesky(np.linalg.inv(h)).T
    assert np.abs(known.factor - wanted).max() < 1e-7 * np.abs(wanted).max()
