"""Indexing of real files end to end: chunks a second, the model's share, and what an update costs.

    PYTHONPATH=tests python benchmarks/indexing.py    # after `make bench-peers`; uses all cores

The share is measured with the stand-in for Harrier-270M in int8, in two ways: the time in which
the model ran within the wall time of `Index.add`, and the time that the same chunks take by
themselves, with nothing else going on. Updates are of 100,000 chunks of kestrel, the built-in
model, in as many files: nothing changed, and 1 % of them; and of the real folder, with nothing
changed, as the command. There are no peers: no other engine reads, cuts and embeds.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import passages
from evaluation import FOLDER, require_data
from report import finish, machine, print_table, versions
from standins.gemma3_270m import gemma3_270m
from standins.packages import cached_package

from harrier_edge import Embedder, Index
from harrier_edge.encoding import Embeddings

FILES = 120  # of the real folder, that the 270M indexes
FILE_BYTES = 6_000  # the longest of them
CHUNKS = 100_000
CHUNK_CHARACTERS = 80
CHANGED = 100  # one of so many is changed
RUNS = 5  # of a command; the median counts


class TimedEmbedder(Embedder):
    """An Embedder that keeps what it embeds and how long that takes."""

    seconds = 0.0

    def __init__(self, model: str | Path) -> None:
        super().__init__(model)
        self.texts: list[str] = []

    def embed(self, texts: Any, **options: Any) -> Embeddings:
        """As `Embedder.embed`."""
        start = time.perf_counter()
        try:
            return super().embed(texts, **options)
        finally:
            self.seconds += time.perf_counter() - start
            self.texts += texts


def real_folder(target: Path) -> Path:
    """The archives of the evaluation's folder, unpacked."""
    for archive in sorted(FOLDER.glob("folder-*.tar.gz")):
        with tarfile.open(archive) as tar:
            tar.extractall(target, filter="data")
    return target


def sample(folder: Path, target: Path) -> Path:
    """Some files of a folder, of all its kinds, side by side."""
    target.mkdir()
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    short = [path for path in files if path.stat().st_size <= FILE_BYTES]
    for number, path in enumerate(short[:: max(1, len(short) // FILES)][:FILES]):
        (target / f"{number}{path.suffix}").write_bytes(path.read_bytes())
    return target


def measure_share(folder: Path, index: Path, package: Path) -> dict[str, Any]:
    """One run of `Index.add` with the 270M, and the same chunks by themselves."""
    embedder = TimedEmbedder(package)
    embedder.encode_document(["a first text loads what is loaded late"] * 4)
    embedder.seconds, embedder.texts = 0.0, []
    with Index.open(index, model=embedder) as opened:
        start = time.perf_counter()
        report = opened.add(folder)
        wall = time.perf_counter() - start
    within, texts = embedder.seconds, embedder.texts
    start = time.perf_counter()
    for first in range(0, len(texts), 64):
        embedder.embed(texts[first : first + 64])
    alone = time.perf_counter() - start
    return {
        "files": report.added,
        "chunks": report.chunks,
        "tokens": report.tokens,
        "seconds": round(wall, 2),
        "chunks_per_second": round(report.chunks / wall, 2),
        "tokens_per_second": round(report.tokens / wall),
        "model_share": round(within / wall, 4),
        "model_alone_share": round(alone / wall, 4),
    }


def write_chunks(folder: Path, count: int) -> list[Path]:
    """Files of one short passage each, no two alike."""
    texts, _ = passages.draw()
    files = []
    for number in range(count):
        path = folder / f"{number // 1000:03}" / f"{number:06}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number}. {texts[number % len(texts)][:CHUNK_CHARACTERS]}\n", "utf-8")
        files.append(path)
    return files


def measure_update(folder: Path, index: Path, count: int) -> dict[str, Any]:
    """An index of `count` chunks: built, updated with nothing changed, then with 1 % changed."""
    files = write_chunks(folder, count)
    result: dict[str, Any] = {"update_chunks": count}
    with Index.open(index, model="kestrel") as opened:
        start = time.perf_counter()
        report = opened.add(folder)
        result["update_build_seconds"] = round(time.perf_counter() - start, 1)
        assert report.chunks + report.reused == count, report
        _tell(f"{count} chunks in {result['update_build_seconds']} s")
        start = time.perf_counter()
        opened.update()
        result["update_unchanged_seconds"] = round(time.perf_counter() - start, 2)
        for path in files[::CHANGED]:
            path.write_text(f"Changed. {path.read_text('utf-8')}", "utf-8")
        start = time.perf_counter()
        report = opened.update()
        seconds = time.perf_counter() - start
    assert report.chunks == report.changed == len(files[::CHANGED]), report
    return {
        **result,
        "update_1_percent_seconds": round(seconds, 2),
        "update_1_percent_chunks": report.chunks,
    }


def measure_command(folder: Path, index: Path) -> dict[str, Any]:
    """`harrier-edge update` over the real folder with nothing changed, in a process of its own."""
    program = str(Path(sys.executable).with_name("harrier-edge"))
    command = [program, "{}", "-q", "--db", str(index)]
    add, update = ([part.format(name) for part in command] for name in ("add", "update"))
    start = time.perf_counter()
    _run([*add, "-m", "kestrel", str(folder)])
    built = time.perf_counter() - start
    _tell(f"the real folder in {built:.0f} s")
    seconds = []
    for _ in range(1 + RUNS):
        start = time.perf_counter()
        out = _run(update)
        seconds.append(time.perf_counter() - start)
    return {
        "folder_files": sum(path.is_file() for path in folder.rglob("*")),
        "folder_build_seconds": round(built, 1),
        "folder_update_seconds": round(sorted(seconds[1:])[RUNS // 2], 2),
        "folder_update": out.splitlines()[0],
    }


def _run(command: list[str]) -> str:
    """What a command prints; exit code 1 only says that some file cannot be read."""
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode > 1 or not run.stdout:
        raise SystemExit(f"{' '.join(command)}: exit code {run.returncode}\n{run.stderr}")
    return run.stdout


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Measure, then print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=CHUNKS, help="of the index that is updated")
    parser.add_argument("--package", type=Path, help="instead of the stand-in for the 270M")
    args = parser.parse_args()
    require_data()
    package = args.package or cached_package(gemma3_270m(), "int8")
    with tempfile.TemporaryDirectory() as name:
        work = Path(name).resolve()
        os.environ["HARRIER_EDGE_CACHE_DIR"] = str(work / "cache")
        folder = real_folder(work / "folder")
        result = measure_share(sample(folder, work / "sample"), work / "share.sqlite", package)
        _tell(f"model's share {result['model_share']}, {result['chunks_per_second']} chunks/s")
        result |= measure_command(folder, work / "folder.sqlite")
        result |= measure_update(work / "chunks", work / "update.sqlite", args.chunks)
    print_table(["", "value"], [[name, value] for name, value in result.items()])
    used = versions("onnxruntime", "numpy", "apsw")
    result = {**machine(), **used, "load": round(os.getloadavg()[0], 2), **result}
    finish("indexing", result, keep=args.chunks == CHUNKS and not args.package)


if __name__ == "__main__":
    main()
