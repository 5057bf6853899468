"""Several rankings into one."""

from __future__ import annotations

import pytest

from harrier_edge.fusion import reciprocal_rank_fusion


def test_first_in_all_rankings_scores_one() -> None:
    """The score is 1 / (60 + rank) summed, as a share of what is best."""
    fused = dict(reciprocal_rank_fusion([[7, 8], [7, 9]]))
    assert fused[7] == pytest.approx(1)
    assert fused[8] == fused[9] == pytest.approx(61 / 62 / 2)


def test_agreement_beats_one_high_rank() -> None:
    """Third in both rankings is better than first in one."""
    assert reciprocal_rank_fusion([[1, 2, 3], [4, 5, 3]])[0][0] == 3


def test_equal_scores_come_in_the_order_of_ids() -> None:
    """The same rankings always give the same order."""
    assert [i for i, _ in reciprocal_rank_fusion([[9, 2], [2, 9]])] == [2, 9]
    assert reciprocal_rank_fusion([[], []]) == []
