"""Words of many scripts, and what people type to find them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harrier_edge.store.connection import StoredModel
from harrier_edge.store.database import Database
from harrier_edge.store.rows import ChunkRow, Part
from harrier_edge.store.words import fold, parse

TEXTS = (
    "The naïve café owner's résumé",
    "東京の天気は晴れです",
    "我想学习机器学习和自然语言处理",
    "วันนี้อากาศดีมากที่กรุงเทพ",
    "오늘 서울의 날씨는 맑습니다",
    "हिन्दी में लिखा हुआ पाठ",
    "Ελλάδα και Ёлка в лесу",
    "كِتَابٌ قديم",
    "connection refused on port 5432, see user_name@example.org",
    "the connector and the connections",
)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Database:
    """One chunk for each text."""
    path = tmp_path_factory.mktemp("words") / "index.sqlite"
    database = Database(path, create=StoredModel("tiny", "f" * 64, "fp32", 4, "/packages/tiny"))
    vectors = np.eye(4, dtype=np.float32)[:1]
    for i, text in enumerate(TEXTS):
        database.write([Part(f"/{i}", f"title{i}", "", [ChunkRow(0, 1, 1, text)], vectors, True)])
    return database


def found(database: Database, query: str) -> set[int]:
    """The numbers of the texts that a query finds."""
    return {one.chunk - 1 for one in database.matching(parse(query), 50)}


@pytest.mark.parametrize(
    ("query", "texts"),
    [
        ("cafe", {0}),
        ("RÉSUMÉ naive", {0}),
        ("天気", {1}),
        ("東京", {1}),
        ("晴", {1}),
        ("机器学习", {2}),
        ("深度学习", {2}),
        ("อากาศ", {3}),
        ("날씨", {4}),
        ("서울", {4}),
        ("हिन्दी", {5}),
        ("ह", set()),
        ("ελλαδα", {6}),
        ("елка", {6}),
        ("كتاب", {7}),
        ("connection", {8}),
        ("connect*", {8, 9}),
        ('"the connections"', {9}),
        ('"connections the"', set()),
        ("connect* -refused", {9}),
        ('connect* -"the connector"', {8}),
        ('"自然语言"', {2}),
        ('"语言自然"', set()),
        ("user_name@example.org", {8}),
        ("title3", {3}),
        ("-connector", set()),
        ("-m 5432", {8}),
        ("quokka", set()),
        ("\ud800 refused", {8}),
    ],
)
def test_words_are_found_in_every_script(database: Database, query: str, texts: set[int]) -> None:
    """Without regard to case and accents, within unspaced runs, by phrase, prefix and exclusion."""
    assert found(database, query) == texts


@given(text=st.text(st.characters(exclude_categories=()), max_size=40))
def test_any_string_is_a_query(database: Database, text: str) -> None:
    """Whatever is typed, FTS5 can read it; so it can the same in quotes and excluded."""
    for query in (text, f'"{text}"', f'x -"{text}" -{text}', f"{text}*"):
        database.matching(parse(query), 5)


def test_what_is_embedded_has_no_marks() -> None:
    """Neither quotes, stars, nor what is excluded reach the model."""
    query = parse('why "slow query" postgres* -mysql -"sql server" -5 it\'s')
    assert query.plain == "why slow query postgres -5 it's"
    assert query.words[:4] == ("why", "postgres", "5", "it's") or "slow" in query.words


@given(text=st.text(max_size=60))
def test_folding_is_done_once(text: str) -> None:
    """A folded text is as it stays, but for its spaces."""
    once = fold(text)
    assert fold(once).split() == once.split()
