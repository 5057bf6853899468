"""Makes plain English sentences: who does what, where, to whom; news, findings, questions.

Definitions say little of how words act on each other, and the teacher can read any sentence, a
strange one too. What is common is told by how often words are said.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from recipe.wordnet import WordNet

# WordNet's lexicographer files that a slot draws from, by part of speech and number;
_FILES = {
    "person": "1:18", "animal": "1:05", "thing": "1:06", "food": "1:13", "place": "1:15",
    "body": "1:08", "act": "1:04", "event": "1:11", "idea": "1:09", "word": "1:10",
    "group": "1:14", "nature": "1:17", "plant": "1:20", "money": "1:21", "process": "1:22",
    "state": "1:26", "substance": "1:27", "feeling": "1:12", "quality": "1:07", "time": "1:28",
    "go": "2:38", "touch": "2:35", "eat": "2:34", "make": "2:36", "see": "2:39", "say": "2:32",
    "deal": "2:41", "own": "2:40", "change": "2:30", "fight": "2:33", "think": "2:31",
    "how": "3:00", "of": "3:01", "manner": "4:02",
}  # fmt: skip
# and nouns whose kinds it draws from.
_KINDS = {
    "garment": "clothing", "instrument": "musical_instrument", "vehicle": "vehicle",
    "sport": "sport", "furniture": "furniture", "room": "room", "building": "building",
    "produce": "produce", "dish": "dish", "drink": "beverage", "container": "container",
    "tool": "tool", "toy": "plaything", "worker": "worker", "leader": "leader",
    "crime": "crime", "disaster": "misfortune", "weapon": "weapon", "bird": "bird",
    "beast": "mammal", "meat": "meat", "land": "geological_formation", "road": "road",
    "machine": "machine", "illness": "disease", "company": "enterprise", "match": "contest",
}  # fmt: skip
_LISTED = {
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "number": "two three four five six seven eight nine ten twelve 20 31 47 hundreds thousands",
    "color": "red green blue yellow black white brown orange pink purple gray tan golden dark",
    "size": "small big large little tiny huge tall short long old new young wet empty",
    "near": "in on near beside behind under over by with without against inside outside",
    "human": "man man woman woman boy girl child kid baby lady guy person player dancer",
    "cut": "slicing cutting peeling chopping cooking frying eating washing mixing grating",
    "pose": "sitting standing lying sleeping walking running jumping playing waiting resting",
    "may": "should could would can must might cannot shouldn't",
}
# Parts of a sentence, from which a slot of their name draws.
_PARTS = {
    "one": ("a {human}", "the {human}", "a {human}", "a {size} {human}", "someone", "a {person}",
            "a {human} in a {color} {garment}", "a {human} wearing a {garment}", "a {beast}",
            "the {animal}", "a {color} {beast}", "a {worker}", "my {person}", "she", "he",
            "a {human} with a {thing}", "a {color} and {color} {bird}"),
    "some": ("two {human:s}", "{number} {human:s}", "several {person:s}", "people",
             "a group of {human:s}", "a {human} and a {human}", "{number} {beast:s}",
             "a {human} and a {animal}", "the {worker:s}", "many {animal:s}", "they"),
    "what": ("a {thing}", "the {thing}", "a {color} {thing}", "a {size} {thing}", "a {tool}",
             "a {toy}", "some {food}", "a {container}", "a {container} of {food}", "the {animal}",
             "a {vehicle}", "{thing:s}", "some {substance}", "a {machine}", "a {weapon}"),
    "where": ("{near} the {place}", "on the {furniture}", "in the {room}", "at the {building}",
              "{near} a {nature}", "across the {land}", "{near} the {road}", "{near} {what}",
              "in the {color} {building}", "on a {vehicle}", "{near} the {plant:s}"),
    "doing": ("{touch:ing} {what}", "{touch:ing} {what}", "{go:ing} {where}", "{pose} {where}",
              "{pose}", "playing the {instrument}", "playing {sport}", "riding a {vehicle}",
              "riding a {beast}", "{cut} a {produce}", "{cut} some {meat}", "{cut} {food}",
              "{see:ing} {what}", "wearing a {color} {garment}", "talking to {one}",
              "{say:ing} to {one}", "{make:ing} {what}", "{make:ing} a {dish}",
              "drinking {drink}", "pouring {drink} into a {container}", "holding {what}",
              "{touch:ing} {one}", "{go:ing} {manner}", "{eat:ing} {food} {where}",
              "trying to {touch} {what}", "{touch:ing} {body:s}", "{go:ing} with {one}"),
    "fact": ("{killed|injured|arrested|missing|saved|charged}",
             "{killed|hurt|dead|found|trapped} in {country} {disaster}"),
}  # fmt: skip
_EVERYDAY = (
    "{one} is {doing}.", "{one} is {doing}.", "{one} is {doing} {where}.", "{one} {doing}.",
    "{some} are {doing}.", "{some} are {doing} {where}.", "{some} {doing}", "{one} {doing} {where}",
    "{one} {touch:s} {what} {where}.", "{one} {go:s} {where}.", "{one} is not {doing}.",
    "{what} {where}.", "{what} is {where}.", "There is {what} {where}.",
    "There is no {human} {doing}.", "Nobody is {doing}.", "{one} {pose} next to {one}.",
    "The {animal} is {go:ing} after a {animal}.", "{one} was {doing} while {some} were {doing}.",
    "{what} is being {touch:ed} by {one}.",
)  # fmt: skip
_TALK = (
    "You {may} {touch} {what} before you {touch} it.", "I {think} that the {thing} is too {how}.",
    "It depends on the {quality} of your {idea}.", "You {may} {deal} with your {person}.",
    "It is {how} to {own} a {thing}.", "I {may} not {change} the {thing}, but you {may}.",
    "We {change:ed} the {quality} of the {thing} because of the {event}.",
    "My {person} {own:ed} {what} last {time}.", "If you {think} so, you {may} {say} it.",
    "The {idea} is {how}, but the {act} is not.", "This {word} does not {change} your {idea}.",
    "I have the same {state} with my {machine}.", "There is a {how} {quality} in {act}.",
    "{Is it|It is|It is not} {how} to {deal} with a {person} about {money}?",
    "How {can|do|should} I {change} a {how} {thing}?", "What is the best {act} for {feeling}?",
    "Why does my {animal} {touch} the {thing}?", "Can a {person} {own} {money} without a {word}?",
)  # fmt: skip
_NEWS = (
    "{country} {deal:s} {country} over {act}", "{country} {group} {say:s} {event} was {how}",
    "{number} {person:s} {fact}", "{number} {fact} in {country} {building} {disaster}",
    "{person:s} {fight} in {country} after {event}", "{country} {leader} {say:s} {event} is {how}",
    "At least {number} {person:s} {fact} after {event}", "{crime} suspect {fact} in {country}",
    "{group} {deal:s} {person} in {crime} case", "{company} to {own} {company} for {money}",
    "The {of} {group} {say:ed} on {day} that it would {own} {money}.",
    "{country}'s {leader} {say:ed} the {idea} would {change} the {of} {process}.",
    "Shares of the {company} {rose|fell|climbed|dropped} {number} percent on {day}.",
    "The {leader} {say:ed} {money} {change:ed} because of {process} in {country}.",
    "{person:s} in {country} {think} {of} {act} {how}", "{country} {leader} {go:s} to {country}",
    "{country} beats {country} in {match}", "{illness} {change:s} in {country}, {worker:s} {say}",
    "{country} {weapon} {act} {say:ed} to be {how}", "{worker:s} {deal} over {money}",
    "Police {see} {number} after {crime} in {country} {place}",
)  # fmt: skip
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
    "{rare} activates {term} in response to {illness}.",
    "The {quality} of {rare} predicts {state} after {act}.",
    "In {country}, {rare} is more common among {person:s} with {illness}.",
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
    "Why did the {leader} {say} that the {event} was {how}?",
    "What {process} {change:s} {substance} into {substance}?",
    "In which {place} was the {how} {word} {make:ed}?",
    "how to {change} a {thing} without {money}",
    "Which {of} {idea} did {country} {deal}?",
    "What do {person:s} {think} about {of} {act}?",
    "How does {rare} {change} {term}?",
    "what causes {rare} in {person:s}",
    "Does {substance} help against {illness}?",
)
_SHARE = {_EVERYDAY: 0.5, _TALK: 0.1, _NEWS: 0.15, _FINDINGS: 0.1, _QUESTIONS: 0.15}
_SLOT = re.compile(r"{([^{}:]+)(?::(\w+))?}")
_VOWEL = re.compile(r"\b([Aa]) (?=[aeiou])")


class Grammar:
    """Sentences without end, of WordNet and iso-codes in `share`; findings take `terms` and `rare`
    words of a science. `said` gives the share of a word in all that is said."""

    def __init__(
        self, share: Path, said: Mapping[str, float], terms: list[str], rare: list[str], seed: int
    ) -> None:
        self._rng = random.Random(seed)
        wordnet = WordNet(share / "wordnet", said)
        self._weighted = {slot: wordnet.of_file(file) for slot, file in _FILES.items()}
        self._weighted |= {slot: wordnet.kinds_of(noun) for slot, noun in _KINDS.items()}
        listed = json.loads((share / "iso-codes/json/iso_3166-1.json").read_text("utf-8"))
        countries = [c.get("common_name", c["name"]).partition(",")[0] for c in listed["3166-1"]]
        self._others = {slot: words.split() for slot, words in _LISTED.items()}
        self._others |= {"country": countries, "term": terms, "rare": rare}
        self._irregular = _irregular(share / "wordnet")

    def __iter__(self) -> Iterator[str]:
        while True:
            (templates,) = self._rng.choices(list(_SHARE), weights=list(_SHARE.values()))
            text = _VOWEL.sub(r"\1n ", self._filled(self._rng.choice(templates)))
            yield text[0].upper() + text[1:]

    def _filled(self, template: str) -> str:
        return _SLOT.sub(lambda slot: self._word(slot[1], slot[2]), template)

    def _word(self, slot: str, form: str | None) -> str:
        if "|" in slot:
            return self._rng.choice(slot.split("|"))
        if slot in _PARTS:
            return self._filled(self._rng.choice(_PARTS[slot]))
        if slot in self._others:
            word = self._rng.choice(self._others[slot])
        else:
            words, weights = self._weighted[slot]
            word = self._rng.choices(words, cum_weights=weights)[0]
        return _formed(word, form, self._irregular) if form else word


def _irregular(folder: Path) -> dict[tuple[str, str], str]:
    """(word, form) -> what WordNet lists, the first of several."""
    found: dict[tuple[str, str], str] = {}
    for name in ("noun", "verb"):
        for line in (folder / f"{name}.exc").read_text("utf-8").splitlines():
            word, root = line.split()[:2]
            form = "s" if name == "noun" else "ing" if word.endswith("ing") else "ed"
            found.setdefault((root, form), word)
    return found


def _formed(word: str, form: str, irregular: Mapping[tuple[str, str], str]) -> str:
    """`form`: "s" of a noun's plural or a verb, "ing", "ed"."""
    if (word, form) in irregular:
        return irregular[word, form]
    if form == "s":
        if word.endswith("y") and word[-2] not in "aeiou":
            return word[:-1] + "ies"
        return word + ("es" if word.endswith(("s", "x", "z", "ch", "sh")) else "s")
    if word.endswith("e"):
        return word + "d" if form == "ed" else word[:-1] + "ing"
    if form == "ed" and word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ied"
    return word + form
