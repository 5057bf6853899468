"""Keeps evaluation data out of training: what occurs in it is removed."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

_WORDS = re.compile(r"\w+")
_SENTENCE = re.compile(r"(?<=[.!?。！？])\s+|\n+")
_SHORTEST = 5  # words; a shorter sentence is common property ("See also", "It is red.")
_RUN = 8  # words in a row that a training text may not share with an evaluation text
# What Tatoeba and tldr give to training is not evaluated with; the rest of the folder is.
_NOT_EVALUATION = ("tatoeba", "train_tldr_parallel")


class Held:
    """The evaluation texts: asks whether a training text occurs in them."""

    def __init__(self, shared: Path) -> None:
        self._whole: set[int] = set()
        self._runs: set[int] = set()
        for text in _evaluation_texts(shared):
            for sentence in [text, *_SENTENCE.split(text)]:
                words = _words(sentence)
                if len(words) >= _SHORTEST or _unspaced(sentence):
                    self._whole.add(hash(words))
                self._runs.update(_runs(words))

    def has(self, text: str) -> bool:
        """Whether `text`, one of its sentences, or eight of its words in a row are held out."""
        for sentence in [text, *_SENTENCE.split(text)]:
            words = _words(sentence)
            if hash(words) in self._whole or any(run in self._runs for run in _runs(words)):
                return True
        return False


def _words(text: str) -> tuple[str, ...]:
    return tuple(_WORDS.findall(text.lower()))


def _runs(words: tuple[str, ...]) -> Iterator[int]:
    return (hash(words[i : i + _RUN]) for i in range(len(words) - _RUN + 1))


def _unspaced(text: str) -> bool:
    """Whether few words are long text: Chinese, Japanese, Thai."""
    return len(text) >= 10 and not text.isascii()


def _evaluation_texts(shared: Path) -> Iterator[str]:
    for path in sorted(shared.glob("*.tar.gz")):
        if path.name.removesuffix(".tar.gz") in _NOT_EVALUATION:
            continue
        with tarfile.open(path) as archive:
            for member in archive:
                if not (member.isfile() and (file := archive.extractfile(member))):
                    continue
                text = file.read().decode("utf-8", "replace")
                yield from _fields(member.name, text)


def _fields(name: str, text: str) -> Iterator[str]:
    if name.endswith(".jsonl"):
        for line in text.splitlines():
            yield from (value for value in json.loads(line).values() if isinstance(value, str))
    elif name.endswith(".tsv"):
        yield from (field for line in text.splitlines() for field in line.split("\t"))
    else:
        yield text
