"""Finding packages and checking them before anything is loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harrier_edge.errors import ModelNotFoundError, PackageError, SpecError
from harrier_edge.package import find_package, open_package
from harrier_edge.places import cache_folder


def test_a_sound_package_opens(tiny_package: Path) -> None:
    """What the exporter writes passes every check."""
    assert open_package(tiny_package).manifest.name == "tiny-gemma"


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx_data", "tokenizer.json"])
def test_a_changed_byte_is_found(own_package: Path, name: str) -> None:
    """A single flipped bit in any file is found before the file is parsed."""
    path = own_package / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(PackageError, match=f"{name}: its sha256 is"):
        open_package(own_package)


def test_a_truncated_file_is_found(own_package: Path) -> None:
    """A file that lost its end is named with both sizes."""
    path = own_package / "model.onnx_data"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(PackageError, match="bytes, the manifest says"):
        open_package(own_package)


def test_a_missing_file_is_found(own_package: Path) -> None:
    """A file that the manifest lists has to be there."""
    (own_package / "model.onnx_data").unlink()
    with pytest.raises(PackageError, match=r"model\.onnx_data is missing"):
        open_package(own_package)


def test_a_link_is_refused(own_package: Path, tmp_path: Path) -> None:
    """A package holds its files itself."""
    path = own_package / "model.onnx_data"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PackageError, match="not a plain file"):
        open_package(own_package)


def test_a_path_out_of_the_package_is_refused(own_package: Path) -> None:
    """A manifest cannot name files elsewhere."""
    manifest = own_package / "manifest.toml"
    text = manifest.read_text("utf-8").replace('files."config.json"', 'files."../config.json"')
    manifest.write_text(text, "utf-8")
    with pytest.raises(PackageError, match="not a plain file"):
        open_package(own_package)


def test_another_format_is_refused(own_package: Path) -> None:
    """A package of a later format is not guessed at."""
    manifest = own_package / "manifest.toml"
    text = manifest.read_text("utf-8").replace("format = 1", "format = 2")
    manifest.write_text(text, "utf-8")
    with pytest.raises(PackageError, match="format 2"):
        open_package(own_package)


def test_a_malformed_manifest_names_file_and_key(own_package: Path) -> None:
    """A wrong type in the manifest is named by its key."""
    manifest = own_package / "manifest.toml"
    manifest.write_text(manifest.read_text("utf-8").replace("dimension = 64", 'dimension = "64"'))
    with pytest.raises(SpecError, match=r"manifest\.toml.*dimension"):
        open_package(own_package)


def test_a_name_is_found_in_the_cache(tiny_package: Path) -> None:
    """A model's name stands for its one package in the cache, or the one of a precision."""
    revision = cache_folder() / "models" / "tiny" / "abc"
    shutil.copytree(tiny_package, revision / "fp32")
    assert find_package("tiny") == revision / "fp32"
    shutil.copytree(tiny_package, revision / "int8")
    assert find_package("tiny", "int8") == revision / "int8"
    with pytest.raises(ModelNotFoundError, match="installed as"):
        find_package("tiny")


@pytest.mark.parametrize("model", ["unheard-of", "../up", "", "a*"])
def test_an_unknown_name_says_what_to_do(model: str) -> None:
    """No package, no guess: the message tells how to make one."""
    with pytest.raises(ModelNotFoundError, match="harrier-edge export"):
        find_package(model)


def test_a_checkpoint_is_not_taken_for_a_package(tiny_gemma: Path) -> None:
    """A folder without a manifest is answered with the command that makes a package of it."""
    with pytest.raises(ModelNotFoundError, match=f"harrier-edge export {tiny_gemma}"):
        find_package(tiny_gemma)
