"""The command: exit codes, JSON fields, and what goes to which stream."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harrier_edge import Embedder, Index, cli
from harrier_edge.cli import main


@pytest.fixture
def database(
    tmp_path: Path, tiny_package: Path, capsys: pytest.CaptureFixture[str]
) -> tuple[str, str]:
    """`--db` of an index of two notes."""
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "birds.md").write_text("# Birds\n\nThe harrier hunts low.\n", "utf-8")
    (notes / "trees.md").write_text("# Trees\n\nOaks grow slowly.\n", "utf-8")
    options = ("--db", str(tmp_path / "index.sqlite"))
    assert main(["add", *options, "-m", str(tiny_package), str(notes)]) == 0
    assert "2 added, 0 changed, 0 removed, 0 unchanged; 2 chunks" in capsys.readouterr().out
    return options


def output(capsys: pytest.CaptureFixture[str]) -> Any:
    """Standard output as JSON; nothing may be on standard error."""
    captured = capsys.readouterr()
    assert captured.err == ""
    return json.loads(captured.out)


def test_a_hit_has_the_promised_fields(
    database: tuple[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Programs read id, score, path, line, title, snippet and metadata."""
    assert main(["search", *database, "--json", "-n", "1", "--mode", "text", "harrier"]) == 0
    (hit,) = output(capsys)
    assert {"id", "score", "path", "line", "title", "snippet", "metadata"} <= hit.keys()
    assert hit["path"] == str(tmp_path / "notes" / "birds.md")
    assert (hit["line"], hit["title"], hit["metadata"]) == (1, "Birds", {})
    assert main(["search", *database, "--jsonl", "harrier", "hunts"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {json.loads(line)["title"] for line in lines} == {"Birds", "Trees"}


def test_a_process_prints_all_before_it_ends(database: tuple[str, str], tmp_path: Path) -> None:
    """A search ends at once: what it said is whole, through a pipe too, and so is the exit code."""

    def search(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "harrier_edge", "search", *options, "--json", "harrier"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    found = search(*database)
    assert (found.returncode, found.stderr) == (0, "")
    assert {hit["title"] for hit in json.loads(found.stdout)} == {"Birds", "Trees"}
    failed = search("--db", str(tmp_path / "none.sqlite"))
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "no such index" in failed.stderr


def test_a_person_sees_place_and_passage(
    database: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """File and line can be clicked, and the passage stands below."""
    assert main(["search", *database, "--mode", "text", "harrier"]) == 0
    out = capsys.readouterr().out
    assert "birds.md:1  Birds" in out
    assert "      The harrier hunts low." in out


def test_no_hit_is_no_failure(
    database: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The answer is an empty list."""
    assert main(["search", *database, "--json", "--mode", "text", "penguin"]) == 0
    assert output(capsys) == []
    assert main(["search", *database, "--json", "--min-score", "2", "harrier"]) == 0
    assert output(capsys) == []


def test_the_instruction_can_be_changed(
    database: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """--instruct and --prompt-name reach the model; two at once are wrong usage."""
    ask = ["search", *database, "--json", "--mode", "vector", "harrier"]
    answers = []
    for extra in (
        [],
        ["--instruct", "Retrieve semantically similar text"],
        ["--prompt-name", "sts_query"],
    ):
        assert main([*ask, *extra]) == 0
        answers.append(output(capsys))
    assert answers[0] != answers[1] == answers[2]
    assert main([*ask, "--prompt-name", "nope"]) == 2
    assert "'nope' is unknown to this model; it has: bitext_query" in capsys.readouterr().err


def test_status_tells_the_model_and_the_counts(
    database: tuple[str, str], capsys: pytest.CaptureFixture[str], tiny_package: Path
) -> None:
    """For people and for programs, without loading the model."""
    assert main(["status", *database, "--json"]) == 0
    status = output(capsys)
    assert (status["documents"], status["incomplete"], status["chunks"]) == (2, 0, 2)
    assert status["model"]["name"] == "tiny-gemma"
    assert status["model"]["package"] == str(tiny_package)
    assert main(["status", *database]) == 0
    assert "tiny-gemma in fp32, 64 dimensions" in capsys.readouterr().out


def test_remove_tells_how_many(
    database: tuple[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """What is not there is none."""
    assert main(["remove", *database, "--json", str(tmp_path / "notes" / "birds.md")]) == 0
    assert output(capsys) == {"removed": 1}
    assert main(["remove", *database, str(tmp_path / "nowhere")]) == 0
    assert capsys.readouterr().out == "0 documents removed\n"


def test_a_partly_done_run_is_a_failure(
    database: tuple[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The readable files are indexed, the other is named, and the code is 1."""
    (tmp_path / "notes" / "broken.md").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "notes" / "new.md").write_text("new", "utf-8")
    assert main(["add", *database, "--json", str(tmp_path / "notes")]) == 1
    captured = capsys.readouterr()
    assert "failed" in captured.err
    assert "broken.md" in captured.err
    report = json.loads(captured.out)
    assert (report["added"], report["unchanged"], len(report["failed"])) == (1, 2, 1)


def test_update_follows_what_was_added(
    database: tuple[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """New, changed and gone files; what is passed over is counted here and in the status."""
    notes = tmp_path / "notes"
    (notes / "birds.md").unlink()
    (notes / "new.md").write_text("new", "utf-8")
    (notes / "picture.png").write_bytes(b"\x89PNG")
    assert main(["update", *database, "--json"]) == 0
    report = output(capsys)
    assert [report[k] for k in ("added", "changed", "removed", "unchanged")] == [1, 0, 1, 1]
    assert report["skipped"] == {"binary": 1}
    assert main(["update", *database, str(notes)]) == 0
    assert "0 added, 0 changed, 0 removed, 2 unchanged" in capsys.readouterr().out
    assert main(["status", *database]) == 0
    assert f"{notes}; skipped: 1 binary" in capsys.readouterr().out
    assert main(["update", *database, str(tmp_path / "nowhere")]) == 2
    assert "is not indexed" in capsys.readouterr().err
    (notes / "new.md").unlink()
    (notes / "trees.md").unlink()
    (notes / "picture.png").unlink()
    notes.rmdir()
    assert main(["update", *database]) == 1
    assert "is gone; bring it back" in capsys.readouterr().err


def test_embed_gives_a_line_a_text(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tiny_package: Path,
    tiny_embedder: Embedder,
) -> None:
    """Texts come as arguments or as lines on stdin; queries get their instruction."""
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo words\n"))
    monkeypatch.setenv("HARRIER_EDGE_MODEL", str(tiny_package))
    assert main(["embed"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in rows] == ["one", "two words"]
    assert all(row["cut_tokens"] == 0 < row["tokens"] for row in rows)
    vectors = np.array([row["embedding"] for row in rows], np.float32)
    assert np.array_equal(vectors, tiny_embedder.encode(["one", "two words"]))
    assert main(["embed", "--json", "--query", "one"]) == 0
    (row,) = output(capsys)
    query = tiny_embedder.encode_query("one")
    assert np.array_equal(np.array(row["embedding"], np.float32), query)
    assert main(["embed", "--instruct", "Find birds", "one"]) == 2
    assert "add --query" in capsys.readouterr().err


def test_export_prints_the_manifest(
    capsys: pytest.CaptureFixture[str], tiny_gemma: Path, tmp_path: Path
) -> None:
    """With --json for programs; without, the facts that matter to a person."""
    target = tmp_path / "package"
    command = ["export", str(tiny_gemma), "-o", str(target), "--no-verify", "--name", "mine"]
    command += ["--memory", "2GB"]
    assert main([*command, "--json"]) == 0
    result = output(capsys)
    assert (result["folder"], result["name"]) == (str(target), "mine")
    assert result["precision"]["name"] == "int8"
    assert result["files"]["model.onnx"]["size"] == (target / "model.onnx").stat().st_size
    assert main([*command, "--overwrite", "--precision", "int4", "--no-calibrate"]) == 0
    told = capsys.readouterr().out
    assert "mine in int4" in told
    assert "not measured (--no-verify)" in told
    assert main(command) == 1
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["search", "--db", "nowhere.sqlite", "a"], 1, "no such index"),
        (["add", "--db", "new.sqlite", "-m", "nope", "."], 1, "no model package 'nope'"),
        (["bench"], 2, "which model?"),
        (["bench", "-m", "nope"], 1, "no model package 'nope'"),
        (["export", "nowhere", "-o", "out"], 1, "no such folder"),
        (["search", "--db", "nowhere.sqlite", "--mode", "fuzzy", "a"], 2, "invalid choice"),
        ([], 2, "required"),
    ],
)
def test_failures_and_wrong_usage_have_codes_of_their_own(
    arguments: list[str],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """1 for an expected failure, 2 for wrong usage, the message on stderr, no traceback."""
    monkeypatch.chdir(tmp_path)
    try:
        seen = main(arguments)
    except SystemExit as left:  # argparse
        assert isinstance(left.code, int)
        seen = left.code
    captured = capsys.readouterr()
    assert seen == code
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_bugs_and_interruptions_look_different(
    database: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """3 with a traceback for a bug, 130 with a promise for Ctrl-C."""

    def fail(error: BaseException) -> Any:
        def status(self: Index) -> None:
            raise error

        return status

    monkeypatch.setattr(Index, "status", fail(ZeroDivisionError()))
    assert main(["status", *database]) == 3
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setattr(Index, "status", fail(KeyboardInterrupt()))
    assert main(["status", *database]) == 130
    assert "what was committed is kept" in capsys.readouterr().err


def test_the_index_of_a_project_is_found(
    tmp_path: Path, tiny_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --db: the variable, else .harrier in a folder above, else the user's."""
    from harrier_edge.places import index_file

    project = tmp_path / "project"
    inner = project / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert index_file().parts[-2:] == ("harrier-edge", "index.sqlite")
    Index.open(project / ".harrier" / "index.sqlite", model=tiny_package).close()
    assert index_file() == project / ".harrier" / "index.sqlite"
    monkeypatch.setenv("HARRIER_EDGE_DB", str(tmp_path / "mine.sqlite"))
    assert index_file() == tmp_path / "mine.sqlite"


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """--help works for each, and --version tells the release."""
    for name in cli.COMMANDS:
        with pytest.raises(SystemExit) as left:
            main([name, "--help"])
        assert left.value.code == 0
        assert name in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.startswith("harrier-edge 0.")


def test_files_and_pipes_are_utf_8(tmp_path: Path) -> None:
    """Whatever the system's own encoding is; what is not UTF-8 is named, and nothing is printed."""

    def embed(given: bytes, *texts: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "harrier_edge", "embed", "-m", "kestrel", *texts]
        latin = {**os.environ, "PYTHONIOENCODING": "latin-1"}
        return subprocess.run(command, cwd=tmp_path, input=given, capture_output=True, env=latin)

    for done in (embed("日本語 café\n".encode()), embed(b"", "日本語 café")):
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.decode("utf-8"))["text"] == "日本語 café"
    failed = embed(b"tea\ncaf\xe9\n")
    assert (failed.returncode, failed.stdout) == (2, b"")
    assert b"text 2 has b'\\xe9' at character 4; wanted UTF-8" in failed.stderr


def test_a_terminal_keeps_its_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it does not have is a question mark; a stream without an encoding is let alone."""
    shown = io.BytesIO()
    terminal = io.TextIOWrapper(shown, encoding="latin-1")
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(sys, "stdin", None)
    cli._speak_utf8()
    print("é日", end="", flush=True)
    assert shown.getvalue() == b"\xe9?"


@pytest.mark.parametrize(
    ("options", "level"),
    [
        ([], logging.WARNING),
        (["-v"], logging.DEBUG),
        (["-q"], logging.ERROR),
        (["-qq"], logging.ERROR),
        (["-q", "-v"], logging.WARNING),
    ],
)
def test_quiet_twice_is_no_louder(
    options: list[str], level: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """-q and -v make up for each other."""
    seen: list[int] = []
    monkeypatch.setattr(logging, "basicConfig", lambda **given: seen.append(given["level"]))
    main(["status", "--db", str(tmp_path / "none.sqlite"), *options])
    assert seen == [level]
