"""The doctor on a healthy machine, and on many that are broken in one way each."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from standins.mutations import rehash

from harrier_edge import Index
from harrier_edge.cli import main
from harrier_edge.doctor.packages import _again
from harrier_edge.machine import this_machine
from harrier_edge.package import find_package, installed_packages
from harrier_edge.places import cache_folder
from harrier_edge.spec import MANIFEST_FORMAT, MANIFEST_NAME, PackageManifest, Sample, read_table
from harrier_edge.store.database import Database
from harrier_export import ExportOptions, export, reference
from harrier_export.manifest import write_manifest
from harrier_export.sample import take_sample

COMMIT = "c" * 40
NOTES = {"birds.md": "The harrier hunts low.", "trees.md": "Oaks grow slowly.", "tea.md": "Tea."}


@dataclass(frozen=True)
class Home:
    """A machine: its package, its index and the folder of its notes."""

    package: Path
    index: Path
    notes: Path


@pytest.fixture(scope="module")
def sampled(tiny_package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny package with a sample in its manifest."""
    folder = Path(shutil.copytree(tiny_package, tmp_path_factory.mktemp("sampled") / "fp32"))
    resample(folder, take_sample(folder))
    return folder


def resample(folder: Path, sample: Sample | None) -> None:
    """Give a package another sample."""
    manifest = read_table(folder / MANIFEST_NAME, PackageManifest)
    write_manifest(folder, msgspec.structs.replace(manifest, sample=sample))


