"""Training toward the teacher's vectors, stage by stage; the table has steps of its own."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from recipe import neighbours
from recipe.batches import Views
from recipe.corpus import View
from recipe.processor import compiled
from recipe.stages import AGAIN, RUNS, STAGES, Stage
from recipe.student import Bag, Encoder, Student
from recipe.teacher import Vectors

TEMPERATURE = 0.05
SHAPE = 0.3  # weight of the batch's similarities in the loss, as distributions
SIMILARITY = 20.0  # of their squared errors,
NEAR = 100.0  # and of those of texts that are near each other
_KEEP_EVERY = 90  # seconds
_WINDOWS = 10**6  # more than a stage has
STATE = "training.pt"  # in the work folder

State = dict[str, Tensor]  # a model's weights by name


class Rows:
    """Steps for the table: RMSProp with one second moment a row, of the rows that a batch holds.

    Adam would move a row as far for one text as for many that agree; here each row's step is
    scaled by its trust.
    """

    def __init__(self, table: Tensor, trust: Tensor) -> None:
        self._table = table
        self._trust = trust
        self.moments = torch.zeros(len(table))
        self.steps = torch.zeros(len(table))

    def step(self, rows: Tensor, gradient: Tensor, rate: float) -> None:
        """Move `rows` against their `gradient`."""
        self.steps[rows] += 1
        self.moments[rows] = 0.95 * self.moments[rows] + 0.05 * gradient.square().mean(1)
        moment = self.moments[rows] / (1 - 0.95 ** self.steps[rows])
        size = rate * self._trust[rows] / (moment.sqrt() + 1e-12)
        self._table[rows] -= size[:, None] * gradient


def run(
    work: Path,
    views: list[View],
    tokenizer: Tokenizer,
    vectors: Vectors,
    words: dict[int, Vectors],
    former: State | None,
    seed: int,
) -> Student:
    """Train all stages, one after the other; or a kestrel that is there, `former` its weights.

    That is trained on several times, each time with other batches, and the mean of the weights that
    it had and of those that it came to are its new ones (Wortsman et al. 2022, arXiv:2203.05482 and
    arXiv:2109.01903): what a run gains by chance, or forgets, goes. `words` are for the first
    table: a former one needs none. A killed run goes on from the last checkpoint, at most minutes
    old.
    """
    torch.manual_seed(seed)
    torch.set_flush_denormal(True)
    state = work / STATE
    saved: dict[str, Any] | None = torch.load(state) if state.exists() else None
    data = Views(views, tokenizer, vectors, seed)
    print(f"{data.size} views of {len(vectors)} texts", flush=True)
    trust = data.trust()
    model: Encoder
    if former is None:
        model, stages = Bag(data.table(words)), STAGES
    else:
        stages = (AGAIN,) * RUNS
        model = _grown(_loaded(former), AGAIN.layers)
        former = _weights(model)
    ends: list[State] = saved["ends"] if saved else []
    for number, stage in enumerate(stages):
        model = _grown(model, stage.layers)
        if saved and saved["stage"] > number:
            continue
        if former is not None:
            model.load_state_dict(former)
        training = Training(model, stage, data, trust, state, number, ends)
        if saved and saved["stage"] == number:
            training.restore(saved)
        training.run()
        if former is not None:
            ends.append(_weights(model))
    assert isinstance(model, Student)
    if former is not None:
        model.load_state_dict(_mean([former, *ends]))
    return model


def _loaded(weights: State) -> Encoder:
    layers = {key.split(".")[1] for key in weights if key.startswith("layers.")}
    model = _grown(Bag(weights["embed_tokens.weight"]), len(layers))
    model.load_state_dict(weights)
    return model


def _weights(model: Encoder) -> State:
    """A copy, which does not change with the model."""
    return {key: value.clone() for key, value in model.state_dict().items()}


def _mean(states: Sequence[State]) -> State:
    """Of several models' weights."""
    return {key: torch.stack([state[key] for state in states]).mean(0) for key in states[0]}


def _grown(model: Encoder, layers: int) -> Encoder:
    """A model of so many layers that begins as the smaller `model` is."""
    if isinstance(model, Bag) and layers:
        model = Student(model)
    while isinstance(model, Student) and len(model.layers) < layers:
        model.deepen()
    return model


