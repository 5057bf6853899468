"""harrier_export.sensitivity: what an error in an embedding costs, from small probes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from harrier_export.checkpoint import Float32
from harrier_export.sensitivity import TEXTS, TOKENS, Run, choose_probes, measure_sensitivity

HIDDEN = 24


def test_the_costs_of_a_known_model_are_found() -> None:
    """Two layers of known matrices, the last token taking in all: directions agree to 0.98."""
    random = np.random.default_rng(3)
    first = random.standard_normal((HIDDEN, HIDDEN)) * np.linspace(0.05, 2, HIDDEN)
    second = random.standard_normal((HIDDEN, HIDDEN))
    table = random.standard_normal((100, HIDDEN)).astype(np.float32)
    offset = random.standard_normal(HIDDEN)
    runs: list[int] = []

    def layer(matrix: npt.NDArray[np.float64], *, gathers: bool) -> Run:
        def run(texts: Sequence[Sequence[int]], states: Float32) -> Float32:
            runs.append(len(texts))
            made = states @ matrix.T
            if gathers:
                made[:, -1] += states[:, :-1].sum(1) @ matrix.T
            return np.asarray(made, np.float32)

        return run

    def pool(states: Float32) -> Float32:
        return np.asarray(states @ np.eye(HIDDEN) * 1e-3 + offset, np.float32)

    seen = measure_sensitivity(
        [[1, *random.integers(3, 100, 8).tolist(), 2] for _ in range(8)],
        lambda token: token in (1, 2),
        lambda texts: table[np.array(texts)],
        [layer(first, gathers=False), layer(second, gathers=True)],
        pool,
    )
    wanted = (second @ first).T @ (second @ first)
    cosine = (seen * wanted).sum() / np.sqrt(np.square(seen).sum() * np.square(wanted).sum())
    assert cosine > 0.98
    assert np.isclose(np.trace(seen) / HIDDEN, 1, atol=1e-3)
    assert max(runs) <= 64


def test_probes_are_beginnings_that_end_as_texts_do() -> None:
    """Of texts that are long enough, if there are any."""
    texts = [[7, 2], *([7, *range(10, 10 + n), 2] for n in range(5, 60))]
    probes = choose_probes(texts)
    assert len(probes) == TEXTS
    assert {len(probe) for probe in probes} == {TOKENS}
    assert all(probe[-1] == 2 for probe in probes)
    assert choose_probes([[7, 2]]) == [[7, 2]]
