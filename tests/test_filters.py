"""Conditions on documents."""

from __future__ import annotations

from datetime import datetime, timezone

import numpy as np
import pytest

from harrier_edge.errors import UsageError
from harrier_edge.store.connection import StoredModel
from harrier_edge.store.database import Database
from harrier_edge.store.filters import parse_filters
from harrier_edge.store.rows import ChunkRow, Part
from harrier_edge.store.words import parse

UTC = timezone.utc


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Database:
    """Four documents of many kinds."""
    path = tmp_path_factory.mktemp("filters") / "index.sqlite"
    database = Database(path, create=StoredModel("tiny", "f" * 64, "fp32", 4, "/packages/tiny"))
    vectors = np.eye(4, dtype=np.float32)[:1]
    rows = [ChunkRow(0, 1, 1, "text")]
    day = datetime(2025, 3, 1, tzinfo=UTC).timestamp()
    facts = (
        ("/home/zoë/notes/a.md", "work", "text/markdown", 0, 10, {"year": 1999, "author": "Zoë"}),
        (
            "/home/zoë/notes/old/b.md",
            "work",
            "text/markdown",
            day,
            20,
            {"year": 2020, "draft": False},
        ),
        ("/home/zoë/mail/c.eml", "mail", "message/rfc822", 2 * day, 30, {"year": "2020"}),
        (
            "/home/zoë/notes [x]/d.txt",
            "",
            "text/plain",
            day,
            40,
            {'a"b': True, "tag": "x y", "draft": True},
        ),
    )
    for path_, collection, kind, modified, size, metadata in facts:
        part = Part(path_, "t", "", rows, vectors, True, collection, kind, modified, size, metadata)
        database.write([part])
    return database


@pytest.mark.parametrize(
    ("conditions", "documents"),
    [
        (["path=notes"], "ab"),
        (["path=notes/"], "ab"),
        (["path=notes/*.md"], "ab"),
        (["path=notes/old/*"], "b"),
        (["path=/home/zoë/*.eml"], "c"),
        (["path=/home/zoë/notes/a.md"], "a"),
        (["path=a.md"], "a"),
        (["path!=*.md"], "cd"),
        (["path!=notes"], "cd"),
        (["type=text/markdown"], "ab"),
        (["type=text/*"], "abd"),
        (["type!=text/*"], "c"),
        (["collection=work"], "ab"),
        (["collection!=work"], "cd"),
        (["modified>=2025-03-01T00:00Z"], "bcd"),
        (["modified < 2025-03-01T00:00+00:00"], "a"),
        (["size<=20"], "ab"),
        (["size>2e1"], "cd"),
        (["year=2020"], "bc"),
        (["year>=1999"], "ab"),
        (["year<2000"], "a"),
        (["year!=2020"], "ad"),
        (["author=Zoë"], "a"),
        (["author!=Zoë"], "bcd"),
        (["tag=x y"], "d"),
        (['a"b=1'], "d"),
        (["nothing=1"], ""),
        (["draft=true"], "d"),
        (["draft=False"], "b"),
        (["draft!=true"], "abc"),
        (["size<99999999999999999999"], "abcd"),
        (["year=12345678901234567890"], ""),
        (["path=notes", "year>2000"], "b"),
    ],
)
def test_conditions_choose_documents(
    database: Database, conditions: list[str], documents: str
) -> None:
    """For both rankings, and for the exact one."""
    within = parse_filters(conditions)
    query = np.eye(4, dtype=np.float32)[0]
    wanted = {"abcd".index(name) + 1 for name in documents}
    for exact in (False, True):
        near = database.nearest(query, 9, within=within, exact=exact)
        assert {one.document for one in near} == wanted
    assert {one.document for one in database.matching(parse("text"), 9, within=within)} == wanted


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("notes", "is not a condition"),
        ("=x", "is not a condition"),
        ("path>x", "path takes = or !="),
        ("modified>soon", "'soon' is not a time"),
        ("size>big", "a number of bytes"),
    ],
)
def test_a_condition_that_cannot_be_read_is_named(condition: str, message: str) -> None:
    """With what was wanted."""
    with pytest.raises(UsageError, match=message):
        parse_filters([condition])
