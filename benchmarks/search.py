"""Search in stored vectors: time, recall, memory and size, against other engines, in one run.

Recall is of the true ten nearest among 60,000 real passages of many languages, embedded by kestrel
in its 384 dimensions. What is timed has 640 dimensions, as Harrier-270M's: the same vectors, turned
into that space, and neighbours of them (a real vector with noise of half its length). One index
grows through all sizes, as a user's does, and is timed at each; its recall there is of the vectors
that are timed, of which those with noise lie closer together than real ones do. Each peer has a
process of its own and a time limit; what would not be built in it is told and left out.

    PYTHONPATH=tests python benchmarks/search.py      # 13 GB of disk while it runs
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import passages
import psutil
from report import finish, machine, print_table, versions
from search_peers import PEERS, times
from standins.folder import cache

from harrier_edge.searching import Hit, SearchOptions, search
from harrier_edge.store.connection import StoredModel
from harrier_edge.store.database import Database
from harrier_edge.store.rows import ChunkRow, Part
from harrier_edge.store.scan import default_candidates
from harrier_edge.vectors import Vectors

SIZES = (10_000, 100_000, 1_000_000, 3_000_000)
PEER_SIZES = (100_000, 1_000_000)
PEER_SECONDS = {100_000: 60.0, 1_000_000: 120.0}  # to be built and timed in
DIMENSION = 640
CHUNKS = 10  # of a document
COLLECTIONS = 100  # so that one holds 1 % of the documents
ONE_PERCENT = ["collection=7"]
TOP = 10
QUERIES = 100  # that are timed
RECALL_QUERIES = 500
CURVE = (100, 150, 200, 300, 400)
STEP = 5_000  # vectors that are made and written together
OPENS = 3  # processes that open the index; the median counts


def made(size: int) -> Iterator[Vectors]:
    """Vectors of unit length (STEP, 640) until there are `size`, always the same."""
    real, turn = passages.vectors()[0], _turn()
    for start in range(0, size, STEP):
        if start < len(real):
            yield (real[start : start + STEP] @ turn)[: size - start]
            continue
        random = np.random.default_rng(start)
        part = random.standard_normal((min(STEP, size - start), DIMENSION), np.float32)
        part *= 0.5 * DIMENSION**-0.5
        part += real[random.integers(0, len(real), len(part))] @ turn
        yield part / np.linalg.norm(part, axis=1, keepdims=True)


def _turn() -> Vectors:
    """A matrix (384, 640) that takes real vectors to the larger space and keeps all angles."""
    dimension = passages.vectors()[0].shape[1]
    square = np.random.default_rng(0).standard_normal((DIMENSION, dimension))
    return np.linalg.qr(square)[0].T.astype(np.float32)


def folder() -> Path:
    """Where all that is made for this stands."""
    return cache() / "search"


def new_index(path: Path, dimension: int) -> Database:
    """An empty index at `path`, in place of what is there."""
    for file in path.parent.glob(path.name + "*"):
        file.unlink()
    return Database(path, create=StoredModel("model", "0" * 64, "int8", dimension, "none"))


def write(database: Database, first: int, vectors: Vectors) -> None:
    """Write vectors from number `first` on, ten to a document."""
    rows = [ChunkRow(i, i + 1, i + 1, f"passage {i}") for i in range(CHUNKS)]
    parts = [
        Part(
            f"/{number}.txt",
            "",
            "",
            rows,
            vectors[at : at + CHUNKS],
            True,
            collection=str(number % COLLECTIONS),
        )
        for at in range(0, len(vectors), CHUNKS)
        for number in [(first + at) // CHUNKS]
    ]
    database.write(parts)


def find(
    database: Database,
    query: Vectors,
    filters: list[str] | None = None,
    candidates: int | None = None,
    *,
    every_chunk: bool = False,
) -> list[Hit]:
    """What `Index.search` does once a query has its vector, to the passages that are shown."""
    options = SearchOptions(
        mode="vector", filters=filters or [], candidates=candidates, every_chunk=every_chunk
    )
    return search(database, lambda _: query, "", TOP, options)


def recall(
    database: Database,
    queries: Vectors,
    nearest: list[list[int]],
    filters: list[str] | None = None,
    candidates: int | None = None,
) -> float:
    """The mean share of the true nearest, given by their ids for each query, that is found."""
    shares = []
    for query, true in zip(queries, nearest, strict=False):
        hits = find(database, query, filters, candidates, every_chunk=True)
        shares.append(len({hit.id for hit in hits} & set(true)) / len(true))
    return round(float(np.mean(shares)), 4)


def measure_recall() -> dict[str, Any]:
    """On the real vectors alone, within no filter and within one that keeps 1 %."""
    vectors, queries = passages.vectors()
    path = folder() / "real.sqlite"
    database = new_index(path, vectors.shape[1])
    for start in range(0, len(vectors), STEP):
        write(database, start, vectors[start : start + STEP])
    ids = np.arange(1, len(vectors) + 1)
    result: dict[str, Any] = {
        "recall_vectors": len(vectors),
        "recall_dimensions": vectors.shape[1],
        "candidates": default_candidates(vectors.shape[1]),
    }
    kept = (ids - 1) // CHUNKS % COLLECTIONS == 7
    for name, filters, mask in (("", [], ids > 0), ("_filtered", ONE_PERCENT, kept)):
        products = queries[:RECALL_QUERIES] @ vectors[mask].T
        nearest = ids[mask][np.argpartition(-products, TOP, axis=1)[:, :TOP]].tolist()
        for candidates in (None, *CURVE):
            key = f"recall_at_10{name}" + (f"_candidates_{candidates}" if candidates else "")
            result[key] = recall(database, queries, nearest, filters, candidates)
            _tell(f"{key}: {result[key]}")
    database.close()
    path.unlink()
    return result


def opened(path: Path) -> dict[str, float]:
    """In processes of their own: the time to the first answer, and what that adds to memory."""
    runs = [
        json.loads(subprocess.check_output([sys.executable, __file__, "--open", str(path)]))
        for _ in range(1 + OPENS)
    ][1:]
    return {name: float(np.median([run[name] for run in runs])) for name in runs[0]}


def open_one(path: Path) -> None:
    """What `opened` runs: open the index and answer, the query's vector given."""
    query = np.load(folder() / "queries.npy")[0]
    before = _resident_mb()
    start = time.perf_counter()
    database = Database(path)
    find(database, query)
    seconds = time.perf_counter() - start
    for _ in range(5):
        find(database, query)
    # SQLite's own cache may grow to 2 MB by default.
    grown = _resident_mb() - before
    print(json.dumps({"open_seconds": round(seconds, 3), "memory_mb": round(grown, 1)}))


