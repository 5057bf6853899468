"""An index as a file that other programs read, and back."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from harrier_edge import Embedder, Index
from harrier_edge.cli import main
from harrier_edge.dumps import parquet
from harrier_edge.dumps.transfer import dump, load
from harrier_edge.errors import ModelMismatchError, ModelNotFoundError, StoreError, UsageError
from harrier_edge.store import contents
from harrier_edge.store.connection import StoredModel
from harrier_edge.store.database import Database
from harrier_edge.store.rows import ChunkRow, Part
from harrier_edge.store.sources import Source, put_source, sources_of
from harrier_edge.store.upkeep import check
from harrier_edge.vectors import STORES

ENDINGS = (".jsonl", ".parquet")


def nothing(stage: str, done: int, total: int) -> None:
    """No progress."""


def filled(path: Path, package: Path, store: str = "float32") -> Database:
    """An index of three documents: of many chunks, of none, and one that is not whole yet."""
    embedder = Embedder(package)
    model = StoredModel(
        embedder.name,
        embedder.fingerprint,
        embedder.precision,
        embedder.dimension,
        str(package),
        store,
    )
    database = Database(path, create=model)
    random = np.random.default_rng(0)

    def part(name: str, count: int, **more: Any) -> Part:
        vectors = random.standard_normal((count, embedder.dimension)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        rows = [
            ChunkRow(i, i + 1, i + 2, f"Zoë {name} {i}", "A > B", 7 * i, 7 * i + 5, bytes([i] * 16))
            for i in range(count)
        ]
        return Part(name, "Title", "0" * 64, rows, vectors, **{"last": True, **more})

    metadata = {"author": "Zoë", "year": 1999, "tags": ["a", None]}
    many = part("/many", 9, collection="work", metadata=metadata, modified=1.25, size=77)
    database.write([many, part("/empty", 0, stamp="s", chunker="c"), part("/begun", 2, last=False)])
    put_source(database, Source("/", "", "passages", {"is hidden": 3}, {"/x": "why"}), "/")
    return database


def held(path: Path) -> list[Any]:
    """All rows of an index that dumps keep, vectors and sign bits byte for byte."""
    with sqlite3.connect(path) as connection:
        found = [
            connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()
            for table in ("documents", "chunks", "vectors", "sources", "model")
        ]
        for columns in ("segment, documents, bits FROM sign_bits", "id, sz FROM words_docsize"):
            found.append(connection.execute(f"SELECT {columns}").fetchall())
    connection.close()
    return found


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("store", STORES)
def test_what_is_dumped_and_loaded_is_the_same(
    tiny_package: Path, tmp_path: Path, ending: str, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every document, chunk, span and vector, in each form, also where a document is in parts."""
    monkeypatch.setattr(contents, "PART_CHUNKS", 4)
    monkeypatch.setattr(parquet, "ROWS", 5)
    database = filled(tmp_path / "index.sqlite", tiny_package, store)
    steps: list[tuple[int, int]] = []
    file = tmp_path / f"dump{ending}"
    assert dump(database, file, lambda _, done, total: steps.append((done, total))) == 11
    assert steps[-1] == (11, 11)
    assert load(file, tmp_path / "new.sqlite", None, nothing) == 11
    new = Database(tmp_path / "new.sqlite")
    assert check(new) == []
    assert sources_of(new) == sources_of(database)
    database.close()
    new.close()
    assert held(tmp_path / "new.sqlite") == held(tmp_path / "index.sqlite")
    kept = {"index.sqlite", "new.sqlite", file.name}
    assert kept == {path.name for path in tmp_path.iterdir()} - {"index.sqlite-writer"}


def test_other_programs_read_a_dump(tiny_package: Path, tmp_path: Path) -> None:
    """JSON Lines with nothing but a JSON reader, Parquet with any: the vectors are numbers."""
    database = filled(tmp_path / "index.sqlite", tiny_package)
    for ending in ENDINGS:
        dump(database, tmp_path / f"dump{ending}", nothing)
    first, *lines = map(json.loads, (tmp_path / "dump.jsonl").read_text("utf-8").splitlines())
    assert first["model"]["name"] == "tiny-gemma"
    rows = pyarrow.parquet.read_table(tmp_path / "dump.parquet").to_pylist()
    assert len(rows) == len(lines) == 12
    for row, line in zip(rows, lines, strict=True):
        wanted = {**line, "vector": line["vector"] or [0] * 64}
        assert {**row, "metadata": json.loads(row["metadata"])} == wanted
    assert lines[0]["metadata"]["author"] == "Zoë"
    assert np.linalg.norm(lines[0]["vector"]) == pytest.approx(1, abs=1e-6)
    assert [line["vector"] for line in lines if line["path"] == "/empty"] == [None]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_dump_is_loaded_only_with_the_model_that_made_it(
    tiny_package: Path, tmp_path: Path, ending: str
) -> None:
    """Its fingerprint is checked; where the model is not here, that is told."""
    database = filled(tmp_path / "index.sqlite", tiny_package)
    file = tmp_path / f"dump{ending}"
    database.model = replace(database.model, package="/gone")
    dump(database, file, nothing)
    with pytest.raises(ModelNotFoundError, match=r"tiny-gemma in fp32.*--model"):
        Index.load(tmp_path / "new.sqlite", file)
    with pytest.raises(ModelMismatchError, match=r"not of kestrel in int8.*reembed"):
        Index.load(tmp_path / "new.sqlite", file, model="kestrel")
    assert not (tmp_path / "new.sqlite").exists()
    Index.load(tmp_path / "new.sqlite", file, model=tiny_package)
    with Index.open(tmp_path / "new.sqlite") as index:
        assert index.status().model.package == str(tiny_package)
        assert index.search("Zoë", mode="text")


