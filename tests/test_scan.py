"""The scan of sign bits, against the comparison of all vectors."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from harrier_edge.store import scan as module
from harrier_edge.store.connection import StoredModel
from harrier_edge.store.database import Database
from harrier_edge.store.filters import parse_filters
from harrier_edge.store.rows import ChunkRow, Found, Part
from harrier_edge.vectors import STORES, Vectors, rotate, sign_words, to_blobs

DIMENSION = 128
CHUNKS = 9  # of a document


def clustered(count: int, seed: int = 0) -> Vectors:
    """Vectors of unit length around 40 centres, as texts on 40 subjects would have."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((40, DIMENSION))
    vectors = centres[random.integers(0, 40, count)] + random.standard_normal((count, DIMENSION))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def document(number: int, vectors: Vectors) -> Part:
    """A document of some vectors; every fifth is in the collection "fifth"."""
    rows = [ChunkRow(i, i + 1, i + 1, f"word{number}") for i in range(len(vectors))]
    collection = "fifth" if number % 5 == 0 else ""
    return Part(f"/{number}", "t", "", rows, vectors, True, collection)


def fill(path: Path, documents: int = 700, store: str = "float32") -> Database:
    """An index of many documents, over two segments."""
    model = StoredModel("tiny", "f" * 64, "fp32", DIMENSION, "/packages/tiny", store)
    database = Database(path, create=model)
    vectors = clustered(documents * CHUNKS).reshape(documents, CHUNKS, DIMENSION)
    database.write([document(i, vectors[i]) for i in range(documents)])
    return database


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Database:
    """One index that is only read."""
    return fill(tmp_path_factory.mktemp("scan") / "index.sqlite")


def recall(found: list[Found], true: list[Found]) -> float:
    """The share of the true ones that were found."""
    return len({one.chunk for one in found} & {one.chunk for one in true}) / len(true)


@pytest.mark.parametrize("conditions", [[], ["collection=fifth"], ["collection!=fifth"]])
def test_the_scan_finds_the_nearest(database: Database, conditions: list[str]) -> None:
    """With the right scores in the right order, within a filter that is narrow or wide."""
    within = parse_filters(conditions)
    recalls = []
    for query in clustered(30, seed=1):
        true = database.nearest(query, 10, exact=True, within=within)
        found = database.nearest(query, 10, candidates=200, within=within)
        assert len(found) == 10
        assert found == sorted(found, key=lambda one: (-one.score, one.chunk))
        scores = {one.chunk: one for one in true}
        assert all(scores.get(one.chunk, one) == one for one in found)
        recalls.append(recall(found, true))
    assert np.mean(recalls) >= 0.99


