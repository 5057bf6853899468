"""Training: the student's vectors toward the teacher's, first shallow and fast, then whole."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from harrier_edge import catalog
from recipe.corpus import View
from recipe.student import HIDDEN, Student
from recipe.teacher import Vectors
from recipe.vocabulary import BOS, EOS, PAD

Vector = npt.NDArray[np.float16]


@dataclass(frozen=True)
class Stage:
    """`views` texts in batches of about `batch`; rates are the highest, after the warm-up."""

    layers: int
    views: int
    batch: int
    rate: float
    table_rate: float
    longest: int  # tokens of a text
    english: float  # share of the views
    tempered: bool = False  # whether tokens met in few texts are drawn back before


STAGES = (
    Stage(
        layers=1, views=983_040, batch=512, rate=2e-3, table_rate=2e-3, longest=128, english=0.55
    ),
    Stage(
        layers=2, views=393_216, batch=256, rate=1.5e-3, table_rate=1e-3, longest=224, english=0.55
    ),
    Stage(
        layers=2,
        views=245_760,
        batch=256,
        rate=8e-4,
        table_rate=4e-4,
        longest=320,
        english=0.7,
        tempered=True,
    ),
)
TEMPERATURE = 0.05
SHAPE = 0.3  # weight of the batch's similarities in the loss
PROMPTED = 1 / 3  # of the texts that could be queries
QUERY_TOKENS = 28
FLATTEN = 0.5  # a language's share of the others goes with its size to this power
_KINDS = {"gloss": 0.23, "example": 0.24, "term": 0.1, "question": 0.1, "passage": 0.22,
          "long": 0.11}  # fmt: skip
_TASKS = (  # beside the model's own prompts, so that another instruction does no harm
    "Given a question, retrieve documents that answer it",
    "Find notes about this topic",
    "Retrieve semantically similar text",
)
_WINDOW = 64  # batches that are sorted by length together
_FOR_TABLE = 400_000  # views
_TRUSTED = 30  # texts, of which a token's row has learned as much as the teacher's own knows
_KEEP_EVERY = 60  # CPU seconds


class Views:
    """All views as token ids, drawn by step: the same step always gives the same batch."""

    def __init__(
        self, views: list[View], tokenizer: Tokenizer, vectors: Vectors, seed: int
    ) -> None:
        encoded = tokenizer.encode_batch_fast([v.text for v in views], add_special_tokens=False)
        self._ids = [np.array(e.ids, np.int32) for e in encoded]
        self._targets = np.array([v.target for v in views])
        self._vectors = vectors
        self._seed = seed
        self.vocabulary = tokenizer.get_vocab_size()
        prompts = list(catalog.load("harrier-270m").prompts.values())
        prompts = prompts * 2 + [f"Instruct: {task}\nQuery: " for task in _TASKS]
        self._prompts = [
            np.array(tokenizer.encode(p, add_special_tokens=False).ids, np.int32) for p in prompts
        ]
        groups: dict[tuple[str, str], list[int]] = defaultdict(list)
        for i, view in enumerate(views):
            groups[view.language, view.kind if view.language == "en" else ""].append(i)
        self._groups = [np.array(members) for members in groups.values()]
        sizes = {group: len(m) ** FLATTEN for group, m in groups.items() if group[0] != "en"}
        whole = sum(sizes.values())
        self._english = np.array([_KINDS.get(kind, 0.0) for _, kind in groups])
        self._english /= self._english.sum()
        self._others = np.array([sizes.get(group, 0.0) / whole for group in groups])

    def window(self, stage: Stage, number: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(ids, lengths, teacher's vectors) of the batches of one window."""
        rng = np.random.default_rng([self._seed, STAGES.index(stage), number])
        size = _WINDOW * stage.batch
        shares = stage.english * self._english + (1 - stage.english) * self._others
        counts = rng.multinomial(size, shares)
        chosen = np.concatenate(
            [rng.choice(g, count) for g, count in zip(self._groups, counts, strict=True)]
        )
        rng.shuffle(chosen)
        prompted = rng.random(size) < PROMPTED
        which = rng.integers(len(self._prompts), size=size)
        texts = []
        for place, i in enumerate(chosen):
            ids = self._ids[i][: stage.longest]
            if prompted[place] and len(ids) <= QUERY_TOKENS:
                ids = np.concatenate([self._prompts[which[place]], ids])
            texts.append(ids)
        order = np.argsort([len(t) for t in texts], kind="stable").reshape(_WINDOW, -1)
        for rows in rng.permutation(order):
            lengths = np.array([len(texts[r]) for r in rows]) + 2
            ids = np.full((len(rows), lengths.max()), PAD, np.int64)
            for place, r in enumerate(rows):
                ids[place, 0] = BOS
                ids[place, 1 : lengths[place] - 1] = texts[r]
                ids[place, lengths[place] - 1] = EOS
            targets = self._vectors[self._targets[chosen[rows]]].astype(np.float32)
            yield torch.from_numpy(ids), torch.from_numpy(lengths), torch.from_numpy(targets)

    def table(self, words: dict[int, Vector]) -> Tensor:
        """A first vector for each token: the mean of the teacher's vectors where it occurs, less
        the mean of all, and, as much again, the teacher's own of what is a word by itself."""
        rng = np.random.default_rng(self._seed)
        mean = torch.from_numpy(self._vectors.astype(np.float32).mean(0))
        size = self.vocabulary
        sums = torch.zeros(size, len(mean))
        counts = torch.zeros(size)
        for chosen in np.array_split(rng.permutation(len(self._ids))[:_FOR_TABLE], 64):
            rows = [np.unique(self._ids[i]) for i in chosen]
            sizes = torch.tensor([len(row) for row in rows])
            tokens = torch.from_numpy(np.concatenate(rows)).long()
            weights = torch.repeat_interleave(1 / sizes.clamp(min=1), sizes)
            targets = torch.from_numpy(self._vectors[self._targets[chosen]].astype(np.float32))
            targets = torch.repeat_interleave(targets - mean, sizes, 0) * weights[:, None]
            sums.index_add_(0, tokens, targets)
            counts.index_add_(0, tokens, weights)
        noise = torch.from_numpy(rng.standard_normal((size, len(mean)), np.float32))
        table = sums / (counts[:, None] + 0.05) + noise * 0.1 / math.sqrt(len(mean))
        table = functional.normalize(table, dim=1)
        own = torch.from_numpy(np.stack(list(words.values())).astype(np.float32))
        table[torch.tensor(list(words))] += functional.normalize(own - own.mean(0), dim=1)
        return functional.normalize(table, dim=1)

    def temper(self, table: Tensor, words: dict[int, Vector]) -> None:
        """Draw the rows of words that few texts hold toward the teacher's own, for what so few
        have taught is more about them than about the word."""
        found = np.zeros(self.vocabulary, np.float32)
        for ids in self._ids:
            found[np.unique(ids)] += 1
        rows = list(words)
        known = torch.from_numpy(found[rows] / (found[rows] + _TRUSTED))[:, None]
        own = torch.from_numpy(np.stack(list(words.values())).astype(np.float32))
        own = functional.normalize(own - own.mean(0), dim=1)
        trained = table[rows]
        table[rows] = known * trained + (1 - known) * own * trained.norm(dim=1, keepdim=True)