def _resident_mb() -> float:
    """The memory that this process has now."""
    return float(psutil.Process().memory_info().rss) / 2**20


def measure_ours(sizes: list[int], queries: Vectors) -> dict[str, Any]:
    """An index that grows through `sizes`, in rising order, and all figures of each."""
    path = folder() / "ours.sqlite"
    database = new_index(path, DIMENSION)
    result: dict[str, Any] = {}
    written, seconds = 0, 0.0
    # The true ten's products and ids: (2, queries, 10).
    nearest: npt.NDArray[np.float64] = np.zeros((2, len(queries), 0))
    for vectors in made(max(sizes)):
        start = time.perf_counter()
        write(database, written, vectors)
        seconds += time.perf_counter() - start
        ids = np.broadcast_to(
            np.arange(1, 1 + len(vectors)) + written, (len(queries), len(vectors))
        )
        nearest = np.concatenate([nearest, [queries @ vectors.T, ids]], axis=2)
        order = np.argpartition(-nearest[0], TOP, axis=1)[None, :, :TOP]
        nearest = np.take_along_axis(nearest, order, axis=2)
        written += len(vectors)
        if written not in sizes:
            continue
        result[f"build_seconds_{written}"] = round(seconds, 1)
        p50, p99 = times(lambda query: find(database, query), queries)
        f50, f99 = times(lambda query: find(database, query, ONE_PERCENT), queries)
        result |= {
            f"p50_ms_{written}": p50,
            f"p99_ms_{written}": p99,
            f"p50_ms_{written}_filtered": f50,
            f"p99_ms_{written}_filtered": f99,
            f"recall_at_10_{written}": recall(database, queries, nearest[1].tolist()),
            **{f"{name}_{written}": value for name, value in opened(path).items()},
            f"disk_mb_{written}": round(path.stat().st_size / 1e6),
        }
        _tell(
            f"{written}: {p50} ms, filtered {f50} ms, built in {seconds:.0f} s, "
            f"recall {result[f'recall_at_10_{written}']}"
        )
    database.close()
    path.unlink()
    return result


