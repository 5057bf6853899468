"""Several rankings into one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ranking:
    """Ids with their scores, best first; what is not among them has `floor` at the most."""

    scores: Mapping[int, float]
    floor: float
    weight: float = 1.0


def fuse(rankings: Sequence[Ranking]) -> list[tuple[int, float]]:
    """Ids with their fused score, best first; equal scores in the order of ids.

    Scores of different kinds are made comparable by their spread: each counts as how many standard
    deviations of its ranking it lies above the floor, times the ranking's weight. The sum is
    divided by what the first in all rankings would get: 0 to 1. Scores tell by how much something
    is better, which ranks do not. After Montague and Aslam 2001, "Relevance score normalization
    for metasearch", and Fox and Shaw 1994, "Combination of multiple searches" (CombSUM).
    """
    sums: dict[int, float] = {}
    whole = 0.0
    for ranking in rankings:
        if not ranking.scores:
            continue
        scores = np.array([*ranking.scores.values(), ranking.floor], np.float64)
        if scores.max() > scores.min():  # rounding may give equal scores a spread
            above = (scores[:-1] - ranking.floor) / scores.std()
        else:
            above = np.ones(len(scores) - 1)
        whole += ranking.weight * float(above.max())
        for item, share in zip(ranking.scores, above.tolist(), strict=True):
            sums[item] = sums.get(item, 0.0) + ranking.weight * share
    fused = [(item, score / whole) for item, score in sums.items()]
    return sorted(fused, key=lambda pair: (-pair[1], pair[0]))
