"""The built-in model: there from the start, in Harrier's form, and it knows what texts mean."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from harrier_edge import Embedder, Index, catalog, package
from harrier_edge.cli import main
from harrier_edge.errors import UsageError
from harrier_edge.package import default_package
from harrier_export import ExportOptions, export, reference
from harrier_export.checkpoint import Checkpoint

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINT = ROOT / "models" / "kestrel"
NOTES = ROOT / "tests" / "data" / "notes"
MEGABYTE = 10**6
TALES = [
    "The cat sleeps on the warm roof.",
    "How to undo the last commit in git",
    "Inflation raises the price of bread.",
    "The surgeon repaired the valve of the heart.",
]


@pytest.fixture(scope="module")
def kestrel() -> Embedder:
    """The built-in package, by its name."""
    return Embedder("kestrel")


@pytest.fixture(autouse=True)
def unannounced() -> None:
    """Each test is told of the built-in model anew."""
    package._announce_built_in.cache_clear()


@pytest.mark.parametrize(
    ("query", "best"),
    [
        ("a kitten is napping", 0),
        ("revert a change in version control", 1),
        ("food is getting more expensive", 2),
        ("operation of a cardiac patient", 3),
        ("Die Katze schl\u00e4ft auf dem Dach", 0),
        ("el precio del pan sube", 2),
        ("猫在屋顶上睡觉", 0),
    ],
)
def test_meaning_is_found_without_a_common_word(kestrel: Embedder, query: str, best: int) -> None:
    """In English, and from other languages."""
    scores = kestrel.similarity(kestrel.encode_query(query), kestrel.encode_document(TALES))
    assert int(np.argmax(scores)) == best


def test_it_has_harriers_form(kestrel: Embedder) -> None:
    """The same architecture, prompts, special tokens and final token."""
    manifest, harrier = kestrel.manifest, catalog.load("harrier-270m")
    assert (manifest.name, manifest.architecture) == ("kestrel", "gemma3_text")
    assert manifest.precision.name == "int8"
    assert manifest.prompts == harrier.prompts
    assert manifest.query_prompt == "web_search_query"
    assert (manifest.tokens.bos, manifest.tokens.final) == (
        harrier.tokens.bos,
        harrier.tokens.final,
    )


def test_what_is_shipped_was_exported_from_the_checkpoint(kestrel: Embedder) -> None:
    """The built-in package names the very checkpoint that lies in the repository."""
    assert kestrel.fingerprint == Checkpoint(CHECKPOINT).fingerprint()


def test_it_loads_without_tokenizers(tmp_path: Path) -> None:
    """Its tokenizer is compiled, too: a question takes neither that library nor its file."""
    script = """if True:
        import sys
        from harrier_edge import Embedder
        assert Embedder("kestrel").encode_query("where do falcons nest?").shape == (384,)
        assert "tokenizers" not in sys.modules
    """
    command = [sys.executable, "-c", script]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_its_sizes_are_as_promised(kestrel: Embedder) -> None:
    """48 MB of checkpoint, and a wheel of 32 MB holds the package."""
    assert (CHECKPOINT / "model.safetensors").stat().st_size <= 48 * MEGABYTE
    assert sum(record.size for record in kestrel.manifest.files.values()) <= 31 * MEGABYTE


@pytest.mark.skipif(not reference.is_available(), reason="needs harrier-edge[verify]")
def test_it_exports_like_any_checkpoint(tmp_path: Path) -> None:
    """In fp32 it is what transformers computes."""
    result = export(CHECKPOINT, tmp_path / "fp32", ExportOptions(precision="fp32", verify=True))
    assert result.manifest.name == "kestrel"
    assert not result.tokenizer_repaired
    assert result.manifest.parity is not None
    assert result.manifest.parity.min_cosine > 0.99999


def test_it_is_the_default_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A new index takes it where no model is named or pulled; the log tells how to get Harrier."""
    with caplog.at_level(logging.WARNING):
        for name in ("a.sqlite", "b.sqlite"):
            with Index.open(tmp_path / name) as index:
                assert index.status().model.name == "kestrel"
    (record,) = caplog.records
    assert "built-in 'kestrel'" in record.getMessage()
    assert "harrier-edge pull harrier-270m" in record.getMessage()


def test_the_command_works_with_nothing_pulled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """embed, add and search, with no model named; only the notes are searched."""
    assert main(["embed", "--json", "a falcon"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert len(row["embedding"]) == 384
    db = ["--db", str(tmp_path / "index.sqlite")]
    assert main(["add", *db, str(NOTES)]) == 0
    capsys.readouterr()
    assert main(["search", *db, "--json", "-n", "1", "--mode", "vector", "a query"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["path"].startswith(str(NOTES))


def test_a_pulled_model_comes_before_it(
    tiny_package: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The only one is taken; of several one must be named."""
    monkeypatch.setenv("HARRIER_EDGE_CACHE_DIR", str(tmp_path))
    models = tmp_path / "models" / "tiny-gemma" / "r1"
    models.mkdir(parents=True)
    (models / "fp32").symlink_to(tiny_package)
    assert default_package() == models / "fp32"
    (models / "int8").symlink_to(tiny_package)
    with pytest.raises(UsageError, match="which model"):
        default_package()


def test_it_is_not_what_is_meant_by_another_name() -> None:
    """Its folder lies in the package's data, and nowhere else."""
    folder = Path(str(resources.files("harrier_edge.models"))) / "kestrel" / "int8"
    assert package.find_package("kestrel") == folder
    assert package.installed_packages("harrier-270m") == []


def test_a_folder_of_its_name_does_not_hide_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder is meant only where it is a package."""
    (tmp_path / "kestrel").mkdir()
    monkeypatch.chdir(tmp_path)
    assert package.find_package("kestrel").name == "int8"
