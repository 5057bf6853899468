"""Words by what they mean, the usual ones: WordNet's, weighted by how often they are said."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_PARTS = {"noun": "1", "verb": "2", "adj": "3", "adv": "4"}
_LEAST = 6e-7  # of all that is said: about as often as "zucchini" or "frisbee"
_UNCOUNTED = 0.5  # how often a sense comes that WordNet's counts have never met
# Words that are nearly always something else than what WordNet says, and coarse ones.
_NOT = {"can", "must", "will", "may", "might", "being", "who", "shit", "fuck", "ass", "bitch"}

Weighted = tuple[list[str], list[float]]  # words, and the running sum of their weights


@dataclass(frozen=True)
class Synset:
    """What several words mean. Places and files begin with the part of speech: "1:" of nouns."""

    place: str  # its own
    file: str  # the lexicographers': "1:13" is of nouns of food
    words: list[str]  # as written, "_" between those of a term
    kinds: list[str]  # places of what is a kind of it
    gloss: str


def synsets(folder: Path, name: str) -> Iterator[Synset]:
    """Those of a part of speech: "noun", "verb", "adj" or "adv" (wndb(5WN) tells the form)."""
    part = _PARTS[name]
    for line in (folder / f"data.{name}").read_text("utf-8").splitlines():
        if line.startswith("  "):
            continue  # the licence
        data, _, gloss = line.partition("|")
        offset, file, _, count, *fields = data.split()
        size = 2 * int(count, 16)
        words = [word.partition("(")[0] for word in fields[:size:2]]
        pointers = zip(fields[size + 1 :: 4], fields[size + 2 :: 4], strict=False)
        kinds = [f"{part}:{to}" for sign, to in pointers if sign == "~"]
        yield Synset(f"{part}:{offset}", f"{part}:{file}", words, kinds, gloss)


class WordNet:
    """Its synsets, whose words are told by lexicographer file and by what they are a kind of.

    `said` gives the share of a word in all that is said.
    """

    def __init__(self, folder: Path, said: Mapping[str, float]) -> None:
        self._said = said
        self._synsets: dict[str, Synset] = {}
        self._senses: dict[str, list[Synset]] = defaultdict(list)
        for name in _PARTS:
            for synset in synsets(folder, name):
                self._synsets[synset.place] = synset
                for word in synset.words:
                    self._senses[word].append(synset)
        self._counts: dict[tuple[str, str], float] = defaultdict(float)
        for line in (folder / "cntlist.rev").read_text("utf-8").splitlines():
            key, _, count = line.split()
            lemma, _, sense = key.partition("%")
            kind, file = sense.split(":")[:2]
            self._counts[lemma, f"{'3' if kind == '5' else kind}:{file}"] += int(count)

    def of_file(self, file: str) -> Weighted:
        """The words of a lexicographer file, as "1:13" is of nouns of food."""
        return self._weighted(synset for synset in self._synsets.values() if synset.file == file)

    def kinds_of(self, noun: str) -> Weighted:
        """What is a kind of `noun`, in any of its senses, and kinds of these."""
        found: dict[str, Synset] = {}
        left = [synset for synset in self._senses[noun] if synset.file.startswith(_PARTS["noun"])]
        while left:
            for place in left.pop().kinds:
                if place not in found:
                    found[place] = self._synsets[place]
                    left.append(found[place])
        return self._weighted(found.values())

    def _weighted(self, synsets: Iterable[Synset]) -> Weighted:
        """Each word as heavy as the root of how often it is said in these senses."""
        shares: dict[str, float] = defaultdict(float)
        for synset in synsets:
            for word in synset.words:
                if len(word) > 2 and word.isalpha() and word.islower() and word.isascii():
                    shares[word] += self._share(word, synset)
        words, weights, total = [], [], 0.0
        for word, share in shares.items():
            said = self._said.get(word, 0.0)
            if said >= _LEAST and word not in _NOT:
                total += math.sqrt(said * share)
                words.append(word)
                weights.append(total)
        return words, weights

    def _share(self, word: str, synset: Synset) -> float:
        """Of all uses of a word that WordNet has counted, those in this synset's file, shared out
        among its synsets there."""
        files = Counter(sense.file for sense in self._senses[word])
        uses = {file: self._counts.get((word, file), 0.0) + _UNCOUNTED for file in files}
        return uses[synset.file] / files[synset.file] / sum(uses.values())