@pytest.mark.parametrize(
    ("seen", "wanted", "message"),
    [
        ('"harrier_edge_dump":1', '"harrier_edge_dump":9', "format 9"),
        ('"model"', '"modell"', "not a dump"),
        ('"path":"/many"', '"path":7', "line 2 .*Expected `str`"),
        ('"vector":[', '"vector":[0.5,', "has 65 numbers; wanted 64"),
        ('"vector":[', '"vector":[9e9],"x":[', "has 1 numbers; wanted 64"),
        ('"text":"Zoë', '"tex":"Zoë', "has no text"),
        ('"digest":"', '"digest":"x', "digest"),
        ('"chunks":11', '"chunks":12', "it was cut"),
    ],
)
def test_a_damaged_dump_leaves_no_index(
    tiny_package: Path, tmp_path: Path, seen: str, wanted: str, message: str
) -> None:
    """Whatever is wrong is told, with its line where it has one."""
    database = filled(tmp_path / "index.sqlite", tiny_package)
    file = tmp_path / "dump.jsonl"
    dump(database, file, nothing)
    text = file.read_text("utf-8")
    assert seen in text
    file.write_text(text.replace(seen, wanted, 1), "utf-8")
    with pytest.raises(StoreError, match=message):
        load(file, tmp_path / "new.sqlite", None, nothing)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("new")] == []


def test_a_damaged_parquet_file_leaves_no_index(tiny_package: Path, tmp_path: Path) -> None:
    """One that was cut, one of another program, and one whose vectors are not of unit length."""
    database = filled(tmp_path / "index.sqlite", tiny_package)
    file = tmp_path / "dump.parquet"
    dump(database, file, nothing)
    whole = file.read_bytes()
    table = pyarrow.parquet.read_table(file)
    file.write_bytes(whole[:-100])
    with pytest.raises(StoreError, match="not a sound dump"):
        load(file, tmp_path / "new.sqlite", None, nothing)
    pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), file)
    with pytest.raises(StoreError, match="not a sound dump"):
        load(file, tmp_path / "new.sqlite", None, nothing)
    longer = [v and [2 * x for x in v] for v in table["vector"].to_pylist()]
    place = table.schema.get_field_index("vector")
    field = table.schema.field("vector")
    pyarrow.parquet.write_table(
        table.set_column(place, field, pyarrow.array(longer, field.type)), file
    )
    with pytest.raises(StoreError, match=r"length 2\.0000; wanted 1"):
        load(file, tmp_path / "new.sqlite", None, nothing)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("new")] == []


def test_the_commands_dump_and_load(
    tiny_package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They never overwrite, and say which endings there are."""
    filled(tmp_path / "index.sqlite", tiny_package).close()
    old, new = (["--db", str(tmp_path / name)] for name in ("index.sqlite", "new.sqlite"))
    file = str(tmp_path / "dump.parquet")
    assert main(["dump", file, *old]) == 0
    assert "11 chunks in" in capsys.readouterr().out
    assert main(["dump", file, *old]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["dump", str(tmp_path / "dump.csv"), *old]) == 2
    assert "'.csv'; wanted .jsonl or .parquet" in capsys.readouterr().err
    assert main(["load", file, *old]) == 1
    assert main(["load", file, *new]) == 0
    capsys.readouterr()
    assert main(["search", "Zoë", "--mode", "text", "--json", *new]) == 0
    assert json.loads(capsys.readouterr().out)[0]["path"] == "/many"


def test_without_pyarrow_parquet_is_refused_with_the_way(
    tiny_package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JSON Lines needs nothing more."""
    database = filled(tmp_path / "index.sqlite", tiny_package)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"harrier-edge\[parquet\].*\.jsonl"):
        dump(database, tmp_path / "dump.parquet", nothing)
    dump(database, tmp_path / "dump.jsonl", nothing)
    assert not (tmp_path / "dump.parquet").exists()


FULL = """
import resource, sys
from pathlib import Path
from harrier_edge.dumps.transfer import load
from harrier_edge.errors import StoreError
from harrier_edge.store.connection import Connection

prepare = Connection._prepare
def prepared(self, create):
    prepare(self, create)
    self._connection.wal_autocheckpoint(8)  # so that the file grows larger than its log
Connection._prepare = prepared
dump, path, package = map(Path, sys.argv[1:4])
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), resource.RLIM_INFINITY))
try:
    load(dump, path, package, lambda stage, done, total: None)
except StoreError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of resources")
def test_a_disk_that_fills_up_at_the_end_leaves_no_index(
    tiny_package: Path, tmp_path: Path
) -> None:
    """Also where only bringing the log into the file fails."""
    with Index.open(tmp_path / "first.sqlite", model=tiny_package) as index:
        for i in range(60):
            (tmp_path / f"{i}.txt").write_text(f"note {i} " + "word " * 300, "utf-8")
        index.add(list(tmp_path.glob("*.txt")))
        index.dump(tmp_path / "dump.jsonl")
    size = (tmp_path / "first.sqlite").stat().st_size
    told = 0
    for percent in (30, 60, 80, 90, 95, 99, 120):
        path = tmp_path / f"{percent}.sqlite"
        limit = str(size * percent // 100)
        command = [sys.executable, "-c", FULL, str(tmp_path / "dump.jsonl"), str(path)]
        run = subprocess.run([*command, str(tiny_package), limit], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        if run.stdout:
            assert "cannot be written" in run.stdout
            assert not path.exists()
            told += 1
        else:
            assert check(Database(path)) == []
    assert told == 6
