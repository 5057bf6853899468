"""Other engines over the same vectors: each is built, then asked for the ten nearest.

A peer is made from vectors (n, dimension) of unit length and a path that it may write, and gives
a function that searches. It raises ImportError where its library is not installed.

    python search_peers.py NAME FOLDER    measures one, in a process of its own that can be stopped

FOLDER has vectors.npy and queries.npy; the result is one JSON line.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import numpy as np
import numpy.typing as npt
import sqlite_vec

from harrier_edge.vectors import Vectors

Search = Callable[[Vectors, int], object]
TOP = 10
WARM = 3  # queries before those that are timed
ENOUGH = 10.0  # seconds of timed queries: a slow peer is asked fewer
CANDIDATES = 400  # that binary indexes give: what they need for the same recall
BATCH = 10_000


def times(search: Callable[[Vectors], object], queries: Vectors) -> tuple[float, float]:
    """The median and the 99th percentile of a search, in ms."""
    for query in queries[:WARM]:
        search(query)
    taken: list[float] = []
    for query in queries:
        start = time.perf_counter()
        search(query)
        taken.append(time.perf_counter() - start)
        if sum(taken) > ENOUGH:
            break
    p50, p99 = (float(np.percentile(taken, part) * 1e3) for part in (50, 99))
    return round(p50, 2), round(p99, 2)


def _signs(vectors: Vectors) -> npt.NDArray[np.uint8]:
    return np.packbits(vectors > 0, axis=-1, bitorder="little")


def _int8(vectors: Vectors) -> npt.NDArray[np.int8]:
    scaled: npt.NDArray[np.int8] = np.rint(vectors * (127 / np.abs(vectors).max())).astype(np.int8)
    return scaled


def _sqlite_vec(kind: str) -> Callable[[Vectors, Path], Search]:
    convert: dict[str, Callable[[Vectors], Any]] = {
        "float": lambda vectors: vectors,
        "int8": _int8,
        "bit": _signs,
    }
    value = {"float": "?", "int8": "vec_int8(?)", "bit": "vec_bit(?)"}[kind]

    def make(vectors: Vectors, path: Path) -> Search:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        connection = apsw.Connection(str(path))
        connection.enable_load_extension(True)
        connection.load_extension(sqlite_vec.loadable_path())
        connection.execute("PRAGMA synchronous = OFF")
        column = f"v {kind}[{vectors.shape[1]}]"
        connection.execute(f"CREATE VIRTUAL TABLE v USING vec0 (id INTEGER PRIMARY KEY, {column})")
        for start in range(0, len(vectors), BATCH):
            rows = convert[kind](vectors[start : start + BATCH])
            with connection:
                connection.executemany(
                    f"INSERT INTO v VALUES (?, {value})",
                    ((start + i, row.tobytes()) for i, row in enumerate(rows, 1)),
                )

        def search(query: Vectors, top: int) -> object:
            k = CANDIDATES if kind == "bit" else top
            blob = convert[kind](query[None])[0].tobytes()
            return connection.execute(
                f"SELECT id, distance FROM v WHERE v MATCH {value} AND k = {k}", (blob,)
            ).fetchall()

        return search

    return make


def _faiss(kind: str) -> Callable[[Vectors, Path], Search]:
    def make(vectors: Vectors, path: Path) -> Search:
        import faiss

        dimension = vectors.shape[1]
        if kind == "binary":
            binary = faiss.IndexBinaryFlat(dimension)
            binary.add(_signs(vectors))
            return lambda query, top: binary.search(_signs(query[None]), CANDIDATES)
        index: Any = faiss.IndexFlatIP(dimension)
        if kind == "hnsw":
            index = faiss.IndexHNSWFlat(dimension, 32, faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efSearch = 128
        index.add(vectors)
        return lambda query, top: index.search(query[None], top)

    return make


def _usearch(vectors: Vectors, path: Path) -> Search:
    from usearch.index import MetricKind, search

    stored = _int8(vectors)
    return lambda query, top: search(stored, _int8(query), top, MetricKind.Cos, exact=True)


def _hnswlib(vectors: Vectors, path: Path) -> Search:
    import hnswlib

    index = hnswlib.Index("ip", vectors.shape[1])
    index.init_index(len(vectors), M=16, ef_construction=100)
    index.set_ef(128)
    index.add_items(vectors)
    return lambda query, top: index.knn_query(query, top)


def _lancedb(vectors: Vectors, path: Path) -> Search:
    import lancedb
    import pyarrow

    shutil.rmtree(path, ignore_errors=True)
    column = pyarrow.FixedSizeListArray.from_arrays(vectors.ravel(), vectors.shape[1])
    table = lancedb.connect(path).create_table("vectors", pyarrow.table({"vector": column}))
    return lambda query, top: table.search(query).metric("cosine").limit(top).to_arrow()


def _chroma(vectors: Vectors, path: Path) -> Search:
    import chromadb

    shutil.rmtree(path, ignore_errors=True)
    collection = chromadb.PersistentClient(str(path)).create_collection(
        "vectors", metadata={"hnsw:space": "ip"}
    )
    for start in range(0, len(vectors), 5000):
        part = vectors[start : start + 5000]
        collection.add([str(start + i) for i in range(len(part))], embeddings=part)
    return lambda query, top: collection.query(query[None], n_results=top)


PEERS: dict[str, Callable[[Vectors, Path], Search]] = {
    "sqlite_vec_float32": _sqlite_vec("float"),
    "sqlite_vec_int8": _sqlite_vec("int8"),
    "sqlite_vec_bit": _sqlite_vec("bit"),
    "faiss_flat": _faiss("flat"),
    "faiss_binary": _faiss("binary"),
    "usearch_int8_exact": _usearch,
    "faiss_hnsw": _faiss("hnsw"),
    "hnswlib": _hnswlib,
    "lancedb": _lancedb,
    "chroma": _chroma,
}


def main() -> None:
    """Build one peer, time it, and print what that gave."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    vectors, queries = np.load(folder / "vectors.npy"), np.load(folder / "queries.npy")
    start = time.perf_counter()
    try:
        search = PEERS[name](vectors, folder / name)
    except ImportError as error:
        print(json.dumps({"absent": str(error)}))
        return
    seconds = time.perf_counter() - start
    p50, p99 = times(lambda query: search(query, TOP), queries)
    print(json.dumps({"p50_ms": p50, "p99_ms": p99, "build_seconds": round(seconds, 1)}))


if __name__ == "__main__":
    main()
