"""A download that was cut is taken up where it ended, and ends with the bytes of the hub."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from standins import hub as standin
from standins.hub import FakeHub, Fault, fake_hub

from harrier_edge import hub
from harrier_edge.doctor.caches import examine
from harrier_edge.errors import DownloadError
from harrier_edge.package import sha256_of
from harrier_edge.places import cache_folder

NAME = "owner/tiny"
COMMIT = "c" * 40
WEIGHTS = "model.safetensors"


@pytest.fixture
def server(tiny_gemma: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """A hub with the tiny Gemma, which gives its bytes in small pieces; waits are shortened."""
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(seconds / 100))
    monkeypatch.setattr(hub, "BACKOFF_S", 0.01)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    with fake_hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.add(NAME, tiny_gemma)
        yield server


def pull() -> Path:
    """Download the tiny Gemma; its folder."""
    return hub.download(NAME, COMMIT, quiet=True).folder


def place() -> Path:
    """Where it is downloaded to."""
    return cache_folder() / "downloads" / "owner--tiny" / COMMIT


def asked_for(server: FakeHub) -> list[str | None]:
    """The ranges of the weights that were asked for; None is all of them."""
    return [headers.get("Range") for headers in server.asked("GET", f"/cdn/{NAME}/{WEIGHTS}")]


def test_a_cut_connection_goes_on_where_it_was(server: FakeHub) -> None:
    """The bytes that arrived are not asked for again."""
    server.faults[WEIGHTS] = Fault(cut_after=5000)
    assert (pull() / WEIGHTS).is_file()
    assert asked_for(server) == [None, "bytes=5000-"]


def test_a_later_pull_goes_on_too(server: FakeHub, tiny_gemma: Path) -> None:
    """Where all attempts fail, the next pull begins at the bytes that arrived."""
    server.faults[WEIGHTS] = Fault(cut_after=5000, then=Fault(status=503, times=99))
    with pytest.raises(DownloadError, match="pull again: it goes on where it was"):
        pull()
    assert (place() / f"{WEIGHTS}.part").stat().st_size == 5000
    assert not (place() / WEIGHTS).exists()
    assert not (place() / hub.MARKER).exists()
    server.faults.clear()
    server.requests.clear()
    assert sha256_of(pull() / WEIGHTS) == sha256_of(tiny_gemma / WEIGHTS)
    assert asked_for(server) == ["bytes=5000-"]
    assert not server.asked("GET", f"/resolve/{COMMIT}/config.json")
    assert not [path for path in place().rglob("*") if path.suffix == ".part"]
    assert [finding.state for finding in examine(None)] == ["note"], "the download that is kept"


@pytest.mark.parametrize("left", [b"x" * 3000, b"x" * 10**7], ids=["wrong", "too long"])
def test_what_is_left_of_something_else_is_not_kept(
    server: FakeHub, tiny_gemma: Path, left: bytes
) -> None:
    """The power was cut, or another program wrote there: it is fetched from the beginning."""
    place().mkdir(parents=True)
    (place() / f"{WEIGHTS}.part").write_bytes(left)
    assert sha256_of(pull() / WEIGHTS) == sha256_of(tiny_gemma / WEIGHTS)
    assert asked_for(server)[-1] is None


def test_a_mirror_that_knows_no_ranges_is_enough(
    server: FakeHub, tiny_gemma: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sends the file from the beginning, and that is where it goes."""
    whole = standin._Handler._bytes

    def without_range(handler: Any, *arguments: Any) -> None:
        del handler.headers["Range"]
        whole(handler, *arguments)

    monkeypatch.setattr(standin._Handler, "_bytes", without_range)
    server.faults[WEIGHTS] = Fault(cut_after=5000)
    assert sha256_of(pull() / WEIGHTS) == sha256_of(tiny_gemma / WEIGHTS)


def test_all_is_on_the_disk_before_it_counts_as_whole(
    server: FakeHub, monkeypatch: pytest.MonkeyPatch
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


def test_two_at_once_share_one_download(server: FakeHub) -> None:
    """The second waits for the first and asks for nothing."""
    server.faults[WEIGHTS] = Fault(slow_s=20)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.submit(pull), pool.submit(pull)
        assert first.result() == second.result() == place()
    assert asked_for(server) == [None]
