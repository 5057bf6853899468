"""A download that was cut is taken up where it ended, and ends with the bytes of the hub."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from standins import hub as standin
from standins.hub import TINY as NAME
from standins.hub import FakeHub, Fault

from harrier_edge import hub
from harrier_edge.doctor.caches import examine
from harrier_edge.errors import DownloadError
from harrier_edge.package import sha256_of
from harrier_edge.places import cache_folder

COMMIT = "c" * 40
WEIGHTS = "model.safetensors"


def pull() -> Path:
    """Download the tiny Gemma; its folder."""
    return hub.download(NAME, COMMIT, quiet=True).folder


def place() -> Path:
    """Where it is downloaded to."""
    return cache_folder() / "downloads" / "owner--tiny" / COMMIT


def asked_for(tiny_hub: FakeHub) -> list[str | None]:
    """The ranges of the weights that were asked for; None is all of them."""
    return [headers.get("Range") for headers in tiny_hub.asked("GET", f"/cdn/{NAME}/{WEIGHTS}")]


def test_a_cut_connection_goes_on_where_it_was(tiny_hub: FakeHub) -> None:
    """The bytes that arrived are not asked for again."""
    tiny_hub.faults[WEIGHTS] = Fault(cut_after=5000)
    assert (pull() / WEIGHTS).is_file()
    assert asked_for(tiny_hub) == [None, "bytes=5000-"]


def test_a_later_pull_goes_on_too(tiny_hub: FakeHub, tiny_gemma: Path) -> None:
    """Where all attempts fail, the next pull begins at the bytes that arrived."""
    tiny_hub.faults[WEIGHTS] = Fault(cut_after=5000, then=Fault(status=503, times=99))
    with pytest.raises(DownloadError, match="pull again: it goes on where it was"):
        pull()
    assert (place() / f"{WEIGHTS}.part").stat().st_size == 5000
    assert not (place() / WEIGHTS).exists()
    assert not (place() / hub.MARKER).exists()
    tiny_hub.faults.clear()
    tiny_hub.requests.clear()
    assert sha256_of(pull() / WEIGHTS) == sha256_of(tiny_gemma / WEIGHTS)
    assert asked_for(tiny_hub) == ["bytes=5000-"]
    assert not tiny_hub.asked("GET", f"/resolve/{COMMIT}/config.json")
    assert not [path for path in place().rglob("*") if path.suffix == ".part"]
    assert [finding.state for finding in examine(None)] == ["note"], "the download that is kept"


@pytest.mark.parametrize("left", [b"x" * 3000, b"x" * 10**7], ids=["wrong", "too long"])
def test_what_is_left_of_something_else_is_not_kept(
    tiny_hub: FakeHub, tiny_gemma: Path, left: bytes
) -> None:
    """The power was cut, or another program wrote there: it is fetched from the beginning."""
    place().mkdir(parents=True)
    (place() / f"{WEIGHTS}.part").write_bytes(left)
    assert sha256_of(pull() / WEIGHTS) == sha256_of(tiny_gemma / WEIGHTS)
    assert asked_for(tiny_hub)[-1] is None


def test_a_mirror_that_knows_no_ranges_is_enough(
    tiny_hub: FakeHub, tiny_gemma: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sends the file from the beginning, and that is where it goes."""
    whole = standin._Handler._bytes

    def without_range(handler: Any, *arguments: Any) -> None:
        del handler.headers["Range"]
        whole(handler, *arguments)

    monkeypatch.setattr(standin._Handler, "_bytes", without_range)
    tiny_hub.faults[WEIGHTS] = Fault(cut_after=5000)
    assert sha256_of(pull() / WEIGHTS) == sha256_of(tiny_gemma / WEIGHTS)


def test_all_is_on_the_disk_before_it_counts_as_whole(
    tiny_hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file, and then the marker, whenever the power is cut."""
    synced: list[int] = []
    fsync = os.fsync

    def noted(file: int) -> None:
        synced.append(os.fstat(file).st_ino)
        fsync(file)

    monkeypatch.setattr(os, "fsync", noted)
    files = {path.name: path.stat().st_ino for path in pull().iterdir() if path.is_file()}
    assert synced[-1] == files.pop(hub.MARKER)
    assert set(files.values()) <= set(synced[:-1])


def test_two_at_once_share_one_download(tiny_hub: FakeHub) -> None:
    """The second waits for the first and asks for nothing."""
    tiny_hub.faults[WEIGHTS] = Fault(slow_s=20)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.submit(pull), pool.submit(pull)
        assert first.result() == second.result() == place()
    assert asked_for(tiny_hub) == [None]
