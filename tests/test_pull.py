"""`pull`: which package an ONNX export of others becomes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from standins.foreign import foreign_export
from standins.hub import fake_hub

from harrier_edge import Embedder, catalog
from harrier_edge.cli import main
from harrier_edge.package import installed_packages, sha256_of
from harrier_edge.spec import FileRecord, OnnxSource

NAME = "owner/tiny-ONNX"
COMMIT = "c" * 40


@pytest.fixture
def mine(tiny_gemma: Path, tiny_package: Path, tmp_path: Path) -> Path:
    """A folder with an ONNX export of the user's own."""
    return foreign_export(tmp_path / "mine", tiny_gemma, {"fp32": tiny_package})


def pulled(capsys: pytest.CaptureFixture[str], *arguments: str) -> Path:
    """The folder of the package that a pull tells."""
    capsys.readouterr()
    assert main(["pull", "--json", "-q", *arguments]) == 0
    return Path(json.loads(capsys.readouterr().out)["folder"])


def retrain(folder: Path) -> None:
    """Write other weights beside the same graph."""
    weights = folder / "onnx" / "model.onnx_data"
    values = np.fromfile(weights, np.float32)
    values[len(values) // 2 :] *= -1
    values.tofile(weights)


def test_new_weights_beside_the_same_graph_are_taken(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was trained on and exported again is another package; what is the same is not."""
    old = pulled(capsys, "--from", str(mine))
    assert pulled(capsys, "--from", str(mine)) == old
    retrain(mine)
    new = pulled(capsys, "--from", str(mine))
    assert sorted(installed_packages("mine")) == sorted([old, new])
    before, after = (Embedder(folder).encode("a falcon") for folder in (old, new))
    assert before @ after < 0.99


def test_other_weights_than_the_published_are_refused(
    mine: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the published package is there already: that would not be what was asked for."""
    files = {
        f"onnx/{name}": FileRecord(sha256=sha256_of(mine / "onnx" / name))
        for name in ("model.onnx", "model.onnx_data")
    }
    origin = OnnxSource(repository=NAME, revision=COMMIT, files=files)
    known = (catalog.load("harrier-270m"), origin)
    monkeypatch.setattr(catalog, "onnx_of", lambda graph, digest: known)
    place = pulled(capsys, "--from", str(mine))
    assert place.parent.name == COMMIT
    assert pulled(capsys, "--from", str(mine)) == place
    retrain(mine)
    assert main(["pull", "--from", str(mine)]) == 1
    assert "model.onnx_data: its sha256 is" in capsys.readouterr().err


def test_the_only_graph_is_filed_under_its_precision(
    tiny_gemma: Path,
    tiny_package: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is taken without being named, and is not float32."""
    only = foreign_export(tmp_path / "only", tiny_gemma, {"q4": tiny_package})
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with fake_hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.add(NAME, only)
        place = pulled(capsys, NAME, "--revision", COMMIT)
    assert (place.parent.name, place.name) == (COMMIT, "q4")
    assert Embedder(NAME, precision="q4").precision == "q4"