@pytest.fixture
def home(sampled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A package in the cache and an index of three notes, built with it."""
    package = cache_folder() / "models" / "owner--tiny" / COMMIT / "fp32"
    shutil.copytree(sampled, package)
    notes, index = tmp_path / "notes", tmp_path / "index.sqlite"
    notes.mkdir()
    for name, text in NOTES.items():
        (notes / name).write_text(text, "utf-8")
    monkeypatch.setenv("HARRIER_EDGE_DB", str(index))
    with Index.open(index, model=package) as opened:
        opened.add(notes)
    return Home(package, index, notes)


def examined(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, list[dict[str, str]]]:
    """Exit code and findings, but for that of the built-in model, which is sound."""
    capsys.readouterr()
    code = main(["doctor", "--json", *options])
    report = json.loads(capsys.readouterr().out)
    findings: list[dict[str, str]] = report["findings"]
    assert report["broken"] == sum(finding["state"] == "broken" for finding in findings)
    built_in = str(find_package("kestrel"))
    assert [f["state"] for f in findings if f["where"] == built_in] == ["ok"]
    return code, [finding for finding in findings if finding["where"] != built_in]


def test_a_healthy_machine_is_found_sound(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """All is looked at, nothing is changed, and what the package gives is what it gave."""
    before = {p: p.read_bytes() for p in home.package.iterdir()}
    code, findings = examined(capsys)
    assert code == 0
    assert {finding["subject"] for finding in findings} == {
        *("python", "sqlite", "onnxruntime", "processor", "memory"),
        *("settings", "cache", "package", "index"),
    }
    assert [f for f in findings if f["subject"] == "package"] == [
        {
            "subject": "package",
            "where": str(home.package),
            "state": "ok",
            "message": findings[-3]["message"],
            "cure": "",
        }
    ]
    assert "cosine to its sample: 1.0000" in findings[-3]["message"]
    assert all(f["state"] == "ok" for f in findings if f["where"])
    assert {p: p.read_bytes() for p in home.package.iterdir()} == before


def on_a_processor_with(extension: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this one had that and no other."""
    machine = dataclasses.replace(this_machine(), extensions=(extension,))
    monkeypatch.setattr("harrier_edge.doctor.system.this_machine", lambda: machine)


def test_an_empty_machine_is_no_fault(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the built-in model, and nothing is to be told."""
    on_a_processor_with("avx512_vnni", monkeypatch)
    code, findings = examined(capsys)
    assert code == 0
    assert all(finding["state"] == "ok" for finding in findings)


def test_a_processor_without_8_bit_products_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no fault, and what is fastest there can be measured."""
    on_a_processor_with("avx2", monkeypatch)
    code, findings = examined(capsys)
    assert code == 0
    (told,) = [finding for finding in findings if finding["state"] != "ok"]
    assert (told["subject"], told["state"]) == ("processor", "note")
    assert "harrier-edge bench" in told["cure"]


def edit(path: Path, change: Callable[[bytearray], Any]) -> None:
    """Change the bytes of a file."""
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


def flip(data: bytearray) -> None:
    """Change one bit in the middle."""
    data[len(data) // 2] ^= 1


def replace(path: Path, old: str, new: str) -> None:
    """Put `new` in the place of `old`, which has to be there."""
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")


@contextmanager
def opened(home: Home) -> Iterator[Database]:
    """The index, to be damaged in one transaction."""
    database = Database(home.index)
    with database.writing():
        yield database
    database.close()


def flipped_weight(home: Home) -> None:
    edit(home.package / "model.onnx_data", flip)


def cut_graph(home: Home) -> None:
    edit(home.package / "model.onnx", lambda data: data.pop())


def lost_tokenizer(home: Home) -> None:
    (home.package / "tokenizer.json").unlink()


def malformed_manifest(home: Home) -> None:
    replace(home.package / MANIFEST_NAME, "dimension = 64", 'dimension = "64"')


def later_package(home: Home) -> None:
    replace(home.package / MANIFEST_NAME, f"format = {MANIFEST_FORMAT}", "format = 99")


def other_weights(home: Home) -> None:
    path = home.package / "model.onnx_data"
    values = np.fromfile(path, np.float32)
    values[len(values) // 2 :] *= -1
    values.tofile(path)
    rehash(home.package, "model.onnx_data")


def other_tokenizer(home: Home) -> None:
    path = home.package / "tokenizer.json"
    data = json.loads(path.read_bytes())
    data["model"]["merges"].pop(0)
    path.write_text(json.dumps(data), "utf-8")
    rehash(home.package, "tokenizer.json")


def garbled_tokenizer(home: Home) -> None:
    (home.package / "tokenizer.kitoken").write_bytes(b"\xff" * 4000)
    rehash(home.package, "tokenizer.kitoken")


def malformed_sample(home: Home) -> None:
    resample(home.package, Sample(text="a", vector="AAAA"))


def no_database(home: Home) -> None:
    home.index.write_bytes(b"a letter to my aunt " * 500)


def foreign_database(home: Home) -> None:
    home.index.unlink()
    with sqlite3.connect(home.index) as connection:
        connection.execute("CREATE TABLE aunts (name)")
    connection.close()


def lost_pages(home: Home) -> None:
    def blank(data: bytearray) -> None:
        data[4 * 8192 : 8 * 8192] = os.urandom(4 * 8192)

    edit(home.index, blank)


def lost_vector(home: Home) -> None:
    with opened(home) as database:
        database.execute("DELETE FROM vectors WHERE chunk = 2")


def later_index(home: Home) -> None:
    with opened(home) as database:
        database.execute("PRAGMA user_version = 99")


def lost_package(home: Home) -> None:
    shutil.rmtree(home.package)


def exchanged_package(home: Home) -> None:
    manifest = read_table(home.package / MANIFEST_NAME, PackageManifest)
    write_manifest(home.package, msgspec.structs.replace(manifest, fingerprint="e" * 64))


def exchanged_vectors(home: Home) -> None:
    with opened(home) as database:
        (first,) = database.execute("SELECT vector FROM vectors WHERE chunk = 1").fetchone()
        database.execute("UPDATE vectors SET vector = ?", (first,))


BROKEN = [
    (flipped_weight, "package", "model.onnx_data: its sha256 is", "models remove owner/tiny"),
    (cut_graph, "package", "bytes, the manifest says", f"pull owner/tiny --revision {COMMIT}"),
    (lost_tokenizer, "package", "tokenizer.json is missing", "--precision fp32"),
    (malformed_manifest, "package", "Expected `int`, got `str`", "models remove owner/tiny"),
    (later_package, "package", "manifest has format 99", "models remove owner/tiny"),
    (other_weights, "package", "to the one that it gave where it was made", "take fp32"),
    (other_tokenizer, "package", "make different tokens of", "pull owner/tiny"),
    (garbled_tokenizer, "package", "cannot be run: ", "pull owner/tiny"),
    (malformed_sample, "package", "its sample", "pull owner/tiny"),
    (no_database, "index", "is not a database", "Choose another file with --db"),
    (foreign_database, "index", "is another program's database", "another file with --db"),
    (lost_pages, "index", "is damaged", "backup"),
    (lost_vector, "index", "a chunk without a vector: 2", "harrier-edge add --db"),
    (later_index, "index", "has schema 99", "Install a newer release"),
    (lost_package, "index", "is gone", "harrier-edge reembed --db"),
    (exchanged_package, "index", "is another model now", "harrier-edge reembed --db"),
    (exchanged_vectors, "index", "a stored vector has a cosine of", "harrier-edge add --db"),
]


@pytest.mark.parametrize(
    ("damage", "subject", "message", "cure"), BROKEN, ids=[case[0].__name__ for case in BROKEN]
)
def test_what_is_broken_is_found_with_its_cure(
    home: Home,
    capfd: pytest.CaptureFixture[str],
    damage: Callable[[Home], None],
    subject: str,
    message: str,
    cure: str,
) -> None:
    """Once; the exit code is 1. An index may besides tell that its package is another."""
    damage(home)
    code, findings = examined(capfd)
    assert code == 1
    broken = [finding for finding in findings if finding["state"] == "broken"]
    assert {finding["subject"] for finding in broken} <= {subject, "index"}
    (finding,) = [finding for finding in broken if finding["subject"] == subject]
    assert message in finding["message"]
    assert cure in finding["cure"]
    assert finding["where"] == str(home.package if subject == "package" else home.index)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("HARRIER_EDGE_THREADS", "many", "'many'; wanted a whole number"),
        ("HARRIER_EDGE_MODEL", "nope", "no model package 'nope'"),
        ("HARRIER_EDGE_MEMORY", "plenty", "'plenty'; wanted an amount such as 512MB"),
        ("HARRIER_EDGE_MEMORY", "1KB", "'1KB'; wanted an amount such as 512MB"),
    ],
)
def test_a_setting_that_cannot_work_is_broken(
    home: Home,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    message: str,
) -> None:
    """It is named with its value."""
    monkeypatch.setenv(variable, value)
    code, findings = examined(capsys)
    assert code == 1
    (finding,) = [f for f in findings if f["state"] == "broken"]
    assert finding["subject"] == "settings"
    assert message in finding["message"]
    assert variable in finding["cure"]


def test_settings_for_other_commands_break_no_package(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server's model is not asked for, and a low limit of memory does not hold here."""
    monkeypatch.setenv("HARRIER_EDGE_MODEL", "http://box:8765#m")
    monkeypatch.setenv("HARRIER_EDGE_MEMORY", "2MB")
    code, findings = examined(capsys)
    assert code == 0
    (told,) = [f for f in findings if f["subject"] == "settings"]
    assert "HARRIER_EDGE_MODEL=http://box:8765#m" in told["message"]
    assert "HARRIER_EDGE_MEMORY=2MB" in told["message"]


@pytest.mark.parametrize("folder", ["/x", "/models/x", "/a/b/c/d"])
def test_a_package_may_lie_anywhere(folder: str) -> None:
    """Near the root, too, the cure names its folder."""
    assert _again(Path(folder)) == f"export it again to {Path(folder)} with --overwrite"


def test_a_cache_that_is_a_file_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing could be pulled there."""
    (tmp_path / "cache").write_text("")
    monkeypatch.setenv("HARRIER_EDGE_CACHE_DIR", str(tmp_path / "cache"))
    code, findings = examined(capsys)
    (finding,) = [f for f in findings if f["state"] == "broken"]
    assert (code, finding["subject"], finding["where"]) == (1, "cache", str(tmp_path / "cache"))
    assert "HARRIER_EDGE_CACHE_DIR" in finding["cure"]


def test_a_broken_extension_is_found(home: Home, tmp_path: Path) -> None:
    """sqlite-vec as a file that no system loads; -q shows nothing that is sound."""
    fake = tmp_path / "fake" / "sqlite_vec"
    fake.mkdir(parents=True)
    (fake / "vec0.so").write_text("no library")
    program = f"def loadable_path() -> str:\n    return {str(fake / 'vec0')!r}\n"
    (fake / "__init__.py").write_text(program)
    run = subprocess.run(
        [sys.executable, "-m", "harrier_edge", "doctor", "-q"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(fake.parent)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1, run.stderr
    assert "broken  sqlite: SQLite 3." in run.stdout
    assert "-> pip install --force-reinstall apsw sqlite-vec" in run.stdout
    assert "python:" not in run.stdout  # sound


def test_what_was_left_over_is_told_and_is_not_broken(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """Halves of downloads and packages, and what an index waits for."""
    download = cache_folder() / "downloads" / "owner--other" / COMMIT
    half = cache_folder() / "models" / "owner--other" / COMMIT / ".int8.partial-abc"
    for folder in (download, half):
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"x" * 10**6)
    with opened(home) as database:
        database.execute("UPDATE documents SET complete = 0 WHERE id = 1")
        database.execute("CREATE TABLE next_model (key, value)")
    shutil.rmtree(home.notes)
    code, findings = examined(capsys)
    assert code == 0
    notes = [(f["message"], f["cure"]) for f in findings if f["state"] == "note" and f["where"]]
    for message, cure in (
        ("1 documents are not finished", "harrier-edge update"),
        ("a change of its model was interrupted", "harrier-edge reembed"),
        (f"its source {home.notes} is gone", "harrier-edge remove"),
        ("a download of owner/other was interrupted at 1.0 MB", "harrier-edge pull owner/other"),
        ("half a package, 1.0 MB", f"rm -r {half}"),
    ):
        assert any(message in told and cure in way for told, way in notes), message


def test_a_moved_package_is_found_again(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """The cure names the place where it is now, and works."""
    place = cache_folder() / "models" / "moved" / COMMIT / "fp32"
    place.parent.mkdir(parents=True)
    home.package.rename(place)
    _, findings = examined(capsys)
    (finding,) = [f for f in findings if f["state"] == "broken"]
    assert finding["cure"].startswith(f"it is also in {place}: harrier-edge add")
    assert main(["add", "-q", "--db", str(home.index), "-m", str(place), str(home.notes)]) == 0
    assert examined(capsys)[0] == 0
    assert installed_packages("moved") == [place]


def test_one_index_can_be_examined(
    home: Home, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Of several that are known, only the one that is named; without it, all."""
    other = tmp_path / "other.sqlite"
    Index.open(other, model=home.package).close()
    _, findings = examined(capsys)
    assert {f["where"] for f in findings if f["subject"] == "index"} >= {
        *(str(home.index), str(other)),
    }
    _, findings = examined(capsys, "--db", str(other))
    indexes = [f["where"] for f in findings if f["subject"] == "index" and f["where"] != ""]
    assert str(home.index) not in indexes
    assert str(other) in indexes


def test_a_person_sees_state_place_and_cure(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """A line each, the cure below, the counts at the end."""
    flipped_weight(home)
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert f"broken  package: {home.package}: {home.package / 'model.onnx_data'}: its sha256" in out
    assert "        -> harrier-edge models remove owner/tiny --precision fp32 --force" in out
    assert out.splitlines()[-1].startswith("1 broken, ")


def test_an_export_records_a_sample(
    tiny_qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without transformers, too, unless the package is not to be run at all."""
    monkeypatch.setattr(reference, "is_available", lambda: False)
    made = export(tiny_qwen, tmp_path / "a", ExportOptions(precision="fp32"))
    assert made.manifest.sample == read_table(made.folder / MANIFEST_NAME, PackageManifest).sample
    assert made.manifest.sample
    bare = export(tiny_qwen, tmp_path / "b", ExportOptions(precision="fp32", verify=False))
    assert bare.manifest.sample is None


def test_what_was_not_compared_is_not_called_equal(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the package does not work, and where an index has no vectors yet."""
    flipped_weight(home)
    _, findings = examined(capsys)
    (told,) = [f for f in findings if f["subject"] == "index" and f["where"] == str(home.index)]
    assert told["state"] == "note"
    assert "nothing was compared with its vectors: " in told["message"]
    assert str(home.package) in told["cure"]
    empty = home.index.with_name("empty.sqlite")
    Index.open(empty, model=home.package).close()
    _, findings = examined(capsys, "--db", str(empty))
    (told,) = [f for f in findings if f["where"] == str(empty)]
    assert (told["state"], "it has no vectors yet" in told["message"]) == ("ok", True)
