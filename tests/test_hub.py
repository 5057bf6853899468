"""Downloading from a hub, and every way in which that fails."""

from __future__ import annotations

import errno
import json
import logging
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from standins.hub import TINY as NAME
from standins.hub import FakeHub, Fault
from standins.random_checkpoint import random_checkpoint, tiny_gemma3, tiny_tokenizer

from harrier_edge import hub
from harrier_edge.cli import main
from harrier_edge.errors import DownloadError, UsageError
from harrier_edge.package import find_package, installed_packages, sha256_of
from harrier_edge.places import cache_folder
from harrier_edge.spec import FileRecord

COMMIT = "c" * 40
WEIGHTS = "model.safetensors"


def pull(revision: str = COMMIT, **options: object) -> hub.Download:
    """Download the tiny Gemma."""
    return hub.download(NAME, revision, quiet=True, **options)  # type: ignore[arg-type]


def test_a_checkpoint_arrives_whole(tiny_hub: FakeHub, tiny_gemma: Path) -> None:
    """Every file that an export reads is there, byte for byte, through the redirect."""
    done = pull()
    assert (done.revision, done.is_package) == (COMMIT, False)
    for path in tiny_gemma.rglob("*"):
        if path.is_file():
            assert sha256_of(done.folder / path.relative_to(tiny_gemma)) == sha256_of(path)
    assert tiny_hub.asked("GET", "/cdn/")