def measure_peers(sizes: list[int], only: list[str]) -> dict[str, Any]:
    """Times of the others on the same vectors, and how long they took to build."""
    result: dict[str, Any] = {}
    build: dict[str, float] = {}
    for size in sizes:
        limit = PEER_SECONDS[size]
        whole = np.lib.format.open_memmap(  # type: ignore[no-untyped-call,unused-ignore]
            folder() / "vectors.npy", "w+", np.float32, (size, DIMENSION)
        )
        for number, part in enumerate(made(size)):
            whole[number * STEP : number * STEP + len(part)] = part
        del whole
        for name in only or PEERS:
            if build.get(name, 0.0) * 10 > limit:  # ten times the vectors take ten times as long
                _tell(f"{name} at {size}: left out, would take over {limit:.0f} s to build")
                continue
            figures = _peer(name, limit)
            _tell(f"{name} at {size}: {figures}")
            if "p50_ms" in figures:
                build[name] = figures["build_seconds"]
                result |= {f"{name}_{key}_{size}": value for key, value in figures.items()}
            else:
                build[name] = np.inf
        (folder() / "vectors.npy").unlink()
    return result


def _peer(name: str, limit: float) -> dict[str, Any]:
    """One peer's figures; or why there are none."""
    program = [sys.executable, str(Path(__file__).with_name("search_peers.py")), name]
    try:
        run = subprocess.run(
            [*program, str(folder())], capture_output=True, text=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        return {"left_out": f"took over {limit:.0f} s"}
    finally:
        made_files = folder() / name
        shutil.rmtree(made_files) if made_files.is_dir() else made_files.unlink(missing_ok=True)
    if run.returncode:
        return {"left_out": (run.stderr.strip().splitlines() or ["it said nothing"])[-1]}
    figures: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return figures


def _tell(line: str) -> None:
    print(f"{time.process_time():6.0f} s  {line}", file=sys.stderr, flush=True)


def main() -> None:
    """Measure, then print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--peers", nargs="*", default=None, help="only these; none for no peers")
    args = parser.parse_args()
    if args.open:
        open_one(args.open)
        return
    _, real_queries = passages.vectors()
    queries = (real_queries @ _turn())[:QUERIES]
    np.save(folder() / "queries.npy", queries)
    result = measure_recall() | measure_ours(sorted(args.sizes), queries)
    sizes = [size for size in PEER_SIZES if size in args.sizes]
    if args.peers is None or args.peers:
        result |= measure_peers(sizes, args.peers or [])
    if sizes:
        ours = result[f"p50_ms_{sizes[-1]}"]
        if theirs := result.get(f"sqlite_vec_float32_p50_ms_{sizes[-1]}"):
            result["sqlite_vec_over_ours"] = round(theirs / ours, 2)
        if theirs := result.get(f"faiss_binary_p50_ms_{sizes[-1]}"):
            result["ours_over_faiss_binary"] = round(ours / theirs, 2)
    print_table(["", "value"], [[name, value] for name, value in result.items()])
    used = versions(
        "numpy", "apsw", "sqlite-vec", "faiss-cpu", "usearch", "hnswlib", "lancedb", "chromadb"
    )
    result = {**machine(), **used, "load": round(os.getloadavg()[0], 2), **result}
    finish("search", result, keep=args.peers is None and tuple(args.sizes) == SIZES)


if __name__ == "__main__":
    main()
