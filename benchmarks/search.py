"""Search in stored vectors: time, recall, memory and size, against other engines, in one run.

The vectors are real: 60,000 passages of many languages and 1,000 questions, embedded once by the
stand-in for Harrier-270M (640 dimensions). Larger sizes add neighbours of them: a real vector with
noise of half its length. Recall is of the true ten nearest, on the real ones alone.

    PYTHONPATH=tests python benchmarks/search.py --build    # once: minutes, gigabytes of disk
    PYTHONPATH=tests python benchmarks/search.py            # then: what is timed
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import passages
import psutil
from passages import Vectors
from report import finish, machine, print_table, versions
from search_peers import PEERS
from standins.folder import cache

from harrier_edge.store.connection import StoredModel
from harrier_edge.store.database import Database
from harrier_edge.store.filters import parse_filters
from harrier_edge.store.rows import ChunkRow, Part

SIZES = (10_000, 100_000, 1_000_000, 3_000_000)
PEER_SIZE = 1_000_000
CHUNKS = 10  # of a document
COLLECTIONS = 100  # so that one holds 1 % of the documents
TOP = 10
QUERIES = 60  # that are timed
RECALL_QUERIES = 200
CURVE = (20, 50, 100, 200, 400)
BATCH = 500  # documents that are written in one transaction


def vectors_of(size: int) -> Vectors:
    """The first of them are real, the others neighbours of real ones: (size, 640) float32."""
    real, _ = passages.vectors()
    if size <= len(real):
        return real[:size]
    random = np.random.default_rng(0)
    dimension = real.shape[1]
    made = np.empty((size, dimension), np.float32)
    made[: len(real)] = real
    for start in range(len(real), size, 50_000):
        part = made[start : start + 50_000]
        part[:] = random.standard_normal(part.shape, np.float32)
        part *= 0.5 * dimension**-0.5
        part += real[random.integers(0, len(real), len(part))]
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return made


def index_path(size: int) -> Path:
    """Where the index of so many vectors is kept."""
    return cache() / "search" / f"ours-{size}.sqlite"


def build(size: int, vectors: Vectors) -> float:
    """Write an index through the store, batch by batch; returns the seconds that took."""
    path = index_path(size)
    path.parent.mkdir(parents=True, exist_ok=True)
    for file in path.parent.glob(path.name + "*"):
        file.unlink()
    start = time.perf_counter()
    model = StoredModel("stand-in", "0" * 64, passages.PRECISION, vectors.shape[1], "none")
    database = Database(path, create=model)
    rows = [ChunkRow(i, i + 1, i + 1, f"passage {i}") for i in range(CHUNKS)]
    count = size // CHUNKS
    for first in range(0, count, BATCH):
        parts = [
            Part(
                f"/{number}.txt",
                "",
                "",
                rows,
                vectors[number * CHUNKS : (number + 1) * CHUNKS],
                True,
                collection=str(number % COLLECTIONS),
            )
            for number in range(first, min(first + BATCH, count))
        ]
        database.write(parts)
    database.close()
    return time.perf_counter() - start


def times(search: Callable[[Vectors], object], queries: Vectors) -> tuple[float, float]:
    """The median and the 99th percentile of a search, in ms."""
    for query in queries[:3]:
        search(query)
    taken = []
    for query in queries[:QUERIES]:
        start = time.perf_counter()
        search(query)
        taken.append((time.perf_counter() - start) * 1e3)
    return round(float(np.percentile(taken, 50)), 2), round(float(np.percentile(taken, 99)), 2)


def recalls(database: Database, queries: Vectors, conditions: list[str]) -> dict[int, float]:
    """The share of the true ten nearest that is found, by candidates."""
    within = parse_filters(conditions)
    found: dict[int, list[float]] = {count: [] for count in CURVE}
    for query in queries:
        true = {one.chunk for one in database.nearest(query, TOP, exact=True, within=within)}
        for count, shares in found.items():
            best = database.nearest(query, TOP, candidates=count, within=within)
            shares.append(len(true & {one.chunk for one in best}) / len(true))
    return {count: round(float(np.mean(shares)), 4) for count, shares in found.items()}


def opened(size: int) -> dict[str, float]:
    """In a process of its own: the time to the first answer, and what that adds to its memory."""
    run = subprocess.run(
        [sys.executable, __file__, "--open", str(size)], capture_output=True, text=True, check=True
    )
    result: dict[str, float] = json.loads(run.stdout)
    return result


def open_one(size: int) -> None:
    """What `opened` runs: open the index and answer once, the query's vector given."""
    query = np.load(cache() / "search" / "query.npy")
    before = _resident_mb()
    start = time.perf_counter()
    database = Database(index_path(size))
    database.nearest(query, TOP)
    seconds = time.perf_counter() - start
    for _ in range(5):
        database.nearest(query, TOP)
    # SQLite's own cache may grow to 2 MB by default.
    grown = _resident_mb() - before
    print(json.dumps({"open_seconds": round(seconds, 3), "memory_mb": round(grown, 1)}))


