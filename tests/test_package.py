"""Finding packages and checking them before anything is loaded."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tomli_w

from harrier_edge import Embedder, package
from harrier_edge.errors import ModelNotFoundError, PackageError, SpecError
from harrier_edge.package import find_package, open_package, sha256_of
from harrier_edge.places import cache_folder
from harrier_edge.spec import MANIFEST_FORMAT, MANIFEST_NAME


def test_a_sound_package_opens(tiny_package: Path) -> None:
    """What the exporter writes passes every check."""
    assert open_package(tiny_package).manifest.name == "tiny-gemma"


def test_a_package_from_before_layer_graphs_loads(own_package: Path) -> None:
    """It has none of them, and gives the vectors that it always gave."""
    layers = open_package(own_package).layers
    assert [path.name for path in layers] == [f"layer-{i:02}.onnx" for i in range(7)]
    wanted = Embedder(own_package).encode("the river " * 100)
    table = msgspec.toml.decode((own_package / MANIFEST_NAME).read_bytes())
    for path in layers:
        path.unlink()
        del table["files"][path.name]
    (own_package / MANIFEST_NAME).write_text(tomli_w.dumps(table), "utf-8")
    assert open_package(own_package).layers == []
    assert np.array_equal(Embedder(own_package).encode("the river " * 100), wanted)


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
    text = manifest.read_text("utf-8").replace(f"format = {MANIFEST_FORMAT}", "format = 7\nnew = 1")
    manifest.write_text(text, "utf-8")
    with pytest.raises(PackageError, match="format 7, this harrier-edge reads 1, 2, 3, 4, 5, 6"):
        open_package(own_package)


def test_a_package_of_the_first_format_still_opens(own_package: Path) -> None:
    """It has no compiled tokenizer, and needs none."""
    manifest = own_package / "manifest.toml"
    text = manifest.read_text("utf-8").replace(f"format = {MANIFEST_FORMAT}", "format = 1")
    table = re.compile(r"\[(compiled_tokenizer|files.\"tokenizer.kitoken\")\]\n(.+\n)+")
    manifest.write_text(table.sub("", text), "utf-8")
    (own_package / "tokenizer.kitoken").unlink()
    assert open_package(own_package).manifest.compiled_tokenizer is None
    assert Embedder(own_package).encode_query("a").shape == (64,)


def test_a_sound_package_is_read_once(own_package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time, nothing but a change makes it read the files again."""
    read: list[Path] = []
    monkeypatch.setattr(package, "_CLOCK_NS", -(10**18))

    def reading(path: Path) -> str:
        read.append(path)
        return sha256_of(path)

    monkeypatch.setattr(package, "sha256_of", reading)
    open_package(own_package)
    assert own_package / "model.onnx_data" in read
    read.clear()
    open_package(own_package)
    assert not read
    path = own_package / "model.onnx_data"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    times = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(PackageError, match=r"model\.onnx_data: its sha256 is"):
        open_package(own_package)


def test_a_file_that_was_just_written_is_read_again(own_package: Path) -> None:
    """Within a tick of the file system's clock, a change would leave no trace."""
    open_package(own_package)
    assert not (cache_folder() / "verified").exists()


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


@pytest.mark.parametrize("half", [".int8.partial-abc", ".int8.removed"])
def test_half_a_package_is_not_found_by_name(tiny_package: Path, half: str) -> None:
    """Neither one that is being installed nor one that is being removed."""
    revision = cache_folder() / "models" / "tiny" / "abc"
    shutil.copytree(tiny_package, revision / half)
    with pytest.raises(ModelNotFoundError, match="no model package"):
        find_package("tiny")
    shutil.copytree(tiny_package, revision / "fp32")
    assert find_package("tiny") == revision / "fp32"
