"""harrier_export.texts: the parity texts are real, many and of many kinds."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from harrier_edge.spec import ModelSpec, read_table
from harrier_export.texts import SEPARATOR, calibration_texts, parity_texts

MODELS = Path(__file__).parents[1] / "models"


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """The packaged texts."""
    return parity_texts()


def scripts(text: str) -> set[str]:
    """The scripts of a text's letters: the first word of each letter's Unicode name."""
    return {unicodedata.name(c).split()[0].split("-")[0] for c in text if c.isalpha()}


def test_there_are_many(texts: list[str]) -> None:
    """There are enough texts for a mean and a minimum to say something."""
    assert len(texts) >= 64


def test_no_text_comes_twice(texts: list[str]) -> None:
    """No text repeats another, be it in other case or spacing."""
    assert len({" ".join(text.casefold().split()) for text in texts}) == len(texts)


def test_no_text_is_empty_or_holds_the_separator(texts: list[str]) -> None:
    """Every text has something in it, no line break at its ends and no separator line."""
    for text in texts:
        assert text.strip()
        assert text == text.strip("\n")
        assert SEPARATOR not in text.split("\n")


def test_texts_are_in_normal_form(texts: list[str]) -> None:
    """The texts are composed Unicode without replacement characters, as people type them."""
    for text in texts:
        assert "\ufffd" not in text
        assert unicodedata.is_normalized("NFC", text)


def test_they_span_many_scripts(texts: list[str]) -> None:
    """At least twelve scripts are there, ten of them in a whole sentence."""
    assert len(set().union(*map(scripts, texts))) >= 12
    assert len(set().union(*(scripts(t) for t in texts if len(t) > 60))) >= 10


def test_their_lengths_span_words_to_pages(texts: list[str]) -> None:
    """There are words, sentences, paragraphs and at least three texts of pages."""
    lengths = sorted(len(text) for text in texts)
    assert lengths[0] <= 2
    assert sum(length <= 20 for length in lengths) >= 5
    assert sum(60 <= length <= 300 for length in lengths) >= 20
    assert sum(400 <= length <= 2500 for length in lengths) >= 8
    assert sum(length >= 3500 for length in lengths) >= 3
    assert lengths[-1] <= 10_100  # about 2,000 tokens


@pytest.mark.parametrize("name", ["web_search_query", "sts_query", "bitext_query"])
def test_queries_come_with_the_models_own_prompts(texts: list[str], name: str) -> None:
    """Some texts start with each published prompt, exactly, and go on with a query."""
    prompt = read_table(MODELS / "harrier-270m.toml", ModelSpec).prompts[name]
    queries = [text for text in texts if text.startswith(prompt)]
    assert len(queries) >= 2
    assert all(query[len(prompt) :].strip() for query in queries)


def test_calibration_texts_are_others_and_as_various(texts: list[str]) -> None:
    """What a package is measured on is nothing that it was calibrated on."""
    calibration = calibration_texts()
    assert len(calibration) >= 100
    assert not set(calibration) & set(texts)
    assert all(text.strip() for text in calibration)
    assert len(set().union(*map(scripts, calibration))) >= 12
    assert sum(text.startswith("Instruct: ") for text in calibration) >= 20
