"""The model that commands take when none is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harrier_edge import Index
from harrier_edge.cli import main
from harrier_edge.errors import ModelNotFoundError, SettingsError, UsageError
from harrier_edge.package import default_package, find_package
from harrier_edge.places import cache_folder, settings_file


@pytest.fixture
def installed(tiny_package: Path) -> dict[str, Path]:
    """Two packages of one model in the cache, by precision."""
    above = cache_folder() / "models" / "tiny" / "abc"
    return {name: Path(shutil.copytree(tiny_package, above / name)) for name in ("fp32", "int8")}


def test_one_package_needs_no_choice(tiny_package: Path) -> None:
    """It is the default; with none it is the built-in one, and of several one must be named."""
    assert default_package() == find_package("kestrel")
    first = cache_folder() / "models" / "tiny" / "abc" / "fp32"
    shutil.copytree(tiny_package, first)
    assert default_package() == first
    shutil.copytree(tiny_package, first.with_name("int8"))
    with pytest.raises(UsageError, match="models default MODEL"):
        default_package()
    assert default_package("int8") == first.with_name("int8")


def test_the_chosen_model_is_what_commands_take(
    installed: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`embed` and a new index; `models` marks it; an argument still wins."""
    assert main(["embed", "a"]) == 2
    assert main(["models", "default", "tiny"]) == 1
    assert "or its precision" in capsys.readouterr().err
    assert main(["models", "default", "tiny", "--precision", "int8"]) == 0
    assert capsys.readouterr().out == f"{installed['int8']}\n"
    assert main(["models", "default", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"default": str(installed["int8"])}
    assert main(["embed", "a"]) == 0
    (tmp_path / "a.md").write_text("a falcon")
    assert main(["add", "-q", "--db", str(tmp_path / "index.sqlite"), str(tmp_path / "a.md")]) == 0
    with Index.open(tmp_path / "index.sqlite") as index:
        assert index.status().model.package == str(installed["int8"])
    capsys.readouterr()
    assert main(["models", "--json"]) == 0
    rows = [row for row in json.loads(capsys.readouterr().out) if row["revision"] != "built in"]
    assert {row["precision"]: row["default"] for row in rows} == {"fp32": False, "int8": True}
    assert [row["used_by"] for row in rows] == [[], [str(tmp_path / "index.sqlite")]]
    assert main(["models"]) == 0
    assert "the default" in capsys.readouterr().out
    assert default_package("fp32") == installed["fp32"]


def test_a_folder_can_be_the_default(
    tiny_package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From whatever folder it is asked for."""
    monkeypatch.chdir(tiny_package.parent)
    assert main(["models", "default", tiny_package.name]) == 0
    monkeypatch.chdir(tmp_path)
    assert default_package() == tiny_package


def test_a_default_that_is_removed_is_forgotten(installed: dict[str, Path]) -> None:
    """What is left is the only one, and so the default."""
    assert main(["models", "default", "tiny", "--precision", "int8"]) == 0
    assert main(["models", "remove", "tiny", "--precision", "fp32"]) == 0
    assert default_package() == installed["int8"]
    assert main(["models", "remove", "tiny"]) == 0
    assert default_package() == find_package("kestrel")


def test_a_default_that_is_gone_is_told(
    installed: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command that would need it, and by the doctor; so is a malformed file."""
    assert main(["models", "default", "tiny", "--precision", "int8"]) == 0
    for folder in installed.values():
        shutil.rmtree(folder)
    with pytest.raises(ModelNotFoundError, match="no model package 'tiny'"):
        default_package()
    assert main(["doctor"]) == 1
    assert "-> choose another: harrier-edge models default MODEL" in capsys.readouterr().out
    settings_file().write_text('{"model": 3}')
    with pytest.raises(SettingsError, match=r"settings\.json: cannot be read: Expected `str"):
        default_package()
    assert main(["doctor"]) == 1
    assert "broken  settings: " in capsys.readouterr().out


def test_an_unknown_default_changes_nothing(installed: dict[str, Path]) -> None:
    """What was chosen before holds."""
    assert main(["models", "default", "tiny", "--precision", "int8"]) == 0
    assert main(["models", "default", "nope"]) == 1
    assert default_package() == find_package("tiny", "int8")
