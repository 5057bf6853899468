"""Training: vectors toward the teacher's, of a bag of words first, then of one layer, then two."""

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
from recipe.corpus import NONE, View
from recipe.processor import compiled
from recipe.student import Bag, Encoder, Student
from recipe.teacher import Vectors
from recipe.vocabulary import BOS, EOS, PAD

Vector = npt.NDArray[np.float16]


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


STAGES = (
    Stage(layers=0, minutes=3, batch=512, rate=5e-3, table_rate=2e-3, longest=256, english=0.5),
    Stage(layers=1, minutes=5, batch=512, rate=2e-3, table_rate=6e-4, longest=256, english=0.55),
    Stage(layers=2, minutes=150, batch=256, rate=2e-3, table_rate=5e-4, longest=256, english=0.68),
)
TEMPERATURE = 0.05
SHAPE = 0.3  # weight of the batch's similarities in the loss, as distributions
SIMILARITY = 20.0  # and of their squared errors
PROMPTED = 0.3  # of the texts that could be queries
QUERY_TOKENS = 28
FLATTEN = 0.6  # a language's share of the others goes with its size to this power, and
MORE = {"de": 2.0, "es": 3.0, "fr": 2.0, "ru": 3.0, "zh_CN": 3.0, "ar": 4.0}  # with this
_FEWEST = 300  # views of a language
_KINDS = {"word": 0.02, "common word": 0.03, "gene": 0.015, "gene term": 0.015, "gloss": 0.07,
          "example": 0.12, "term": 0.04, "question": 0.04, "passage": 0.03, "long": 0.01,
          "document": 0.01, "sentence": 0.08, "title": 0.07, "paper": 0.09, "abstract": 0.025,
          "headline": 0.02, "news": 0.08, "news passage": 0.02, "prose": 0.06,
          "prose passage": 0.02, "variant": 0.26}  # fmt: skip
_TASKS = (  # beside the model's own prompts, so that another instruction does no harm
    "Given a question, retrieve documents that answer it",
    "Find notes about this topic",
    "Retrieve semantically similar text",
)
_WINDOW = 32  # batches that are sorted by length together
_FOR_TABLE = 400_000  # views
_TRUSTED = 30  # texts that hold a token, for its row to move half as far as a common one's
_KEEP_EVERY = 90  # seconds
STATE = "training.pt"  # in the work folder
_HELD_BACK = 2_000  # English texts, none of whose views is learned from


@dataclass(frozen=True)
class Group:
    """The views of a language, of English those of a kind: each by itself or with its family."""

    views: list[list[int]]
    mean_size: float


