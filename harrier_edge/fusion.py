"""Several rankings into one."""

from __future__ import annotations

from collections.abc import Sequence

RRF_K = 60


def reciprocal_rank_fusion(rankings: Sequence[Sequence[int]]) -> list[tuple[int, float]]:
    """Ids with their fused score, best first; equal scores in the order of ids.

    An id's score is the sum of 1 / (60 + rank) over the rankings that hold it, divided by what
    the first in all of them would get: 0 to 1. From Cormack, Clarke and Büttcher 2009,
    "Reciprocal rank fusion outperforms Condorcet and individual rank learning methods".
    """
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, item in enumerate(ranking, 1):
            scores[item] = scores.get(item, 0.0) + (RRF_K + 1) / (RRF_K + rank) / len(rankings)
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
