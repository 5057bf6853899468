"""A contender's process, as seen from the benchmark."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protocol import Ids

MB = 10**6  # bytes
PAUSE_SECONDS = 0.05  # before a turn: the threads of who was last stop spinning


class EndedError(Exception):
    """A contender's process has ended: it lacks something, or failed."""


@dataclass(frozen=True)
class Files:
    """What a contender runs from."""

    path: Path
    disk_mb: float


def make_files(name: str, checkpoint: Path) -> Files:
    """Have a contender make its files, if they are not there yet. Raises EndedError."""
    run = subprocess.run(_command("files", name, checkpoint), capture_output=True, check=False)
    if run.returncode:
        raise EndedError(_last_words(run.stderr, run.returncode))
    made = json.loads(run.stdout)
    return Files(Path(made["files"]), made["disk_mb"])


class Process:
    """A loaded contender."""

    def __init__(self, name: str, checkpoint: Path, files: Path) -> None:
        """Start it and wait until it has embedded a first text. Raises EndedError."""
        self.name = name
        # Not a pipe, which a talkative peer would fill until it blocks.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            _command("run", name, checkpoint, files),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
        )
        loaded = self._answer()
        self.load_s: float = loaded["load_s"]
        self.rss_mb: float = loaded["rss_mb"]
        self.peak_mb: float = loaded["peak_mb"]

    def run(self, texts: Ids, batch: int = 1, *, vectors: bool = False) -> dict[str, Any]:
        """Embed `texts`, `batch` at a time. Raises EndedError."""
        assert self._process.stdin
        job = json.dumps({"texts": texts, "batch": batch, "vectors": vectors})
        with suppress(BrokenPipeError):  # its last words are read below
            self._process.stdin.write(job.encode() + b"\n")
            self._process.stdin.flush()
        answer = self._answer()
        self.rss_mb, self.peak_mb = answer["rss_mb"], answer["peak_mb"]
        return answer

    @property
    def anonymous_mb(self) -> float:
        """What it holds now that no file backs, so that no other process can share it; Linux."""
        text = Path(f"/proc/{self._process.pid}/smaps_rollup").read_text("ascii")
        (kib,) = (line.split()[1] for line in text.splitlines() if line.startswith("Anonymous:"))
        return int(kib) * 1024 / MB

    def seconds(self, texts: Ids, batch: int) -> float:
        """How long `texts` take, `batch` at a time. Raises EndedError."""
        time.sleep(PAUSE_SECONDS)
        seconds: float = self.run(texts, batch)["seconds"]
        return seconds

    def close(self) -> None:
        """End the process."""
        with suppress(BrokenPipeError):
            self._process.communicate()
        self._stderr.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            self._stderr.seek(0)
            raise EndedError(_last_words(self._stderr.read(), status))
        answer: dict[str, Any] = json.loads(line)
        return answer


def _command(task: str, name: str, *paths: Path) -> list[str]:
    program = Path(__file__).with_name("contenders.py")
    return [sys.executable, str(program), task, name, *map(str, paths)]


def _last_words(stderr: bytes, status: int) -> str:
    """The exception, if it was one; else what it said last, and how it ended."""
    lines = [line for line in stderr.decode(errors="replace").splitlines() if line.strip()]
    ended = f"exit status {status}" if status >= 0 else f"signal {-status}"
    return f"{lines[-1].strip()[:300] if lines else 'it said nothing'} ({ended})"
