"""The instruction that starts a query."""

from __future__ import annotations

import pytest

from harrier_edge.errors import UsageError
from harrier_edge.prompts import choose_prompt, named_prompt, task_prompt
from harrier_export.sentence_transformers import document_prompt, query_prompt

PRESETS = {"web_search_query": "Instruct: W\nQuery: ", "sts_query": "Instruct: S\nQuery: "}


def test_a_task_becomes_an_instruction_with_the_trailing_space() -> None:
    """A bare task sentence is written in the form that Harrier is trained on."""
    assert task_prompt(" Find recipes ") == "Instruct: Find recipes\nQuery: "


def test_an_empty_task_is_refused() -> None:
    """An empty task says what was wanted."""
    with pytest.raises(UsageError, match="empty"):
        task_prompt("  ")


def test_an_unknown_preset_names_those_that_exist() -> None:
    """A misspelt prompt name is answered with the model's own names."""
    with pytest.raises(UsageError, match=r"'sts'.*sts_query, web_search_query"):
        named_prompt(PRESETS, "sts")


def test_the_default_applies_only_where_nothing_is_chosen() -> None:
    """Prompt, preset and task each take the default's place, and an empty prompt is a choice."""
    default = "web_search_query"
    assert choose_prompt(PRESETS, default) == PRESETS[default]
    assert choose_prompt(PRESETS, "") == ""
    assert choose_prompt(PRESETS, default, prompt="") == ""
    assert choose_prompt(PRESETS, default, prompt="mine: ") == "mine: "
    assert choose_prompt(PRESETS, default, prompt_name="sts_query") == PRESETS["sts_query"]
    assert choose_prompt(PRESETS, default, task="Find recipes") == task_prompt("Find recipes")


def test_two_choices_are_refused() -> None:
    """It is never guessed which of two prompts is meant."""
    with pytest.raises(UsageError, match="more than one"):
        choose_prompt(PRESETS, "", prompt="a", task="b")


@pytest.mark.parametrize(
    ("names", "default", "query", "document"),
    [
        ("web_search_query sts_query bitext_query", None, "web_search_query", ""),  # Harrier's
        ("web_search_query sts_query", "sts_query", "sts_query", ""),
        ("query any", "any", "query", ""),
        ("any passage", "any", "any", "passage"),
        ("query corpus document", None, "query", "document"),
        ("any", "any", "any", ""),
        ("any", "gone", "", ""),
        ("", None, "", ""),
    ],
)
def test_a_default_stands_in_for_the_prompt_of_queries(
    names: str, default: str | None, query: str, document: str
) -> None:
    """It never takes the place of one that is called after them; an empty one counts as none."""
    prompts = {"query": "", "document": "", **{name: f"{name}: " for name in names.split()}}
    assert query_prompt(prompts, default) == query
    assert document_prompt(prompts) == document
