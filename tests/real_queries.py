"""Queries in many scripts, cut out of real texts: they begin within words, at spaces, at signs."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterable

from harrier_export.texts import parity_texts

LONGEST = 40  # characters


def real_queries(count: int) -> list[str]:
    """`count` queries of 1 to LONGEST characters, the same ones in every process."""
    chance = random.Random(0)
    texts = parity_texts()
    found = []
    for _ in range(count):
        text = chance.choice(texts)
        start = chance.randrange(len(text))
        found.append(text[start : start + chance.randint(1, LONGEST)])
    return found


def scripts(texts: Iterable[str]) -> set[str]:
    """The scripts of all letters, as Unicode's names of them begin: LATIN, CYRILLIC, CJK, …"""
    letters = {letter for text in texts for letter in text if letter.isalpha()}
    return {unicodedata.name(letter, "").partition(" ")[0] for letter in letters} - {""}
