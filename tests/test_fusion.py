"""Several rankings into one."""

from __future__ import annotations

import pytest

from harrier_edge.fusion import Ranking, fuse


def test_first_in_all_rankings_scores_one() -> None:
    """The score is a share of what is best, and nothing is below zero."""
    fused = dict(fuse([Ranking({7: 0.9, 8: 0.5}, 0.5), Ranking({7: 12.0, 9: 3.0}, 0.0)]))
    assert fused[7] == pytest.approx(1)
    assert fused[8] == 0
    assert 0 < fused[9] < 0.25


def test_the_unit_of_a_ranking_is_its_spread() -> None:
    """Scores that are scaled and moved as a whole give the same."""
    words = Ranking({1: 4.0, 3: 2.0, 2: 1.0}, 0.0)
    near = {2: 0.9, 1: 0.8, 4: 0.7}
    far = {item: 50 * score - 3 for item, score in near.items()}
    for (a, x), (b, y) in zip(
        fuse([Ranking(near, 0.7), words]), fuse([Ranking(far, 32.0), words]), strict=True
    ):
        assert a == b
        assert x == pytest.approx(y)


def test_a_lead_counts_for_more_than_a_place() -> None:
    """What is far ahead in one ranking beats what is barely ahead in the other."""
    close = Ranking({1: 0.62, 2: 0.61, 3: 0.60, 4: 0.2}, 0.2)
    clear = Ranking({2: 20.0, 1: 4.0, 3: 3.0, 4: 2.0}, 0.0)
    assert [item for item, _ in fuse([close, clear])][:2] == [2, 1]


def test_a_heavier_ranking_decides() -> None:
    """Where two rankings say the opposite, the weight tells."""
    one, other = {1: 2.0, 2: 1.0}, {2: 2.0, 1: 1.0}
    assert fuse([Ranking(one, 0.0, 2.0), Ranking(other, 0.0)])[0][0] == 1
    assert fuse([Ranking(one, 0.0), Ranking(other, 0.0, 2.0)])[0][0] == 2


def test_equal_scores_come_in_the_order_of_ids() -> None:
    """The same rankings always give the same order; equal scores and none are fine."""
    assert [i for i, _ in fuse([Ranking({9: 1.0, 2: 1.0}, 1.0), Ranking({}, 0.0)])] == [2, 9]
    assert fuse([Ranking({}, 0.0), Ranking({}, 0.0)]) == []


@pytest.mark.parametrize("score", [0.1, 0.7, 1 / 3])
@pytest.mark.parametrize("count", range(1, 9))
def test_equal_scores_have_no_spread_whatever_rounding_makes_of_it(
    score: float, count: int
) -> None:
    """As when all that a filter leaves are copies of one text."""
    ranking = Ranking(dict.fromkeys(range(count), score), score)
    assert fuse([ranking]) == [(item, 1.0) for item in range(count)]
