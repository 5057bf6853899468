"""Which model may open an index."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from harrier_edge import Embedder, Index
from harrier_edge.admission import identity
from harrier_edge.cli import main
from harrier_edge.errors import ModelMismatchError, ModelNotFoundError
from harrier_edge.package import find_package, package_folder


def test_an_index_of_the_built_in_model_names_it(tmp_path: Path) -> None:
    """Not by its folder in an installation, so that any other installation opens it."""
    path = tmp_path / "index.sqlite"
    built_in = Path(str(resources.files("harrier_edge.models"))) / "kestrel" / "int8"
    (tmp_path / "kestrel").mkdir()  # what happens to be called so where one stands
    with Index.open(path, model="kestrel") as index:
        assert index.status().model.package == "kestrel"
    for model in (None, built_in, Embedder("kestrel")):
        with Index.open(path, model=model) as index:
            assert index.status().model.package == "kestrel"
            assert isinstance(index.embedder, Embedder)
            assert index.embedder.package == package_folder("kestrel").resolve()
    assert identity(built_in) == identity(Embedder("kestrel"))


def test_a_folder_in_another_precision_than_asked_is_refused(
    tiny_package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rather than taken in silence; in its own precision it is taken."""
    assert find_package(tiny_package, "fp32") == tiny_package
    with pytest.raises(ModelNotFoundError, match="is a package in fp32, not in int8"):
        Index.open(tmp_path / "index.sqlite", model=tiny_package, precision="int8")
    assert not (tmp_path / "index.sqlite").exists()
    assert main(["embed", "-m", str(tiny_package), "--precision", "int4", "a"]) == 1
    assert "not in int4" in capsys.readouterr().err


def test_a_precision_alone_is_of_the_model_of_the_index(tiny_package: Path, tmp_path: Path) -> None:
    """It is looked for, never ignored."""
    path = tmp_path / "index.sqlite"
    Index.open(path, model=tiny_package).close()
    Index.open(path, precision="fp32").close()
    with pytest.raises(ModelNotFoundError, match="'tiny-gemma' in precision 'int8'"):
        Index.open(path, precision="int8")


def test_the_refusal_of_another_model_names_the_way(tiny_package: Path, tmp_path: Path) -> None:
    """Both ways: the model that the index has, and the command that gives it the other."""
    path = tmp_path / "index.sqlite"
    Index.open(path, model="kestrel").close()
    with pytest.raises(ModelMismatchError, match=r"package kestrel, .*reembed --db .* -m /"):
        Index.open(path, model=tiny_package)
