"""A package as one file: the same bytes everywhere, and trusted with nothing."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from harrier_edge.archive import install, write_archive
from harrier_edge.cli import main
from harrier_edge.errors import PackageError, UsageError
from harrier_edge.package import find_package, open_package, pulled_packages, sha256_of
from harrier_edge.places import cache_folder
from harrier_edge.spec import MANIFEST_NAME


@pytest.fixture
def archive(tiny_package: Path, tmp_path: Path) -> Path:
    """The tiny package as one file."""
    write_archive(tiny_package, tmp_path / "tiny.tar")
    return tmp_path / "tiny.tar"


def test_the_same_package_gives_the_same_bytes(archive: Path, own_package: Path) -> None:
    """Whenever, by whomever and from wherever it is written."""
    (own_package / "model.onnx").chmod(0o600)
    write_archive(own_package, archive.with_name("again.tar"))
    assert sha256_of(archive) == sha256_of(archive.with_name("again.tar"))


def test_a_package_goes_to_another_machine(
    archive: Path, tiny_package: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And is found there by name, byte for byte, offline."""
    monkeypatch.setenv("HARRIER_EDGE_CACHE_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("HARRIER_EDGE_OFFLINE", "1")
    assert main(["pull", "--from", str(archive)]) == 0
    place = find_package("tiny-gemma", "fp32")
    for name in open_package(tiny_package).manifest.files:
        assert sha256_of(place / name) == sha256_of(tiny_package / name)
    assert install(tiny_package) == place  # a folder as well, in the place of the same package
    assert pulled_packages() == [place]


def test_the_command_writes_a_new_file_only(tiny_package: Path, archive: Path) -> None:
    """An existing file is not written over; what is not a package is told."""
    assert main(["package", str(tiny_package), "-o", str(archive)]) == 2
    assert main(["package", str(tiny_package), "-o", str(archive.with_name("b.tar"))]) == 0
    assert main(["package", "unheard-of", "-o", str(archive.with_name("c.tar"))]) == 1
    assert main(["pull"]) == main(["pull", "x", "--from", "y"]) == 2


def test_a_damaged_package_is_not_written(own_package: Path, tmp_path: Path) -> None:
    """No broken package goes to another machine."""
    (own_package / "tokenizer.json").write_text("{}")
    with pytest.raises(PackageError):
        write_archive(own_package, tmp_path / "own.tar")
    assert not (tmp_path / "own.tar").exists()


Change = Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]


def member(name: str, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    """A member of an archive."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def first_renamed(members: list[tuple[tarfile.TarInfo, bytes]], name: str) -> None:
    """Give the first file after the manifest another name."""
    members[1][0].name = name


def listed(members: list[tuple[tarfile.TarInfo, bytes]], name: str) -> None:
    """Rename that file in the manifest, too."""
    old = members[1][0].name
    text = members[0][1].replace(f'files."{old}"'.encode(), f"files.'{name}'".encode())
    assert text != members[0][1]
    members[0] = member(MANIFEST_NAME, text)
    first_renamed(members, name)


def named(members: list[tuple[tarfile.TarInfo, bytes]], name: str) -> None:
    """Give the package another name in its manifest."""
    text = members[0][1].replace(b'name = "tiny-gemma"', f"name = '{name}'".encode())
    assert text != members[0][1]
    members[0] = member(MANIFEST_NAME, text)


HOSTILE: dict[str, Change] = {
    "a path upward": lambda m: first_renamed(m, "../config.json"),
    "a listed path upward": lambda m: listed(m, "../config.json"),
    "an absolute path": lambda m: first_renamed(m, "/tmp/config.json"),
    "a listed absolute path": lambda m: listed(m, "/tmp/config.json"),
    "a listed path of Windows": lambda m: listed(m, "..\\config.json"),
    "a symbolic link": lambda m: m.insert(
        1, member("config.json", type=tarfile.SYMTYPE, linkname="/etc/passwd")
    ),
    "a hard link": lambda m: m.insert(
        1, member("config.json", type=tarfile.LNKTYPE, linkname="model.onnx")
    ),
    "a device": lambda m: m.insert(1, member("config.json", type=tarfile.CHRTYPE)),
    "a folder": lambda m: m.insert(1, member("x", type=tarfile.DIRTYPE)),
    "a file that is not listed": lambda m: m.insert(1, member("x.py", b"import os")),
    "a file twice": lambda m: m.insert(1, m[1]),
    "a larger file": lambda m: m.__setitem__(1, member(m[1][0].name, bytes(10**6))),
    "no manifest": lambda m: m.__delitem__(0),
    "a huge manifest": lambda m: m.__setitem__(0, member(MANIFEST_NAME, bytes(2**20 + 1))),
    "a manifest that is not TOML": lambda m: m.__setitem__(0, member(MANIFEST_NAME, b"{")),
    "a file missing": lambda m: m.__delitem__(-1),
    "a package named as a path": lambda m: named(m, ".."),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_archive_is_refused(archive: Path, change: Change, tmp_path: Path) -> None:
    """And nothing of it is on the disk."""
    with tarfile.open(archive) as tar:
        members = [(info, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
    change(members)
    hostile = tmp_path / "hostile.tar"
    with tarfile.open(hostile, "w") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    with pytest.raises(PackageError):
        install(hostile)
    assert not [path for path in (cache_folder() / "models").rglob("*") if path.is_file()]


def test_a_bomb_is_refused(archive: Path, tmp_path: Path) -> None:
    """A manifest that promises more than the disk holds, and an archive that unfolds."""
    import gzip

    with gzip.open(tmp_path / "bomb.tar.gz", "wb") as file:
        file.write(archive.read_bytes())
    with pytest.raises(PackageError, match="is not a package or an archive"):
        install(tmp_path / "bomb.tar.gz")
    data = archive.read_bytes()
    with tarfile.open(archive) as tar:
        text = tar.extractfile(MANIFEST_NAME).read()  # type: ignore[union-attr]
    size = b"\nsize = " + text.partition(b"\nsize = ")[2].split(b"\n")[0]
    assert size in data
    huge = text.replace(size, b"\nsize = 9000000000000000")
    with tarfile.open(tmp_path / "bomb.tar", "w") as tar:
        info, data = member(MANIFEST_NAME, huge)
        tar.addfile(info, io.BytesIO(data))
    with pytest.raises(UsageError, match="GB are needed"):
        install(tmp_path / "bomb.tar")


@pytest.mark.parametrize("part", [0, 0.001, 0.1, 0.5, 0.9])
def test_a_cut_archive_is_refused(archive: Path, part: float) -> None:
    """Wherever it ends."""
    data = archive.read_bytes()
    archive.write_bytes(data[: int(part * len(data))])
    with pytest.raises(PackageError):
        install(archive)
    assert pulled_packages() == []


def test_nothing_in_the_working_folder_is_run(archive: Path, planted: Path) -> None:
    """Whoever put a module there: a package is tried with what is installed."""
    install(archive)
    assert not planted.exists()


def test_the_users_limit_of_memory_says_nothing_about_a_package(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is sound, whatever may be loaded here."""
    monkeypatch.setenv("HARRIER_EDGE_MEMORY", "2MB")
    assert install(archive).is_dir()