def run(
    work: Path,
    views: list[View],
    tokenizer: Tokenizer,
    vectors: Vectors,
    words: dict[int, Vector],
    seed: int,
) -> Student:
    """Train both stages. A killed run goes on from the last checkpoint, at most minutes old."""
    torch.manual_seed(seed)
    state = work / "training.pt"
    saved: dict[str, Any] | None = torch.load(state) if state.exists() else None
    data = Views(views, tokenizer, vectors, seed)
    student = Student(torch.empty(data.vocabulary, HIDDEN) if saved else data.table(words))
    for number, stage in enumerate(STAGES):
        while len(student.layers) < stage.layers:
            student.deepen()
        if saved and saved["stage"] > number:
            continue
        start = 0
        if stage.tempered and not (saved and saved["stage"] == number):
            with torch.no_grad():
                data.temper(student.embed_tokens.weight, words)
        optimizer = _optimizer(student, stage)
        if saved and saved["stage"] == number:
            student.load_state_dict(saved["student"])
            optimizer.load_state_dict(saved["optimizer"])
            start = saved["window"]
        _stage(student, stage, data, optimizer, start, number, state)
    return student


def _stage(
    student: Student,
    stage: Stage,
    data: Views,
    optimizer: torch.optim.Optimizer,
    start: int,
    number: int,
    state: Path,
) -> None:
    windows = math.ceil(stage.views / (_WINDOW * stage.batch))
    steps = windows * _WINDOW
    step = start * _WINDOW
    kept = began = time.process_time()
    for window in range(start, windows):
        losses = []
        for ids, lengths, targets in data.window(stage, window):
            for group in optimizer.param_groups:
                group["lr"] = group["highest"] * _schedule(step, steps)
            loss = _loss(student(ids, lengths), targets)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
            step += 1
        now = time.process_time()
        done = (window + 1 - start) * _WINDOW * stage.batch
        print(
            f"stage {number}: step {step} of {steps}, loss {np.mean(losses):.4f}, "
            f"{done / (now - began):.0f} views a CPU s",
            flush=True,
        )
        if now - kept > _KEEP_EVERY or window + 1 == windows:
            kept = now
            partial = state.with_suffix(".partial")
            torch.save(
                {
                    "stage": number,
                    "window": window + 1,
                    "student": student.state_dict(),
                    "optimizer": optimizer.state_dict(),
                },
                partial,
            )
            partial.rename(state)


def _loss(vectors: Tensor, targets: Tensor) -> Tensor:
    """2 (1 - cosine) and the divergence of the batch's similarities, each row a distribution."""
    targets = functional.normalize(targets, dim=1)
    cosine = (vectors * targets).sum(1).mean()
    own = functional.log_softmax(vectors @ vectors.T / TEMPERATURE, 1)
    wanted = functional.log_softmax(targets @ targets.T / TEMPERATURE, 1)
    shape = functional.kl_div(own, wanted, reduction="batchmean", log_target=True)
    return 2 * (1 - cosine) + SHAPE * shape


def _optimizer(student: Student, stage: Stage) -> torch.optim.Optimizer:
    matrices = [p for n, p in student.named_parameters() if p.dim() == 2 and "embed" not in n]
    vectors = [p for p in student.parameters() if p.dim() == 1]
    groups = [
        {"params": [student.embed_tokens.weight], "highest": stage.table_rate, "weight_decay": 0.0},
        {"params": matrices, "highest": stage.rate, "weight_decay": 0.01},
        {"params": vectors, "highest": 2 * stage.rate, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=stage.rate, betas=(0.9, 0.98), fused=True)


def _schedule(step: int, steps: int) -> float:
    """A warm-up of 50 steps, then a half cosine to a fiftieth."""
    done = step / steps
    return min(1.0, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