def test_shards_arrive_whole(tiny_hub: FakeHub, tiny_qwen: Path) -> None:
    """Two shards and their index."""
    tiny_hub.add(NAME, tiny_qwen)
    names = {path.name for path in pull().folder.iterdir()}
    assert {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"} <= names
    assert "model.safetensors.index.json" in names


def test_what_is_there_is_not_asked_for_again(tiny_hub: FakeHub) -> None:
    """A commit that was pulled needs no request."""
    pull()
    tiny_hub.requests.clear()
    assert pull().folder.is_dir()
    assert tiny_hub.requests == []


def test_a_branch_becomes_its_commit(tiny_hub: FakeHub) -> None:
    """What is stored is the commit, so that a branch that moves changes nothing."""
    assert pull("main").folder.name == COMMIT


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
@pytest.mark.parametrize("file", ["", WEIGHTS, "config.json"])
def test_a_server_that_is_busy_is_asked_again(tiny_hub: FakeHub, status: int, file: str) -> None:
    """In the listing, on the way and behind the redirect, twice each."""
    tiny_hub.faults[file] = Fault(status=status, headers={"Retry-After": "0"}, times=2)
    assert (pull().folder / WEIGHTS).is_file()


def test_a_server_that_stays_busy_is_told(tiny_hub: FakeHub) -> None:
    """With the status, the number of attempts and what to do; no token, no traceback."""
    tiny_hub.faults[""] = Fault(status=503, times=99)
    with pytest.raises(DownloadError, match=r"5 attempts \(status 503\).*HF_ENDPOINT"):
        pull()
    assert len(tiny_hub.asked("GET", "/api/models")) == hub.ATTEMPTS


def test_a_server_that_stalls_is_asked_again(
    tiny_hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that gives nothing for too long is given up, and tried once more."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    tiny_hub.faults[WEIGHTS] = Fault(slow_s=100)
    assert (pull().folder / WEIGHTS).exists()
    assert len(tiny_hub.asked("GET", f"/cdn/{NAME}/{WEIGHTS}")) == 2


def test_a_proxy_is_gone_through(tiny_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the hub's own address is: here one that does not exist."""
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    monkeypatch.setenv("HTTP_PROXY", tiny_hub.url)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert (pull().folder / WEIGHTS).exists()
    assert {headers["Host"] for _, _, headers in tiny_hub.requests} >= {"hub.invalid"}


def test_a_slow_server_is_waited_for(tiny_hub: FakeHub) -> None:
    """A pause is no failure."""
    tiny_hub.faults[WEIGHTS] = Fault(slow_s=50)
    assert (pull().folder / WEIGHTS).is_file()


@pytest.mark.parametrize("file", [WEIGHTS, "config.json", "tokenizer.json"])
def test_wrong_bytes_once_are_fetched_again(tiny_hub: FakeHub, file: str) -> None:
    """Large files by sha256, small ones by git's digest."""
    tiny_hub.faults[file] = Fault(wrong=True)
    assert (pull().folder / file).is_file()


@pytest.mark.parametrize("file", [WEIGHTS, "config.json"])
def test_wrong_bytes_twice_are_refused(tiny_hub: FakeHub, file: str) -> None:
    """And not kept: nothing that is wrong can be taken for a model later."""
    tiny_hub.faults[file] = Fault(wrong=True, times=2)
    with pytest.raises(DownloadError, match=f"{file} arrives with digest .*, twice"):
        pull()
    folder = cache_folder() / "downloads" / "owner--tiny" / COMMIT
    assert not (folder / file).exists() and not (folder / hub.MARKER).exists()


@pytest.mark.parametrize(
    "record", [FileRecord(sha256="0" * 64), FileRecord(size=1)], ids=["sha256", "size"]
)
def test_a_file_changed_under_a_pinned_revision_is_refused(
    tiny_hub: FakeHub, record: FileRecord
) -> None:
    """Before a byte of it is downloaded."""
    with pytest.raises(DownloadError, match="when this revision was pinned"):
        pull(pinned={WEIGHTS: record})
    assert not tiny_hub.asked("GET", "/resolve/")


def test_another_commit_than_asked_for_is_refused(tiny_hub: FakeHub) -> None:
    """A mirror cannot answer with something else."""
    tiny_hub.announced["sha"] = "d" * 40
    with pytest.raises(DownloadError, match="mirror may be out of date"):
        pull()


def test_a_file_outside_the_folder_is_refused(tiny_hub: FakeHub) -> None:
    """A repository names files, not places on this disk."""
    tiny_hub.announced["siblings"] = [
        {"rfilename": name, "size": 1, "blobId": "0" * 40}
        for name in ("1_x/..\\..\\y/config.json", "model.safetensors")
    ]
    with pytest.raises(DownloadError, match="not taken"):
        pull()


def test_unknown_names_are_told_apart(tiny_hub: FakeHub) -> None:
    """No such repository; no such revision; not a name at all; no revision given."""
    with pytest.raises(DownloadError, match="no such repository"):
        hub.download("owner/unheard-of", COMMIT, quiet=True)
    with pytest.raises(DownloadError, match="no such revision"):
        pull("d" * 40)
    with pytest.raises(UsageError, match="OWNER/NAME"):
        hub.download("../up", COMMIT)
    with pytest.raises(UsageError, match="--revision main"):
        pull("")
    assert len(tiny_hub.requests) == 2  # asking again would not have helped


def test_a_repository_without_weights_is_told(tiny_hub: FakeHub, tmp_path: Path) -> None:
    """With the names of what it has."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "README.md").write_text("Soon.")
    tiny_hub.add(NAME, tmp_path / "empty")
    with pytest.raises(DownloadError, match=r"neither safetensors .* only README\.md"):
        pull()


def test_a_gated_repository_wants_a_token_that_nobody_sees(
    tiny_hub: FakeHub,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without it the message says what to do; with it all arrives and no log holds it."""
    tiny_hub.token = "hf_secretsecretsecret"
    with pytest.raises(DownloadError, match=r"gated.*HF_TOKEN"):
        pull()
    monkeypatch.setenv("HF_TOKEN", tiny_hub.token)
    with caplog.at_level(logging.DEBUG):
        assert (pull().folder / WEIGHTS).is_file()
    captured = capsys.readouterr()
    assert tiny_hub.token not in caplog.text + captured.out + captured.err
    for path in cache_folder().rglob("*"):
        assert not path.is_file() or tiny_hub.token.encode() not in path.read_bytes()


def test_the_token_does_not_go_to_another_host(
    tiny_hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That to which the hub sends one for the bytes."""
    tiny_hub.url = tiny_hub.url.replace("127.0.0.1", "localhost")
    tiny_hub.token = "hf_secretsecretsecret"
    monkeypatch.setenv("HF_TOKEN", tiny_hub.token)
    assert (pull().folder / WEIGHTS).is_file()
    asked = tiny_hub.asked("GET", "/cdn/")
    assert {headers["Host"].partition(":")[0] for headers in asked} == {"localhost"}
    assert not any("Authorization" in headers for headers in asked)


def test_no_connection_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that nobody listens at."""
    monkeypatch.setattr(hub, "BACKOFF_S", 0.01)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match=r"5 attempts.*Check the connection"):
        pull()


def test_free_disk_is_checked_first(tiny_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both figures are told and nothing is downloaded."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 1000))
    with pytest.raises(DownloadError, match=r"0\.00 GB are free, 0\.07 GB are needed"):
        pull()
    assert not tiny_hub.asked("GET", "/resolve/")


def test_a_full_disk_is_told(tiny_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, not after five attempts."""
    calls = []

    def full(*args: object, **options: object) -> None:
        calls.append(args)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(DownloadError, match="disk is full"):
        pull()
    assert len(calls) == 1


@pytest.mark.parametrize("variable", ["HARRIER_EDGE_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_asks_nobody(
    tiny_hub: FakeHub, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """The message names the variable and the way without a network."""
    monkeypatch.setenv(variable, "1")
    with pytest.raises(DownloadError, match=variable):
        pull()
    assert tiny_hub.requests == []


def test_pull_makes_a_package_that_is_found_by_name(
    tiny_hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    """Downloaded, exported, the checkpoint dropped; a second pull asks nobody."""
    command = [
        "pull",
        NAME,
        "--revision",
        COMMIT,
        "--precision",
        "fp32",
        "--json",
        "-q",
        "--no-verify",
    ]
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out)
    assert find_package(NAME) == Path(told["folder"])
    assert not (cache_folder() / "downloads" / "owner--tiny" / COMMIT).exists()
    tiny_hub.requests.clear()
    assert main(command) == 0
    assert tiny_hub.requests == []


def test_a_checkpoint_is_kept_for_other_precisions(tiny_hub: FakeHub) -> None:
    """The second precision needs no download."""
    command = ["pull", NAME, "--revision", COMMIT, "-q", "--no-verify", "--precision"]
    assert main([*command, "fp32", "--keep-checkpoint"]) == 0
    tiny_hub.requests.clear()
    assert main([*command, "int8-block"]) == 0
    assert tiny_hub.requests == []
    assert len(installed_packages(NAME)) == 2


def test_a_package_is_pulled_as_it_is(tiny_hub: FakeHub, tiny_package: Path) -> None:
    """A repository that holds a package needs no export."""
    tiny_hub.add(NAME, tiny_package)
    assert main(["pull", NAME, "--revision", COMMIT, "-q"]) == 0
    (place,) = installed_packages(NAME)
    assert (place.name, place.parent.name) == ("fp32", COMMIT)
    assert main(["pull", NAME, "--revision", COMMIT, "-q", "--precision", "int4"]) == 2


def test_a_model_that_is_not_pinned_asks_for_a_revision(
    tiny_hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With one, its checkpoint is held to the catalogue's shape."""
    assert main(["pull", "bitnet-270m"]) == 2
    assert "no revision of it is known here. Name a commit with --revision" in (
        capsys.readouterr().err
    )
    assert tiny_hub.requests == []
    tokenizer = tiny_tokenizer(tmp_path / "tokenizer.json")
    checkpoint = random_checkpoint(
        tmp_path / "bitnet", config=tiny_gemma3(), tokenizer=tokenizer, bitnet=True
    )
    tiny_hub.add("microsoft/bitnet-embedding-270m", checkpoint)
    assert main(["pull", "bitnet-270m", "--revision", COMMIT, "--precision", "ternary"]) == 1
    assert "shape.hidden_size is 64; bitnet-270m has 640" in capsys.readouterr().err


def test_models_lists_verifies_and_removes(
    tiny_hub: FakeHub,
    tiny_package: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With who uses what; a flipped bit is found; what an index needs is not removed unasked."""
    tiny_hub.add(NAME, tiny_package)
    assert main(["pull", NAME, "--revision", COMMIT, "-q"]) == 0
    monkeypatch.setenv("HARRIER_EDGE_DB", str(tmp_path / "index.sqlite"))
    (tmp_path / "a.md").write_text("a falcon")
    assert main(["add", "-q", "-m", NAME, str(tmp_path / "a.md")]) == 0
    capsys.readouterr()
    assert main(["models", "--json"]) == 0
    built_in, row = json.loads(capsys.readouterr().out)
    assert (built_in["model"], built_in["revision"]) == ("kestrel", "built in")
    assert (row["model"], row["precision"], row["error"]) == (NAME, "fp32", None)
    assert row["used_by"] == [str(tmp_path / "index.sqlite")]
    assert main(["models", "verify"]) == 0
    path = Path(row["folder"]) / "model.onnx_data"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    assert main(["models", "verify", NAME]) == 1
    assert "broken:" in capsys.readouterr().out
    assert main(["models", "remove", NAME]) == 2
    assert main(["models", "remove", NAME, "--force"]) == 0
    assert installed_packages(NAME) == []
    assert main(["models", "remove", NAME]) == 1
    assert main(["models", "remove", "kestrel", "--force"]) == 2
    assert "cannot be removed" in capsys.readouterr().err
    assert main(["models", "verify", "kestrel"]) == 0


NO_SOCKETS = """
import sys
def forbid(event, args):
    if event.startswith("socket."):
        raise SystemExit("a socket: " + event)
sys.addaudithook(forbid)
from harrier_edge.cli import main
assert main(["pull", {name!r}, "--revision", {commit!r}, "--precision", "fp32"]) == 0
assert main(["models", "verify"]) == 0
assert main(["add", "--db", "index.sqlite", "-m", {name!r}, "a.md"]) == 0
assert main(["search", "--db", "index.sqlite", "falcon"]) == 0
assert main(["embed", "-m", {name!r}, "a falcon"]) == 0
"""


def test_once_pulled_no_socket_is_opened(tiny_hub: FakeHub, tmp_path: Path) -> None:
    """The whole path, from pull to search, where opening any socket ends the process."""
    assert (
        main(["pull", NAME, "--revision", COMMIT, "--precision", "fp32", "-q", "--no-verify"]) == 0
    )
    (tmp_path / "a.md").write_text("a falcon")
    run = subprocess.run(
        [sys.executable, "-c", NO_SOCKETS.format(name=NAME, commit=COMMIT)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "a falcon" in run.stdout
