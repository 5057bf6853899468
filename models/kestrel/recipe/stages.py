"""The stages of training: a bag of words first, then one layer, then two, or a kestrel's again."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Stage:
    """One stage of training; its rates are the highest, after the warm-up."""

    layers: int  # 0: the bag of words
    minutes: float  # of CPU time
    batch: int
    rate: float
    table_rate: float
    longest: int  # tokens of a text
    english: float  # share of the views


STAGES: tuple[Stage, ...] = (
    Stage(layers=0, minutes=3, batch=512, rate=5e-3, table_rate=2e-3, longest=256, english=0.5),
    Stage(layers=1, minutes=5, batch=512, rate=2e-3, table_rate=6e-4, longest=256, english=0.55),
    Stage(layers=2, minutes=150, batch=256, rate=2e-3, table_rate=5e-4, longest=256, english=0.68),
)
# For a kestrel that is there, several times: gentler, since what the highest rates undo takes long
# to come back, and of larger batches, of which a step gained more (models/kestrel.md).
AGAIN = replace(STAGES[-1], minutes=27, batch=512, rate=1e-3, table_rate=3e-4, english=0.6)
RUNS = 3
