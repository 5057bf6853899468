"""Words by what they mean, the usual ones: WordNet's, weighted by how often they are said."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

_FILES = {"noun": "1", "verb": "2", "adj": "3", "adv": "4"}
_LEAST = 6e-7  # of all that is said: about as often as "zucchini" or "frisbee"
_UNCOUNTED = 0.5  # how often a sense comes that WordNet's counts have never met
# Words that are nearly always something else than what WordNet says, and coarse ones.
_NOT = {"can", "must", "will", "may", "might", "being", "who", "shit", "fuck", "ass", "bitch"}

Weighted = tuple[list[str], list[float]]  # words, and the running sum of their weights


class WordNet:
    """Its synsets, whose words are told by lexicographer file and by what they are a kind of.

    `said` gives the share of a word in all that is said.
    """

    def __init__(self, folder: Path, said: Mapping[str, float]) -> None:
        self._said = said
        self._files: dict[str, list[str]] = defaultdict(list)
        self._words: dict[str, list[str]] = {}
        self._kinds: dict[str, list[str]] = {}
        self._senses: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
        for name, part in _FILES.items():
            for line in (folder / f"data.{name}").read_text("utf-8").splitlines():
                if not line.startswith("  "):
                    self._add(part, line.partition("|")[0].split())
        self._counts: dict[tuple[str, str], float] = defaultdict(float)
        for line in (folder / "cntlist.rev").read_text("utf-8").splitlines():
            key, _, count = line.split()
            lemma, _, sense = key.partition("%")
            kind, file = sense.split(":")[:2]
            self._counts[lemma, f"{'3' if kind == '5' else kind}:{file}"] += int(count)

    def _add(self, part: str, fields: list[str]) -> None:
        offset, file, _, count = fields[:4]
        synset, file = f"{part}:{offset}", f"{part}:{file}"
        size = int(count, 16)
        words = [fields[4 + 2 * i].split("(")[0] for i in range(size)]
        pointers = fields[5 + 2 * size :]
        self._files[file].append(synset)
        self._words[synset] = words
        self._kinds[synset] = [
            f"{part}:{to}"
            for symbol, to in zip(pointers[::4], pointers[1::4], strict=False)
            if symbol == "~"
        ]
        for word in words:
            self._senses[part, word].append((synset, file))

    def of_file(self, file: str) -> Weighted:
        """The words of a lexicographer file, as "1:13" is of nouns of food."""
        return self._weighted(self._files[file])

    def kinds_of(self, noun: str) -> Weighted:
        """What is a kind of `noun`, in any of its senses, and kinds of these."""
        found: dict[str, None] = {}
        left = [synset for synset, _ in self._senses["1", noun]]
        while left:
            for synset in self._kinds[left.pop()]:
                if synset not in found:
                    found[synset] = None
                    left.append(synset)
        return self._weighted(found)

    def _weighted(self, synsets: Iterable[str]) -> Weighted:
        """Each word as heavy as the root of how often it is said in these senses."""
        shares: dict[str, float] = defaultdict(float)
        for synset in synsets:
            part = synset.partition(":")[0]
            for word in self._words[synset]:
                if len(word) > 2 and word.isalpha() and word.islower() and word.isascii():
                    shares[word] += self._share(part, word, synset)
        words, weights, total = [], [], 0.0
        for word, share in shares.items():
            said = self._said.get(word, 0.0)
            if said >= _LEAST and word not in _NOT:
                total += math.sqrt(said * share)
                words.append(word)
                weights.append(total)
        return words, weights

    def _share(self, part: str, word: str, synset: str) -> float:
        """Of all uses of a word that WordNet has counted, those in this synset's file, shared out
        among its synsets there."""
        every, own = 0.0, 0.0
        for kind in _FILES.values():
            senses = self._senses.get((kind, word), ())
            files = [file for _, file in senses]
            for file in dict.fromkeys(files):
                every += self._counts.get((word, file), 0.0) + _UNCOUNTED
            for sense, file in senses:
                if sense == synset:
                    own = self._counts.get((word, file), 0.0) + _UNCOUNTED
                    own /= files.count(file)
        return own / every
