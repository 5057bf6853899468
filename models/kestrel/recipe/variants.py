"""Makes texts that differ from another in a word or two: what fine differences are learned from.

Two texts taken at random are hardly ever alike, so that a batch of these says little of how far a
word that is changed, dropped or denied takes a sentence. The words to put in a word's place are
those whose vectors are nearest to the teacher, as in TinyBERT (Jiao et al. 2020,
https://arxiv.org/abs/1909.10351).
"""

from __future__ import annotations

import random
import re

import numpy as np
import numpy.typing as npt

COUNT = 3  # variants of a text
_NEAREST = 12
_BLOCK = 1_024  # words whose neighbours are looked for at once
_ANY = 4_000  # words, the most usual ones, of which any may come
_EDITS = {"near": 0.5, "small": 0.17, "any": 0.1, "drop": 0.1, "swap": 0.06, "cut": 0.07}
_SMALL = (
    "a the one another some any no", "two three four several many", "he she it they we you I",
    "in on at near behind under with without from to", "somebody someone nobody everyone",
    "is was isn't", "are were aren't", "can could should must may cannot", "and or but",
    "not never always also just really", "before after while because if", "more less", "all most",
    "my your his her their our", "this that these those", "who what how why when where",
    "do did don't didn't", "has had hasn't", "very too quite", "first second last next",
)  # fmt: skip
_DENIED = {"is", "are", "was", "were", "can", "could", "will", "would", "should", "do", "did"}
_PIECE = re.compile(r"\w+(?:'\w+)?|\W+")


class Variants:
    """Makes them: `words`, the most usual first, have `vectors` (words, dimension), unit length."""

    def __init__(self, words: list[str], vectors: npt.NDArray[np.float16], seed: int) -> None:
        self._rng = random.Random(seed)
        self._words = words
        self._places = {word: place for place, word in enumerate(words)}
        self._nearest = _nearest(vectors)
        self._small: dict[str, list[str]] = {}
        for group in map(str.split, _SMALL):
            for word in group:
                self._small[word] = [other for other in group if other != word]

    def of(self, text: str) -> list[str]:
        """At most `COUNT` different ones, none of them `text`."""
        found: dict[str, None] = {}
        for _ in range(2 * COUNT):
            pieces = _PIECE.findall(text)
            for _ in range(1 + min(self._rng.randrange(4), len(pieces) // 8)):
                pieces = self._edited(pieces)
            variant = "".join(pieces).strip()
            variant = variant[:1].upper() + variant[1:] if text[:1].isupper() else variant
            if variant.lower() != text.lower():
                found[variant] = None
        return list(found)[:COUNT]

    def _edited(self, pieces: list[str]) -> list[str]:
        """`pieces`, words and what is between them, after one edit; as they were where it finds
        nothing to do."""
        (edit,) = self._rng.choices(list(_EDITS), weights=list(_EDITS.values()))
        words = [i for i, piece in enumerate(pieces) if piece[0].isalnum()]
        known = [i for i in words if pieces[i].lower() in self._places]
        small = [i for i in words if pieces[i].lower() in self._small or pieces[i].isdecimal()]
        full = [i for i in known if i not in small]
        pieces = list(pieces)
        if edit == "small" and small:
            i = self._rng.choice(small)
            word = pieces[i].lower()
            if word.isdecimal():
                pieces[i] = str(self._rng.randrange(10 ** len(word)))
            elif word in _DENIED and self._rng.random() < 0.5:
                pieces[i] += " not"
            else:
                pieces[i] = self._rng.choice(self._small[word])
        elif edit in ("near", "any") and full:
            i = self._rng.choice(full)
            nearest = self._nearest[self._places[pieces[i].lower()]]
            usual = range(min(_ANY, len(self._words)))
            word = self._words[self._rng.choice(nearest if edit == "near" else usual)]
            pieces[i] = word.capitalize() if pieces[i][0].isupper() else word
        elif edit == "drop" and len(words) > 4:
            i = self._rng.choice(words)
            del pieces[i : i + 2]
        elif edit == "swap" and len(full) > 1:
            i, j = self._rng.sample(full, 2)
            pieces[i], pieces[j] = pieces[j], pieces[i]
        elif edit == "cut" and len(words) > 7:
            kept = self._rng.randint(len(words) // 2, len(words) - 1)
            first = self._rng.choice((0, len(words) - kept))
            pieces = pieces[words[first] : words[first + kept - 1] + 1]
        return pieces


def _nearest(vectors: npt.NDArray[np.float16]) -> npt.NDArray[np.int32]:
    """(words, at most 12): the places of each one's nearest others."""
    table = vectors.astype(np.float32)
    count = min(_NEAREST, len(table) - 1)
    found = []
    for start in range(0, len(table), _BLOCK):
        near = table[start : start + _BLOCK] @ table.T
        near[np.arange(len(near)), start + np.arange(len(near))] = -2
        found.append(np.argpartition(-near, count - 1, axis=1)[:, :count].astype(np.int32))
    return np.concatenate(found)