class Training:
    """One stage: its rates fall with the CPU time that it has taken."""

    def __init__(
        self,
        model: Encoder,
        stage: Stage,
        data: Views,
        trust: Tensor,
        state: Path,
        number: int,
        ends: list[State],
    ) -> None:
        self._model, self._stage, self._data = model, stage, data
        self._state, self._number, self._ends = state, number, ends
        self._embedded = compiled(model.embedded) if stage.layers > 1 else model.embedded
        table = model.embed_tokens.weight.requires_grad_(False)
        self._rows = Rows(table, trust)
        self._others = _optimizer(model, stage)
        self._window = number * _WINDOWS  # of a stage's own
        self._step, self._taken, self._began = 0, 0.0, 0.0

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._model.load_state_dict(saved["model"])
        self._others.load_state_dict(saved["others"])
        self._rows.moments[:], self._rows.steps[:] = saved["rows"]
        self._window, self._step, self._taken = saved["window"], saved["step"], saved["taken"]

    def done(self) -> float:
        """The share of the stage that is over, by this process's CPU time."""
        return (self._taken + time.process_time() - self._began) / (60 * self._stage.minutes)

    def run(self) -> None:
        """Train to the end."""
        self._began = time.process_time()
        kept = time.monotonic()
        while (done := self.done()) < 1:
            losses = []
            for batch in self._data.window(self._stage, self._window):
                losses.append(self._batch(*batch, done))
                if (done := self.done()) >= 1:
                    break
            self._window += 1
            if self._window % 16 == 0 or done >= 1:
                english, foreign, near = self._data.agreement(self._model)
                print(
                    f"stage {self._number}: {done:.0%}, step {self._step}, "
                    f"loss {np.mean(losses):.4f}, held back {english:.4f} {foreign:.4f} {near:.4f}",
                    flush=True,
                )
            if time.monotonic() - kept > _KEEP_EVERY or done >= 1:
                kept = time.monotonic()
                self._keep()

    def _batch(
        self, ids: Tensor, lengths: Tensor, targets: Tensor, native: Tensor, done: float
    ) -> float:
        rate = min(1.0, (self._step + 1) / 50) * _falling(done)
        for group in self._others.param_groups:
            group["lr"] = group["highest"] * rate
        rows, places = torch.unique(ids, return_inverse=True)
        table = self._model.embed_tokens.weight[rows].requires_grad_()
        vectors = self._embedded(functional.embedding(places, table), lengths)
        loss = _loss(vectors, targets, native)
        self._others.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._others.param_groups[0]["params"], 1.0)
        self._others.step()
        assert table.grad is not None
        self._rows.step(rows, table.grad, self._stage.table_rate * rate)
        self._step += 1
        return loss.item()

    def _keep(self) -> None:
        partial = self._state.with_suffix(".partial")
        torch.save(
            {
                "stage": self._number,
                "ends": self._ends,
                "window": self._window,
                "step": self._step,
                "taken": self._taken + time.process_time() - self._began,
                "model": self._model.state_dict(),
                "others": self._others.state_dict(),
                "rows": (self._rows.moments, self._rows.steps),
            },
            partial,
        )
        partial.rename(self._state)


def _loss(vectors: Tensor, targets: Tensor, native: Tensor) -> Tensor:
    """2 (1 - cosine); the divergence of the batch's similarities, each row a distribution; and the
    squared errors of those among English texts (as in Zhang et al. 2024, arXiv:2412.19048), of all
    and once more of the near ones, of which a batch has few.

    Foreign texts, still far from their targets, would pull the similarities toward nothing.
    """
    targets = functional.normalize(targets, dim=1)
    cosine = (vectors * targets).sum(1).mean()
    own = functional.log_softmax(vectors @ vectors.T / TEMPERATURE, 1)
    wanted = functional.log_softmax(targets @ targets.T / TEMPERATURE, 1)
    shape = functional.kl_div(own, wanted, reduction="batchmean", log_target=True)
    vectors, targets = vectors[native], targets[native]
    similarities = targets @ targets.T
    errors = (vectors @ vectors.T - similarities).square()
    near = (similarities > neighbours.NEAR).fill_diagonal_(False)
    of_near = (errors * near).sum() / near.sum().clamp(min=1)
    of_all = errors.sum() / max(1, len(targets)) ** 2
    return 2 * (1 - cosine) + SHAPE * shape + SIMILARITY * of_all + NEAR * of_near


def _optimizer(model: Encoder, stage: Stage) -> torch.optim.Optimizer:
    own = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in own if p.dim() == 2], "highest": stage.rate, "weight_decay": 0.01},
        {"params": [p for p in own if p.dim() == 1], "highest": 2 * stage.rate, "weight_decay": 0},
    ]  # fmt: skip
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=stage.rate, betas=(0.9, 0.98), fused=True
    )


def _falling(done: float) -> float:
    """A half cosine to a fiftieth."""
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
