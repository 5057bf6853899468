"""Chooses what is learned from: English texts that the teacher reads, and views of them."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from recipe.clean import Held
from recipe.markup import tidy
from recipe.teacher import Teacher
from recipe.texts import common, english, pairs, usable
from recipe.variants import Variants

# How many English texts of each kind the teacher reads, and how long they may be in characters:
# the teacher's minutes are what limits them.
KINDS = {
    "word": (30_000, 40),
    "common word": (30_000, 40),
    "gene": (5_000, 320),
    "gene term": (5_000, 90),
    "gloss": (20_000, 220),
    "example": (20_000, 220),
    "term": (12_000, 60),
    "question": (14_000, 80),
    "passage": (6_000, 420),
    "long": (500, 1_000),
    "document": (1_000, 1_100),
    "sentence": (45_000, 220),
    "title": (30_000, 220),
    "paper": (35_000, 220),
    "abstract": (3_500, 1_100),
    "headline": (4_000, 220),
    "news": (35_000, 220),
    "news passage": (4_000, 420),
    "prose": (30_000, 220),
    "prose passage": (4_000, 420),
}
# Of each language at most so many pairs; half of them sentences, where there are as many.
PAIRS = {"de": 36_000, "es": 14_000, "fr": 12_000, "ru": 12_000, "zh_CN": 12_000, "ar": 10_000}
FEWER = 5_000  # of every other language
SENTENCES = 0.6
_TERM = 30  # characters: what is longer counts as a sentence
# How many texts of each kind have variants, and how long they may be in characters and words.
VARIED = {"sentence": 18_000, "example": 10_000, "news": 10_000, "prose": 7_000, "title": 5_000,
          "paper": 4_000, "term": 4_000, "headline": 3_500, "question": 2_000}  # fmt: skip
_VARIED_LONGEST, _VARIED_WORDS = 150, 4
NONE = -1  # the family of what has no variants


@dataclass(frozen=True)
class View:
    """A text for the student, and the English text whose vector it should get."""

    text: str
    target: int  # index into the English texts
    kind: str  # of the English sources, "variant" or "foreign"
    language: str
    family: int = NONE  # what a text and its variants have in common


def build(work: Path, shared: Path, seed: int) -> None:
    """Write english.json (the texts that the teacher reads) and views.json."""
    if (work / "views.json").exists():
        return
    rng = random.Random(seed)
    held = Held(shared)
    ids: dict[str, int] = {}
    views: list[tuple[str, int, str, str, int]] = []

    def add(text: str, view: str, kind: str, language: str, family: int = NONE) -> None:
        views.append((view, ids.setdefault(text, len(ids)), kind, language, family))

    dropped = 0
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for kind, text in english(work, seed):
        text = _cut(tidy(text), KINDS[kind][1])
        if usable(text):
            found[kind][text] = None
    for kind, (count, _) in KINDS.items():
        texts = list(found[kind])
        rng.shuffle(texts)
        for text in texts[:count]:
            if held.has(text):
                dropped += 1
            else:
                add(text, text, kind, "en")

    by_language: dict[str, dict[tuple[str, str], None]] = defaultdict(dict)
    for language, (text, foreign) in pairs(work):
        if usable(text) and usable(foreign) and max(len(text), len(foreign)) <= 500:
            by_language[language][text, foreign] = None
    languages = Counter(text for both in by_language.values() for text in {t for t, _ in both})
    for language, both in sorted(by_language.items()):
        chosen = _choose(list(both), PAIRS.get(language, FEWER), languages, rng)
        for text, foreign in chosen:
            if held.has(text) or held.has(foreign):
                dropped += 1
                continue
            if text not in ids:
                add(text, text, "example" if len(text) > _TERM else "term", "en")
            add(text, foreign, "foreign", language)
        # What the teacher reads anyway costs nothing more.
        known = set(chosen)
        for text, foreign in both:
            if (text, foreign) not in known and text in ids and not held.has(foreign):
                add(text, foreign, "foreign", language)
    words = list(common())
    variants = Variants(words, Teacher(work).encode(words), seed)
    own = [(kind, text) for text, _, kind, language, _ in views if language == "en"]
    for family, base in enumerate(_bases(own)):
        for text in (base, *variants.of(base)):
            if not held.has(text):
                add(text, text, "variant", "en", family)

    texts = list(ids)
    rng.shuffle(texts)  # so that the first of them stand for all
    places = {text: place for place, text in enumerate(texts)}
    moved = [places[text] for text in ids]
    views = [
        (view, moved[target], kind, code, family) for view, target, kind, code, family in views
    ]
    (work / "english.json").write_text(json.dumps(texts, ensure_ascii=False))
    (work / "views.json").write_text(json.dumps(views, ensure_ascii=False))
    counts: dict[str, int] = defaultdict(int)
    for _, _, kind, language, _ in views:
        counts[kind if language == "en" else language] += 1
    print(f"{len(ids)} English texts, {len(views)} views, {dropped} held out: {dict(counts)}")


def _bases(texts: list[tuple[str, str]]) -> list[str]:
    """Which of the (kind, text) have variants."""
    by_kind: dict[str, list[str]] = defaultdict(list)
    for kind, text in texts:
        if len(text) <= _VARIED_LONGEST and text.count(" ") >= _VARIED_WORDS:
            by_kind[kind].append(text)
    return [text for kind, count in VARIED.items() for text in by_kind[kind][:count]]


def load(work: Path) -> tuple[list[str], list[View]]:
    """What `build` wrote."""
    texts: list[str] = json.loads((work / "english.json").read_text())
    return texts, [View(*fields) for fields in json.loads((work / "views.json").read_text())]


def _choose(
    both: list[tuple[str, str]], count: int, languages: Counter[str], rng: random.Random
) -> list[tuple[str, str]]:
    """At most `count` pairs: sentences and terms, of each half at random and half that many
    languages share, since their English side is read but once."""
    rng.shuffle(both)
    sentences = [pair for pair in both if len(pair[0]) > _TERM]
    terms = [pair for pair in both if len(pair[0]) <= _TERM]
    wanted = min(len(sentences), max(int(count * SENTENCES), count - len(terms)))
    chosen = []
    for kind, size in ((sentences, wanted), (terms, count - wanted)):
        half = size // 2
        shared = sorted(kind[half:], key=lambda pair: -languages[pair[0]])
        chosen += kind[:half] + shared[: size - half]
    return chosen


def _cut(text: str, size: int) -> str:
    """The first `size` characters, up to a word's end."""
    return text if len(text) <= size else text[:size].rpartition(" ")[0]
