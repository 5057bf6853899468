"""Batches of what is learned from: views drawn by their kinds, as token ids with their vectors."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from harrier_edge import catalog
from recipe.corpus import NONE, View
from recipe.neighbours import nearest
from recipe.stages import Stage
from recipe.student import Encoder
from recipe.teacher import Vectors
from recipe.vocabulary import BOS, EOS, PAD

PROMPTED = 0.3  # of the texts that could be queries
QUERY_TOKENS = 28
_BESIDE = 4  # neighbours that an English text comes with,
_SHORT, _LONG = 4, 64  # where both have from so many tokens to so many
FLATTEN = 0.6  # a language's share of the others goes with its size to this power, and
MORE = {"de": 2.0, "es": 3.0, "fr": 2.0, "ru": 3.0, "zh_CN": 3.0, "ar": 4.0}  # with this
_FEWEST = 300  # views of a language
_KINDS = {"word": 0.02, "common word": 0.03, "gene": 0.015, "gene term": 0.015, "gloss": 0.07,
          "example": 0.10, "term": 0.04, "question": 0.04, "passage": 0.03, "long": 0.01,
          "document": 0.01, "sentence": 0.08, "title": 0.08, "paper": 0.11, "abstract": 0.03,
          "headline": 0.02, "news": 0.07, "news passage": 0.02, "prose": 0.05,
          "prose passage": 0.02, "variant": 0.26}  # fmt: skip
_TASKS = (  # beside the model's own prompts, so that another instruction does no harm
    "Given a question, retrieve documents that answer it",
    "Find notes about this topic",
    "Retrieve semantically similar text",
)
_WINDOW = 32  # batches that are sorted by length together
_FOR_TABLE = 400_000  # views
_TRUSTED = 30  # texts that hold a token, for its row to move half as far as a common one's
_NOTHING = np.empty(0, np.int64)
_HELD_BACK = 2_000  # English texts, none of whose views is learned from


@dataclass(frozen=True)
class Group:
    """The views of a language, of English those of a kind, each by itself or with its family: what
    is drawn together, and comes in one batch. A view by itself brings some of its neighbours."""

    views: list[list[int]]
    mean_size: float  # of what is drawn together, neighbours too


class Views:
    """All views as token ids, drawn by step: the same step always gives the same batch."""

    def __init__(
        self, views: list[View], tokenizer: Tokenizer, vectors: Vectors, seed: int
    ) -> None:
        families = {view.family for view in views if view.target < _HELD_BACK} - {NONE}
        is_held = [view.target < _HELD_BACK or view.family in families for view in views]
        held = [view for view, apart in zip(views, is_held, strict=True) if apart]
        views = [view for view, apart in zip(views, is_held, strict=True) if not apart]
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
        self._neighbours = self._near([view.family for view in views])
        self.vocabulary = tokenizer.get_vocab_size()
        prompts = list(catalog.load("harrier-270m").prompts.values())
        prompts = prompts * 2 + [f"Instruct: {task}\nQuery: " for task in _TASKS]
        self._prompts = [
            np.array(tokenizer.encode(p, add_special_tokens=False).ids, np.int32) for p in prompts
        ]
        groups: dict[tuple[str, str], dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        for i, view in enumerate(views):
            kind = view.kind if view.language == "en" else ""
            # A view by itself goes by its place, a family by a number below zero.
            groups[view.language, kind][i if view.family == NONE else -view.family - 1].append(i)
        self._groups = [
            Group(families, sum(map(self._size, families)) / len(families))
            for families in (list(members.values()) for members in groups.values())
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
        rng = np.random.default_rng([self._seed, stage.layers, number])
        size = _WINDOW * stage.batch
        shares = stage.english * self._english + (1 - stage.english) * self._others
        drawn = []
        for members, count in zip(self._groups, rng.multinomial(size, shares), strict=True):
            families = math.ceil(count / members.mean_size)
            drawn += [members.views[i] for i in rng.integers(len(members.views), size=families)]
        rng.shuffle(drawn)
        drawn = [[*one, *rng.permutation(self._beside(one))[:_BESIDE].tolist()] for one in drawn]
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
            yield *padded(ids), torch.from_numpy(targets), native

    def _near(self, families: list[int]) -> dict[int, npt.NDArray[np.int64]]:
        """The neighbours of each English text that has some, by their places among the views."""
        place_of: dict[int, int] = {}
        family_of: dict[int, int] = {}  # by the text: it is there once more, where it has variants
        for place in np.flatnonzero(self._native).tolist():
            if _SHORT <= len(self._ids[place]) <= _LONG:
                text = self._targets[place]
                place_of.setdefault(text, place)
                family_of[text] = max(families[place], family_of.get(text, NONE))
        if not place_of:
            return {}
        texts, places = np.array(list(place_of.items()), np.int64).T
        own = np.array([family_of[text] for text in texts], np.int64)
        found = nearest(self._vectors[texts], own, self._seed)
        return {place: places[near] for place, near in zip(places, found, strict=True) if len(near)}

    def _beside(self, family: list[int]) -> npt.NDArray[np.int64]:
        """The neighbours that may be drawn with a `family` of one."""
        return self._neighbours.get(family[0], _NOTHING) if len(family) == 1 else _NOTHING

    def _size(self, family: list[int]) -> int:
        return len(family) + min(_BESIDE, len(self._beside(family)))

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
                    own[torch.from_numpy(rows)] = student(*padded([texts[r] for r in rows]))
            wanted = torch.from_numpy(self._vectors[[v.target for v in views]].astype(np.float32))
            found.append((own, functional.normalize(wanted, dim=1)))
        (a, b), (c, d), (own, wanted) = found
        families = torch.tensor([v.family for v in self._tried[2]])
        pairs = (families[:, None] == families).triu(1)
        ranks = torch.stack([(x @ x.T)[pairs].argsort().argsort().double() for x in (own, wanted)])
        cosines = [(x * y).sum(1).mean().item() for x, y in ((a, b), (c, d))]
        return cosines[0], cosines[1], torch.corrcoef(ranks)[0, 1].item()

    def table(self, words: dict[int, Vectors]) -> Tensor:
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


def padded(texts: list[npt.NDArray[np.int32]]) -> tuple[Tensor, Tensor]:
    """(texts, longest) ids between <bos> and <eos>, padded on the right, and (texts,) lengths."""
    lengths = np.array([len(text) for text in texts]) + 2
    ids = np.full((len(texts), lengths.max()), PAD, np.int64)
    for row, text in enumerate(texts):
        ids[row, 0] = BOS
        ids[row, 1 : lengths[row] - 1] = text
        ids[row, lengths[row] - 1] = EOS
    return torch.from_numpy(ids), torch.from_numpy(lengths)
