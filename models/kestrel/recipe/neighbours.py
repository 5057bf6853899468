"""Finds texts that are about the same in other words, which a batch at random hardly ever holds.

A text and its variants share nearly all their words; what these share is what they are about.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

NEAR = 0.4  # texts are near each other whose similarity to the teacher is above this, and
_SAME = 0.93  # say the same above this
_COUNT = 8  # neighbours of a text
_CLUSTERS = 48
_ROUNDS = 6
_SAMPLE = 60_000  # texts that a round is of
_BLOCK = 1_024  # texts whose neighbours are looked for at once


def nearest(
    vectors: npt.NDArray[np.float16], families: npt.NDArray[np.int64], seed: int
) -> list[npt.NDArray[np.int64]]:
    """The places of each text's neighbours, the nearest first; of some texts none.

    They are those of the same cluster of `vectors` (texts, dimension) alone, so that half a million
    texts take two minutes. None is of the text's own family; a number below zero is no family.
    """
    units = functional.normalize(torch.from_numpy(vectors.astype(np.float32)), dim=1)
    own = torch.from_numpy(np.where(families < 0, -1 - np.arange(len(families)), families))
    found: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)] * len(units)
    for members in _clusters(units, seed):
        cluster, kin = units[members], own[members]
        for rows in torch.split(members, _BLOCK):
            near = units[rows] @ cluster.T
            near[(own[rows, None] == kin) | (near > _SAME)] = -1
            best = near.topk(min(_COUNT, len(members)), 1)
            for row, places, sizes in zip(rows, best.indices, best.values, strict=True):
                found[row] = members[places[sizes > NEAR]].numpy()
    return found


def _clusters(units: Tensor, seed: int) -> list[Tensor]:
    """The places of the texts in each of at most 48 clusters, by k-means on the sphere."""
    draw = torch.Generator().manual_seed(seed)
    centres = units[torch.randperm(len(units), generator=draw)[:_CLUSTERS]]
    for _ in range(_ROUNDS):
        some = units[torch.randperm(len(units), generator=draw)[:_SAMPLE]]
        sums = torch.zeros_like(centres).index_add_(0, (some @ centres.T).argmax(1), some)
        centres = functional.normalize(sums, dim=1)
    of = (units @ centres.T).argmax(1)
    return [torch.nonzero(of == number)[:, 0] for number in range(len(centres))]
