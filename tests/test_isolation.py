"""The command for a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harrier_edge.isolation import in_own_process, python_command


def test_a_process_imports_what_this_one_does_but_nothing_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the working folder is named; what PYTHONPATH or pip's --user brought is found."""
    here, library = tmp_path / "here", tmp_path / "Bücher"
    for folder in (here, library):
        folder.mkdir()
        (folder / "whose.py").write_text(f"name = {folder.name!a}\n", "utf-8")
    (here / "linecache.py").write_text("raise SystemExit(9)\n", "utf-8")
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", ["", ".", str(Path.cwd()), str(library), *sys.path])
    program = "import harrier_edge, warnings, whose; warnings.warn(''); print(whose.name, sys.argv)"
    run = subprocess.run(python_command(program, "ä"), capture_output=True, check=False)
    assert (run.returncode, run.stderr) == (0, b"")
    assert run.stdout.decode() == "Bücher ['-c', 'ä']" + os.linesep


def test_work_in_its_own_process_runs_no_code_of_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """And what a library prints there does no harm to its answer."""
    for name in ("signal", "pickle", "linecache", "harrier_edge"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(9)\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    assert in_own_process(sorted, [3, 1, 2]) == [1, 2, 3]
    assert in_own_process(print, "said by a library") is None
    assert "said by a library" in capfd.readouterr().err
