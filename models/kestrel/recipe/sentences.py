"""Makes plain English sentences of WordNet's common words: who does what, where, to whom.

Definitions say little of how words act on each other, and the teacher can read any sentence, a
strange one too. What is common is told by WordNet's counts of senses in running text.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

# The lexicographer files of WordNet that a slot draws from, by part of speech and number.
_SLOTS = {
    "person": "1:18", "animal": "1:05", "thing": "1:06", "food": "1:13", "place": "1:15",
    "body": "1:08", "act": "1:04", "event": "1:11", "idea": "1:09", "word": "1:10",
    "group": "1:14", "nature": "1:17", "plant": "1:20", "money": "1:21", "process": "1:22",
    "state": "1:26", "substance": "1:27", "feeling": "1:12", "quality": "1:07", "time": "1:28",
    "go": "2:38", "touch": "2:35", "eat": "2:34", "make": "2:36", "see": "2:39", "say": "2:32",
    "deal": "2:41", "own": "2:40", "change": "2:30", "fight": "2:33", "think": "2:31",
    "how": "3:00", "like": "5:00", "of": "3:01",
}  # fmt: skip
_EVERYDAY = (
    "A {person} is {touch:ing} a {thing}.",
    "A {person} {touch:s} a {like} {thing} in the {place}.",
    "The {person} {go:ed} to the {place} with a {animal}.",
    "A {how} {animal} is {go:ing} across the {nature}.",
    "Two {animal:s} are {go:ing} near a {thing}.",
    "Three {person:s} are {touch:ing} {food} in a {thing}.",
    "A {person} is {eat:ing} {food} and {see:ing} a {animal}.",
    "Several {person:s} {see} a {thing} beside the {nature}.",
    "There is a {how} {thing} next to a {like} {thing}.",
    "A {person} and a {person} are {go:ing} through the {place}.",
    "The {animal} is not {touch:ing} the {plant}.",
    "Nobody is {touch:ing} the {thing}.",
    "Someone is {make:ing} a {thing} out of {substance}.",
    "A {person} in a {how} {thing} {touch:s} {body:s}.",
    "My {person} {own:ed} a {thing} last {time}.",
    "I {think} that the {thing} is too {how}.",
    "You should {touch} the {food} before you {eat} it.",
    "We {change:ed} the {quality} of the {thing} because of the {event}.",
    "Is it {how} to {deal} with a {person} about {money}?",
    "How can I {change} a {how} {thing}?",
    "Why does my {animal} {touch} the {thing}?",
    "What is the best {act} for {feeling}?",
    "Can a {person} {own} {money} without a {word}?",
    "It depends on the {quality} of your {idea}.",
)
_NEWS = (
    "{country} {deal:s} {country} over {act}",
    "{country} {group} {say:s} {event} was {how}",
    "{person:s} {fight} in {country} after {event}",
    "At least two {person:s} {change:ed} in {country} {event}",
    "{group} {deal:s} {person} in {act} case",
    "The {of} {group} {say:ed} on {day} that it would {own} {money}.",
    "{country}'s {person} {say:ed} the {idea} would {change} the {of} {process}.",
    "Shares of the {group} {change:ed} after the {word} about {money}.",
    "The {person} {say:ed} {money} {change:ed} because of {process} in {country}.",
    "{person:s} in {country} {think} {of} {act} {how}",
)
_FINDINGS = (
    "{term} increases the risk of {rare}.",
    "{rare} is associated with lower {quality} of {term}.",
    "{term} is required for {term} in {animal:s}.",
    "Loss of {rare} leads to {term}.",
    "{rare} inhibits {term} in {body} cells.",
    "Treatment with {rare} reduces {state} in {person:s}.",
    "{term} does not affect {term}.",
    "Patients with {rare} show increased {term}.",
    "{term} is regulated by {rare} during {process}.",
    "Deficiency of {substance} causes {rare} in {animal:s}.",
    "{rare} activates {term} in response to {state}.",
    "The {quality} of {rare} predicts {state} after {act}.",
    "In {country}, {rare} is more common among {person:s} with {state}.",
    "We {see:ed} that {rare} and {rare} {change} {term} in {animal:s}.",
    "A high {quality} of {substance} in {body} is a sign of {rare}.",
    "Low {term} improves {state} of {body} {substance}.",
)
_QUESTIONS = (
    "Who {fight:ed} the {group} of {country}?",
    "When did {country} {deal} the {group}?",
    "How many {person:s} {go} to {country} each {time}?",
    "What {thing} did the {person} {make}?",
    "where do {animal:s} {go} in the {time}?",
    "Which {group} {own:s} the {thing} in {country}?",
    "what is the {quality} of {substance}",
    "Why did the {person} {say} that the {event} was {how}?",
    "What {process} {change:s} {substance} into {substance}?",
    "In which {place} was the {like} {word} {make:ed}?",
    "how to {change} a {thing} without {money}",
    "Which {of} {idea} did {country} {deal}?",
    "What do {person:s} {think} about {of} {act}?",
    "How does {rare} {change} {term}?",
    "what causes {rare} in {person:s}",
    "Does {substance} help against {rare}?",
)
_SHARE = {_EVERYDAY: 0.4, _NEWS: 0.15, _FINDINGS: 0.25, _QUESTIONS: 0.2}
_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
_SLOT = re.compile(r"{(\w+)(?::(\S+?))?}")
_ALIKE = 0.5  # of the sentences come once more, with another word in one place
_VOWEL = re.compile(r"\b([Aa]) (?=[aeiou])")


def sentences(share: Path, terms: list[str], rare: list[str], seed: int) -> Iterator[str]:
    """Sentences without end, of WordNet and iso-codes in `share`; findings take `terms` and `rare`
    words of a science."""
    rng = random.Random(seed)
    words = _common(share / "wordnet")
    irregular = _irregular(share / "wordnet/verb.exc")
    listed = json.loads((share / "iso-codes/json/iso_3166-1.json").read_text("utf-8"))
    countries = [c.get("common_name", c["name"]).partition(",")[0] for c in listed["3166-1"]]
    others: dict[str, list[str]] = {"country": countries, "day": _DAYS, "term": terms, "rare": rare}

    def word(slot: str, form: str) -> str:
        if slot in others:
            return rng.choice(others[slot])
        known, weights = words[slot]
        return _formed(rng.choices(known, cum_weights=weights)[0], form, irregular)

    while True:
        (templates,) = rng.choices(list(_SHARE), weights=list(_SHARE.values()))
        template = rng.choice(templates)
        slots = _SLOT.findall(template)
        chosen = [word(*slot) for slot in slots]
        yield _filled(template, chosen)
        if rng.random() < _ALIKE:
            place = rng.randrange(len(chosen))
            chosen[place] = word(*slots[place])
            yield _filled(template, chosen)


def _filled(template: str, chosen: list[str]) -> str:
    words = iter(chosen)
    text = _VOWEL.sub(r"\1n ", _SLOT.sub(lambda _: next(words), template))
    return text[0].upper() + text[1:]


def _common(folder: Path) -> dict[str, tuple[list[str], list[float]]]:
    """Slot -> its words and the running sum of their weights, the root of how often each comes."""
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for line in (folder / "cntlist.rev").read_text("utf-8").splitlines():
        key, _, count = line.split()
        lemma, _, sense = key.partition("%")
        if lemma.isalpha() and lemma.isascii() and len(lemma) > 2:
            counts[":".join(sense.split(":")[:2])][lemma] += int(count)
    found = {}
    for slot, key in _SLOTS.items():
        total, weights = 0.0, []
        for times in counts[key].values():
            total += math.sqrt(times)
            weights.append(total)
        found[slot] = list(counts[key]), weights
    return found


def _irregular(path: Path) -> dict[tuple[str, str], str]:
    """(verb, "ing" or "ed") -> what WordNet lists, the first of several."""
    found: dict[tuple[str, str], str] = {}
    for line in path.read_text("utf-8").splitlines():
        form, verb = line.split()[:2]
        found.setdefault((verb, "ing" if form.endswith("ing") else "ed"), form)
    return found


def _formed(word: str, form: str, irregular: dict[tuple[str, str], str]) -> str:
    """`form`: "" as it is, "s" of a noun's plural or a verb, "ing", "ed"."""
    if form == "s":
        if word.endswith("y") and word[-2] not in "aeiou":
            return word[:-1] + "ies"
        return word + ("es" if word.endswith(("s", "x", "z", "ch", "sh")) else "s")
    if form in ("ing", "ed"):
        if (word, form) in irregular:
            return irregular[word, form]
        if word.endswith("e"):
            return word + "d" if form == "ed" else word[:-1] + "ing"
        if form == "ed" and word.endswith("y") and word[-2] not in "aeiou":
            return word[:-1] + "ied"
        return word + form
    return word
