"""harrier_edge.catalog: models by name, from the installed package's own data."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from harrier_edge import catalog
from harrier_edge.errors import ModelNotFoundError

MODELS = Path(__file__).parents[1] / "models"
NAMES = ["bitnet-0.6b", "bitnet-270m", "harrier-0.6b", "harrier-270m", "harrier-27b"]


def test_names_are_those_of_the_shipped_files() -> None:
    """The catalogue lists every model of models/, sorted, and nothing else."""
    assert catalog.names() == NAMES
    assert catalog.names() == sorted(path.stem for path in MODELS.glob("*.toml"))


@pytest.mark.parametrize("name", NAMES)
def test_a_model_loads_by_its_name(name: str) -> None:
    """A model's TOML is found under its name and says the same name."""
    assert catalog.load(name).name == name


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("harrier-270", "harrier-270m"),
        ("Harrier-270M", "harrier-270m"),
        ("harrier0.6b", "harrier-0.6b"),
    ],
)
def test_an_unknown_name_gets_the_closest(name: str, close: str) -> None:
    """A misspelt name is refused with itself, all known names and the closest one."""
    with pytest.raises(ModelNotFoundError) as caught:
        catalog.load(name)
    message = str(caught.value)
    assert repr(name) in message
    assert ", ".join(NAMES) in message
    assert f"Did you mean {close}" in message


def test_a_name_like_no_other_gets_no_hint() -> None:
    """A name that resembles none is refused without a guess."""
    with pytest.raises(ModelNotFoundError) as caught:
        catalog.load("word2vec")
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "../spec", "harrier-270m.toml", "__init__"])
def test_a_name_is_no_path(name: str) -> None:
    """What is not one of the names is never looked for on the disk."""
    with pytest.raises(ModelNotFoundError):
        catalog.load(name)


@pytest.mark.parametrize("name", NAMES)
def test_every_model_has_a_card(name: str) -> None:
    """Beside each TOML lies a card that tells source, revision, traps and how to export."""
    card = (resources.files("harrier_edge.models") / f"{name}.md").read_text("utf-8")
    spec = catalog.load(name)
    assert card.startswith(f"# {spec.title}\n")
    assert spec.source.repository in card
    assert (spec.source.revision or "name one with `--revision`") in card
    assert str(spec.mteb_v2_multilingual) in card
    assert f"--model {name}" in card
    for heading in ("Prompts", "Quality", "Traps", "Precision", "Exporting"):
        assert f"\n## {heading}\n" in card
    for prompt_name, prompt in spec.prompts.items():
        assert f"`{prompt_name}`" in card
        assert prompt.replace("\n", "\\n") in card


@pytest.mark.parametrize("name", NAMES)
def test_every_model_has_its_licence_text(name: str) -> None:
    """The text of the licence that a model is under can be had."""
    text = catalog.licence_text(name)
    assert text.startswith("MIT License\n\nCopyright (c) Microsoft Corporation.\n")
    assert "THE SOFTWARE IS PROVIDED" in text
