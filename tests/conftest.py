"""Fixtures: tiny checkpoints and packages that take the whole real path, and a fenced-off home."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from standins.hub import TINY, FakeHub, fake_hub
from standins.packages import Exported
from standins.random_checkpoint import random_checkpoint, tiny_gemma3, tiny_qwen3, tiny_tokenizer

from harrier_edge import hub
from harrier_edge.embedder import Embedder
from harrier_export import ExportOptions, export

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session", autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """All works outside the checkout, whose sources children would find before the wheel."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        yield


@pytest.fixture(autouse=True)
def no_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees or writes the user's cache, index or settings."""
    home = tmp_path_factory.mktemp("home")
    for name in ("HARRIER_EDGE_MODEL", "HARRIER_EDGE_DB", "HARRIER_EDGE_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HARRIER_EDGE_CACHE_DIR", str(home / "cache"))
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of evaluation data and published facts that stands beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the evaluation data in {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def tiny_gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Gemma 3 checkpoint: sliding layers, window 16, linear scaling 8."""
    folder = tmp_path_factory.mktemp("checkpoints")
    tokenizer = tiny_tokenizer(folder / "tokenizer.json")
    return random_checkpoint(folder / "tiny-gemma", config=tiny_gemma3(), tokenizer=tokenizer)


@pytest.fixture(scope="session")
def tiny_qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen3 checkpoint in two shards."""
    folder = tmp_path_factory.mktemp("checkpoints")
    tokenizer = tiny_tokenizer(folder / "tokenizer.json")
    return random_checkpoint(
        folder / "tiny-qwen", config=tiny_qwen3(), tokenizer=tokenizer, shards=2
    )


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Checkpoint and precision -> package, made when it is first asked for. Do not change it."""

    @cache
    def package(checkpoint: Path, precision: str) -> Path:
        target = tmp_path_factory.mktemp("packages") / checkpoint.name
        return export(checkpoint, target, ExportOptions(precision=precision, verify=False)).folder

    return package


@pytest.fixture(scope="session")
def tiny_package(tiny_gemma: Path, exported: Exported) -> Path:
    """The tiny Gemma as a fp32 package. Do not change it: take `own_package`."""
    return exported(tiny_gemma, "fp32")


@pytest.fixture
def own_package(tiny_package: Path, tmp_path: Path) -> Path:
    """A copy of the tiny package that a test may damage."""
    return Path(shutil.copytree(tiny_package, tmp_path / "own-package"))


@pytest.fixture
def own_gemma(tiny_gemma: Path, tmp_path: Path) -> Path:
    """A copy of the tiny Gemma checkpoint that a test may damage."""
    return Path(shutil.copytree(tiny_gemma, tmp_path / "own-gemma"))


@pytest.fixture(scope="session")
def tiny_embedder(tiny_package: Path) -> Embedder:
    """The tiny package, loaded."""
    return Embedder(tiny_package)


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with modules of somebody's; where they are run, the file that is returned
    comes into being."""
    here = tmp_path / "here"
    here.mkdir()
    for name in ("harrier_edge", "msgspec", "numpy"):
        (here / f"{name}.py").write_text("open('was run', 'w').close()\n")
    monkeypatch.chdir(here)
    return here / "was run"


@pytest.fixture
def tiny_hub(
    tiny_gemma: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[FakeHub]:
    """A hub with the tiny Gemma, which everything takes for the hub; waits are shortened."""
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(seconds / 100))
    monkeypatch.setattr(hub, "BACKOFF_S", 0.01)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    # What it holds until it writes: 10 MB, of which the tiny weights would be one.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    with fake_hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.add(TINY, tiny_gemma)
        yield server