def test_what_is_nearest_in_the_first_bits_holds_the_nearest() -> None:
    """Where vectors have more words than all rows are compared in, and there are many rows."""
    dimension, segments = 512, 64
    assert dimension // 64 > module.FIRST_WORDS
    random = np.random.default_rng(0)
    scan = module.Scan(dimension)
    centres = random.standard_normal((2000, dimension)).astype(np.float32)
    queries = centres[:20] + random.standard_normal((20, dimension)).astype(np.float32)
    nearest: list[list[tuple[float, int]]] = [[] for _ in queries]
    for segment in range(segments):
        vectors = centres[random.integers(0, 2000, module.SEGMENT)]
        vectors += random.standard_normal(vectors.shape).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        words = sign_words(rotate(vectors)).T
        owners = np.full(module.SEGMENT, segment + 1, "<u4")
        scan.put(segment, owners.tobytes(), words.astype("<u8").tobytes())
        for best, products in zip(nearest, queries @ vectors.T, strict=True):
            some = np.argsort(-products)[:10]
            best += zip(products[some], (segment * module.SEGMENT + some).tolist(), strict=True)
    assert segments * module.SEGMENT > 10 * 100 * module.NEAR
    shares = []
    for query, best in zip(queries, nearest, strict=True):
        true = {chunk for _, chunk in sorted(best, reverse=True)[:10]}
        found, documents = scan.candidates(query, 100, module.Scope())
        assert (documents == found // module.SEGMENT + 1).all()
        shares.append(len(true & set(found.tolist())) / 10)
    assert np.mean(shares) >= 0.99


def test_short_vectors_get_more_candidates() -> None:
    """For their bits say less, and 60,000 real ones of 384 dimensions need some 200."""
    assert module.default_candidates(384) > 200
    assert module.default_candidates(640) == 150
    assert module.default_candidates(1024) == module.default_candidates(5376) == 100


def test_a_narrow_filter_leaves_as_many_as_it_holds(database: Database) -> None:
    """A filter comes before the ranking, so the best of one document are all there."""
    for number in (0, 311, 699):
        within = parse_filters([f"path=/{number}"])
        found = database.nearest(clustered(1)[0], 50, within=within)
        assert len(found) == CHUNKS
        assert {one.document for one in found} == {number + 1}


def test_more_candidates_find_more(database: Database) -> None:
    """And all of them find all."""
    queries = clustered(20, seed=2)
    means = []
    for candidates in (20, 60, 7000):
        pairs = [
            (
                database.nearest(query, 10, candidates=candidates),
                database.nearest(query, 10, exact=True),
            )
            for query in queries
        ]
        means.append(np.mean([recall(*pair) for pair in pairs]))
    assert means == sorted(means)
    assert means[-1] == 1


@pytest.mark.parametrize(("store", "least"), [("float16", 0.99), ("int8", 0.97)])
def test_smaller_stores_rank_nearly_alike(
    database: Database, tmp_path: Path, store: str, least: float
) -> None:
    """A quarter or half of the bytes, and nearly the same ten."""
    small = fill(tmp_path / "index.sqlite", store=store)
    queries = clustered(20, seed=3)
    pairs = [
        (small.nearest(q, 10, exact=True), database.nearest(q, 10, exact=True)) for q in queries
    ]
    recalls = [recall(*pair) for pair in pairs]
    assert np.mean(recalls) >= least
    size = {name: np.dtype(kind).itemsize * DIMENSION for name, kind in STORES.items()}
    with sqlite3.connect(small.path) as connection:
        lengths = connection.execute("SELECT DISTINCT length(vector) FROM vectors").fetchall()
    connection.close()
    assert lengths == [(size[store],)]


def test_another_process_is_followed(tmp_path: Path) -> None:
    """What is written or removed elsewhere counts from the next search on."""
    writer = fill(tmp_path / "index.sqlite", 500)
    reader = Database(writer.path)
    query = clustered(1, seed=4)[0]
    assert len(reader.nearest(query, 5)) == 5
    writer.write([document(1000, query[None])])
    (best, *_) = reader.nearest(query, 5)
    assert best.score == pytest.approx(1)
    assert reader.nearest(query, 5) == writer.nearest(query, 5)
    assert writer.remove("/1000", "/") == 1
    assert best not in reader.nearest(query, 5)
    for number in range(500):
        writer.remove(f"/{number}", "/")
    assert reader.nearest(query, 5) == writer.nearest(query, 5) == []
    writer.write([document(7, query[None])])
    assert [one.score for one in reader.nearest(query, 5)] == [pytest.approx(1)]


def test_a_document_may_come_twice_in_a_batch(tmp_path: Path) -> None:
    """The last one counts, and nothing of the first is found."""
    database = fill(tmp_path / "index.sqlite", 3)
    first, second = clustered(2, seed=7)
    many = np.repeat(first[None], 5, axis=0)
    database.write([document(9, many), document(9, second[None]), document(8, second[None])])
    for exact in (False, True):
        found = database.nearest(first, 50, exact=exact)
        assert len(found) == 3 * CHUNKS + 2
        assert len(database.passages([one.chunk for one in found])) == len(found)
        assert all(one.score < 0.99 for one in found)


def test_many_equal_vectors_come_in_the_order_of_ids(tmp_path: Path) -> None:
    """However many there are, and in both ways."""
    database = fill(tmp_path / "index.sqlite", 3)
    same = np.repeat(clustered(1, seed=5), CHUNKS, axis=0)
    database.write([document(number, same) for number in range(10, 300)])
    for exact in (False, True):
        found = database.nearest(same[0], 20, exact=exact)
        assert [one.chunk for one in found] == list(range(28, 48))


def test_sqlite_vec_reads_the_vectors(tmp_path: Path) -> None:
    """The SQL of the README gives the same scores, on float32 and on int8."""
    readme = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
    for store, read in (("float32", "vector"), ("int8", "vec_int8(vector)")):
        database = fill(tmp_path / f"{store}.sqlite", 30, store)
        query = clustered(1, seed=6)
        sql = readme.split("```sql\n")[1].split("```")[0]
        if store == "int8":
            sql = sql.replace("(vector, ?", "(vec_int8(vector), vec_int8(?)")
        assert read in sql
        rows = database.execute(sql, (to_blobs(query, store)[0],)).fetchall()
        found = database.nearest(query[0], 10, exact=True)
        assert rows[0][0] == database.passages([found[0].chunk])[found[0].chunk].path
        similarity = [1 - row[-1] for row in rows]
        assert similarity == pytest.approx([one.score for one in found], abs=0.01)


def test_an_index_of_the_first_schema_is_brought_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its vectors, words and sign bits are made anew from what it holds."""
    from harrier_edge.store import connection as connecting
    from harrier_edge.store.schema import MIGRATIONS
    from harrier_edge.store.words import parse

    path = tmp_path / "index.sqlite"
    model = StoredModel("tiny", "f" * 64, "fp32", DIMENSION, "/packages/tiny")
    with monkeypatch.context() as patch:
        patch.setattr(connecting, "MIGRATIONS", MIGRATIONS[:1])
        patch.setattr(connecting.Connection, "after_migration", lambda *_: None)
        old = connecting.Connection(path, create=model)
        vectors = clustered(5000)
        with old.writing():
            old.execute("DELETE FROM model WHERE key = 'store'")
            old.execute("INSERT INTO documents VALUES (1, '/a', 'Übersicht', '0', 1, '{}')")
            for i, vector in enumerate(vectors, 1):
                text = f"naïve {i}"
                old.execute("INSERT INTO chunks VALUES (?, 1, ?, 1, 1, ?)", (i, i, text))
                old.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (i, text))
                blob = to_blobs(vector[None], "float32")[0]
                old.execute("INSERT INTO vectors (chunk, vector) VALUES (?, ?)", (i, blob))
        old.close()
    database = Database(path)
    assert database.schema_version == len(MIGRATIONS)
    assert database.counts().chunks == 5000
    assert database.nearest(vectors[4321], 1)[0].chunk == 4322
    assert [one.chunk for one in database.matching(parse("naive 77"), 1)] == [77]
    assert database.matching(parse("ubersicht"), 1)
    assert database.model.store == "float32"
    assert module.SEGMENT < 5000