def _resident_mb() -> float:
    """The memory that this process has now."""
    return float(psutil.Process().memory_info().rss) / 2**20


def measure_ours(size: int, queries: Vectors) -> dict[str, Any]:
    """All figures of one size."""
    database = Database(index_path(size))
    one_percent = parse_filters(["collection=7"])
    p50, p99 = times(lambda query: database.nearest(query, TOP), queries)
    f50, f99 = times(lambda query: database.nearest(query, TOP, within=one_percent), queries)
    database.close()
    return {
        f"p50_ms_{size}": p50,
        f"p99_ms_{size}": p99,
        f"p50_ms_{size}_filtered": f50,
        f"p99_ms_{size}_filtered": f99,
        **{f"{name}_{size}": value for name, value in opened(size).items()},
        f"disk_mb_{size}": round(index_path(size).stat().st_size / 1e6),
    }


def measure_recall(queries: Vectors) -> dict[str, Any]:
    """On the real vectors alone, within no filter and within one that keeps 1 %."""
    database = Database(index_path(passages.PASSAGES))
    result: dict[str, Any] = {"recall_vectors": passages.PASSAGES}
    for name, conditions in (("", []), ("_filtered", ["collection=7"])):
        curve = recalls(database, queries[:RECALL_QUERIES], conditions)
        result[f"recall_at_10{name}"] = curve[100]
        result |= {f"recall_at_10_candidates_{n}{name}": value for n, value in curve.items()}
    database.close()
    return result


def measure_peers(size: int, queries: Vectors, only: list[str]) -> dict[str, Any]:
    """Median times of the others on the same vectors, and how long they took to build."""
    vectors = vectors_of(size)
    result: dict[str, Any] = {}
    for name, make in PEERS.items():
        if only and name not in only:
            continue
        start = time.perf_counter()
        try:
            peer = make(vectors, cache() / "search" / f"{name}-{size}")
        except ImportError as error:
            print(f"{name}: left out, {error}", file=sys.stderr)
            continue
        seconds = time.perf_counter() - start
        p50, p99 = times(lambda query, peer=peer: peer(query, TOP), queries[: QUERIES // 3])  # type: ignore[misc]
        result |= {
            f"{name}_p50_ms_{size}": p50,
            f"{name}_p99_ms_{size}": p99,
            f"{name}_build_seconds_{size}": round(seconds, 1),
        }
        print(f"{name}: {p50} ms", file=sys.stderr, flush=True)
        del peer
    return result


def main() -> None:
    """Build, or measure and print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", action="store_true", help="make the indexes, measure nothing")
    parser.add_argument("--open", type=int, metavar="SIZE", help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--peers", nargs="*", default=None, help="only these; none for no peers")
    args = parser.parse_args()
    if args.open:
        open_one(args.open)
        return
    sizes = [*args.sizes, passages.PASSAGES]
    built = cache() / "search" / "build.json"
    if args.build:
        seconds = json.loads(built.read_text()) if built.exists() else {}
        for size in sizes:
            seconds[f"build_seconds_{size}"] = round(build(size, vectors_of(size)), 1)
            built.write_text(json.dumps(seconds))
            print(size, seconds, file=sys.stderr, flush=True)
        return
    _, queries = passages.vectors()
    np.save(cache() / "search" / "query.npy", queries[0])
    result: dict[str, Any] = dict(json.loads(built.read_text()))
    for size in args.sizes:
        result |= measure_ours(size, queries)
    result |= measure_recall(queries)
    peer_size = max(size for size in args.sizes if size <= PEER_SIZE)
    if args.peers is None or args.peers:
        result |= measure_peers(peer_size, queries, args.peers or [])
        ours = result[f"p50_ms_{peer_size}"]
        for key, name, over in (
            ("sqlite_vec_over_ours", "sqlite_vec_float32", True),
            ("ours_over_faiss_binary", "faiss_binary", False),
        ):
            if theirs := result.get(f"{name}_p50_ms_{peer_size}"):
                result[key] = round(theirs / ours if over else ours / theirs, 2)
    print_table(["", "value"], [[name, value] for name, value in result.items()])
    used = versions("numpy", "apsw", "sqlite-vec", "faiss-cpu", "usearch", "hnswlib", "lancedb")
    result = {**machine(), **used, "load": round(os.getloadavg()[0], 2), **result}
    finish("search", result, keep=args.peers is None)


if __name__ == "__main__":
    main()