class Views:
    """All views as token ids, drawn by step: the same step always gives the same batch."""

    def __init__(
        self, views: list[View], tokenizer: Tokenizer, vectors: Vectors, seed: int
    ) -> None:
        families = {view.family for view in views if view.target < _HELD_BACK} - {NONE}
        held = [v for v in views if v.target < _HELD_BACK or v.family in families]
        views = [v for v in views if not (v.target < _HELD_BACK or v.family in families)]
        tried = [v for v in held if v.kind not in ("word", "common word", "variant")]
        self._tried = [
            ([v for v in tried if (v.language == "en") == english])[:2_000]
            for english in (True, False)
        ]
        self._tried.append([v for v in held if v.family in families][:2_000])
        encoded = tokenizer.encode_batch_fast([v.text for v in views], add_special_tokens=False)
        self._tokenizer = tokenizer
        self._ids = [np.array(e.ids, np.int32) for e in encoded]
        self.size = len(views)
        self._targets = np.array([v.target for v in views])
        self._native = np.array([v.language == "en" for v in views])
        self._vectors = vectors
        self._seed = seed
        self.vocabulary = tokenizer.get_vocab_size()
        prompts = list(catalog.load("harrier-270m").prompts.values())
        prompts = prompts * 2 + [f"Instruct: {task}\nQuery: " for task in _TASKS]
        self._prompts = [
            np.array(tokenizer.encode(p, add_special_tokens=False).ids, np.int32) for p in prompts
        ]
        groups: dict[tuple[str, str], dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        for i, view in enumerate(views):
            kind = view.kind if view.language == "en" else ""
            groups[view.language, kind][i if view.family == NONE else -view.family - 1].append(i)
        # What is drawn is a view or a family: all of it comes in one batch.
        self._groups = [
            Group(list(members.values()), sum(map(len, members.values())) / len(members))
            for members in groups.values()
        ]
        sizes = {
            group: MORE.get(group[0], 1.0) * len(members) ** FLATTEN
            for group, members in groups.items()
            if group[0] != "en" and len(members) >= _FEWEST
        }
        whole = sum(sizes.values())
        self._english = np.array([_KINDS.get(kind, 0.0) for _, kind in groups])
        self._english /= self._english.sum()
        self._others = np.array([sizes.get(group, 0.0) / whole for group in groups])

    def window(self, stage: Stage, number: int) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """(ids, lengths, teacher's vectors, whether it is English) of the batches of one window."""
        rng = np.random.default_rng([self._seed, STAGES.index(stage), number])
        size = _WINDOW * stage.batch
        shares = stage.english * self._english + (1 - stage.english) * self._others
        drawn = []
        for members, count in zip(self._groups, rng.multinomial(size, shares), strict=True):
            families = math.ceil(count / members.mean_size)
            drawn += [members.views[i] for i in rng.integers(len(members.views), size=families)]
        rng.shuffle(drawn)
        drawn = drawn[: np.searchsorted(np.cumsum([len(family) for family in drawn]), size) + 1]
        prompted = rng.random(len(drawn)) < PROMPTED
        which = rng.integers(len(self._prompts), size=len(drawn))
        together = []
        for family, asked, prompt in zip(drawn, prompted, which, strict=True):
            texts = [self._ids[i][: stage.longest] for i in family]
            longest = max(map(len, texts))
            if asked and longest <= QUERY_TOKENS:
                texts = [np.concatenate([self._prompts[prompt], ids]) for ids in texts]
                longest += len(self._prompts[prompt])
            together.append((longest, list(zip(texts, family, strict=True))))
        together.sort(key=lambda pair: pair[0])
        views = [view for _, texts in together for view in texts]
        for place in rng.permutation(_WINDOW):
            batch = views[place * stage.batch : (place + 1) * stage.batch]
            ids, chosen = [ids for ids, _ in batch], [view for _, view in batch]
            targets = self._vectors[self._targets[chosen]].astype(np.float32)
            native = torch.from_numpy(self._native[chosen])
            yield *_padded(ids), torch.from_numpy(targets), native

    def agreement(self, student: Encoder) -> tuple[float, float, float]:
        """On texts that are held back: mean cosine to the teacher, of English and of other
        languages; and the correlation, by ranks, of similarities to the teacher's, of all pairs of
        a text and its variants."""
        found = []
        for views in self._tried:
            texts = [
                np.array(e.ids[:254], np.int32)
                for e in self._tokenizer.encode_batch_fast(
                    [v.text for v in views], add_special_tokens=False
                )
            ]
            own = torch.empty(len(views), self._vectors.shape[1])
            order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
            with torch.no_grad():
                for rows in np.array_split(order, 32):
                    own[torch.from_numpy(rows)] = student(*_padded([texts[r] for r in rows]))
            wanted = torch.from_numpy(self._vectors[[v.target for v in views]].astype(np.float32))
            found.append((own, functional.normalize(wanted, dim=1)))
        (a, b), (c, d), (own, wanted) = found
        families = torch.tensor([v.family for v in self._tried[2]])
        pairs = (families[:, None] == families).triu(1)
        ranks = torch.stack([(x @ x.T)[pairs].argsort().argsort().double() for x in (own, wanted)])
        cosines = [(x * y).sum(1).mean().item() for x, y in ((a, b), (c, d))]
        return cosines[0], cosines[1], torch.corrcoef(ranks)[0, 1].item()

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
        table = functional.normalize(table, dim=1)
        table[EOS] = mean  # what a text without words would get
        return table

    def trust(self) -> Tensor:
        """How far each token's row may move, (vocabulary,): what few texts have to say about it
        is more about them."""
        found = torch.zeros(self.vocabulary)
        for ids in self._ids:
            found[np.unique(ids)] += 1
        found[[BOS, EOS]] = math.inf
        return 1 / (1 + _TRUSTED / found)


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
    words: dict[int, Vector],
    former: dict[str, Tensor] | None,
    seed: int,
) -> Student:
    """Train all stages; of a kestrel that is there, `former` its weights, only the last again.

    `words` are for the first table: a former one needs none. A killed run goes on from
    the last checkpoint, at most minutes old.
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
        model, first = Bag(data.table(words)), 0
    else:
        first = len(STAGES) - 1
        layers = {key.split(".")[1] for key in former if key.startswith("layers.")}
        model = _grown(Bag(former["embed_tokens.weight"]), len(layers))
        model.load_state_dict(former)
    for number, stage in enumerate(STAGES[first:], first):
        model = _grown(model, stage.layers)
        if saved and saved["stage"] > number:
            continue
        training = Training(model, stage, data, trust, state, number)
        if saved and saved["stage"] == number:
            training.restore(saved)
        training.run()
    assert isinstance(model, Student)
    return model


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
        self, model: Encoder, stage: Stage, data: Views, trust: Tensor, state: Path, number: int
    ) -> None:
        self._model, self._stage, self._data = model, stage, data
        self._state, self._number = state, number
        self._embedded = compiled(model.embedded) if stage.layers > 1 else model.embedded
        table = model.embed_tokens.weight.requires_grad_(False)
        self._rows = Rows(table, trust)
        self._others = _optimizer(model, stage)
        self._window, self._step, self._taken, self._began = 0, 0, 0.0, 0.0

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


def _padded(texts: list[npt.NDArray[np.int32]]) -> tuple[Tensor, Tensor]:
    """(texts, longest) ids between <bos> and <eos>, padded on the right, and (texts,) lengths."""
    lengths = np.array([len(text) for text in texts]) + 2
    ids = np.full((len(texts), lengths.max()), PAD, np.int64)
    for row, text in enumerate(texts):
        ids[row, 0] = BOS
        ids[row, 1 : lengths[row] - 1] = text
        ids[row, lengths[row] - 1] = EOS
    return torch.from_numpy(ids), torch.from_numpy(lengths)


def _loss(vectors: Tensor, targets: Tensor, native: Tensor) -> Tensor:
    """2 (1 - cosine); the divergence of the batch's similarities, each row a distribution; and the
    squared errors of those among English texts (as in Zhang et al. 2024, arXiv:2412.19048).

    Foreign texts, still far from their targets, would pull the similarities toward nothing.
    """
    targets = functional.normalize(targets, dim=1)
    cosine = (vectors * targets).sum(1).mean()
    own = functional.log_softmax(vectors @ vectors.T / TEMPERATURE, 1)
    wanted = functional.log_softmax(targets @ targets.T / TEMPERATURE, 1)
    shape = functional.kl_div(own, wanted, reduction="batchmean", log_target=True)
    vectors, targets = vectors[native], targets[native]
    errors = (vectors @ vectors.T - targets @ targets.T).square().sum() / max(1, len(targets)) ** 2
    return 2 * (1 - cosine) + SHAPE * shape + SIMILARITY * errors


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
