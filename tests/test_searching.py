"""From a query to hits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harrier_edge.cli import main
from harrier_edge.errors import UsageError
from harrier_edge.index import Index
from harrier_edge.searching import SNIPPET_CHARACTERS, Hit, SearchOptions, search
from harrier_edge.store.connection import StoredModel
from harrier_edge.store.database import Database
from harrier_edge.store.rows import ChunkRow, Part
from harrier_edge.vectors import Vectors

FALCON, HERON, BOTH = [1.0, 0, 0, 0], [0, 1.0, 0, 0], [2**-0.5, 2**-0.5, 0, 0]


@pytest.fixture
def database(tmp_path: Path) -> Database:
    """Three documents about two birds."""
    model = StoredModel("tiny", "f" * 64, "fp32", 4, "/packages/tiny")
    database = Database(tmp_path / "index.sqlite", create=model)
    for path, passages in {
        "/falcon": [("The falcon\n\nflies fast", FALCON), ("falcons nest\non towers", FALCON)],
        "/heron": [("A heron waits", HERON), ("in shallow water", HERON)],
        "/both": [("A falcon and a heron", BOTH)],
    }.items():
        rows = [
            ChunkRow(i, 10 * i + 1, 10 * i + 3, text, heading=f"Birds > {i}")
            for i, (text, _) in enumerate(passages)
        ]
        vectors = np.array([vector for _, vector in passages], np.float32)
        database.write([Part(path, path[1:], "", rows, vectors, True)])
    return database


def ask(database: Database, query: str, top_k: int = 10, **options: Any) -> list[Hit]:
    """Search with the falcon's vector."""

    def embed(text: str) -> Vectors:
        return np.array(FALCON, np.float32)

    return search(database, embed, query, top_k, SearchOptions(**options))


def test_the_best_passage_of_each_document_or_all(database: Database) -> None:
    """A document comes once, with its best passage, unless every passage is wanted."""
    hits = ask(database, "falcon", mode="vector")
    assert [(hit.path, hit.id) for hit in hits] == [("/falcon", 1), ("/both", 5), ("/heron", 3)]
    every = ask(database, "falcon", mode="vector", every_chunk=True)
    assert [hit.id for hit in every] == [1, 2, 5, 3, 4]


def test_documents_are_enough_though_one_has_most_passages(database: Database) -> None:
    """The passages of one long document do not crowd the others out."""
    rows = [ChunkRow(i, 1, 1, "falcon") for i in range(600)]
    vectors = np.repeat(np.array([FALCON], np.float32), 600, axis=0)
    database.write([Part("/long", "long", "", rows, vectors, True)])
    for mode in ("vector", "text", "hybrid"):
        paths = [hit.path for hit in ask(database, "falcon", 3, mode=mode)]
        assert len(set(paths)) == 3


def test_an_explanation_tells_both_rankings(database: Database) -> None:
    """Rank and score in each, and nothing where it was not found."""
    hits = {hit.path: hit for hit in ask(database, "heron")}
    falcon, both = hits["/falcon"].explanation, hits["/both"].explanation
    assert (falcon.vector_rank, falcon.vector_score) == (1, 1.0)
    assert (falcon.text_rank, falcon.text_score) == (None, None)
    assert both.vector_rank == 2
    assert both.text_rank in (1, 2)
    assert hits["/falcon"].score < hits["/both"].score <= 1


def test_phrases_and_exclusions_bind_both_rankings(database: Database) -> None:
    """What is near in meaning but lacks the phrase, or has the word, is not ranked at all."""
    assert {hit.path for hit in ask(database, '"falcon and"')} == {"/both"}
    assert {hit.id for hit in ask(database, "bird -fast", every_chunk=True)} == {2, 3, 4, 5}
    assert len(ask(database, "-fast", mode="vector", every_chunk=True)) == 5


def test_a_snippet_is_around_the_match_with_its_line(database: Database) -> None:
    """The line is the document's own."""
    (hit,) = ask(database, "towers", mode="text")
    assert (hit.line, hit.heading) == (11, "Birds > 1")
    assert hit.text.splitlines()[hit.snippet_line - hit.line] in hit.snippet
    assert "on towers" in hit.snippet
    text = "\n".join(f"line {i} " + "filler " * 9 for i in range(40)).replace("line 30", "QUOKKA é")
    row = [ChunkRow(0, 101, 140, text), ChunkRow(1, 141, 141, "word " * 200 + "wombat " * 3)]
    vectors = np.eye(4, dtype=np.float32)[2:]
    database.write([Part("/long", "long", "", row, vectors, True)])
    (hit,) = ask(database, "quokka", mode="text")
    assert "QUOKKA" in hit.snippet
    assert hit.snippet_line in (130, 131)
    (hit,) = ask(database, "wombat", mode="text")
    assert "wombat" in hit.snippet
    assert len(hit.snippet) <= SNIPPET_CHARACTERS + 2


def test_a_snippet_stands_where_its_document_counts(database: Database) -> None:
    """A form feed ends no line, and a page has no lines that anything is known of."""
    text = "one\n\f\ntwo\n\f\nneedle here"
    page = "\n".join(f"line {i} " + "filler " * 9 for i in range(40)) + "\nplatypus"
    rows = [ChunkRow(0, 1, 5, text), ChunkRow(1, 3, 3, page)]
    vectors = np.eye(4, dtype=np.float32)[2:]
    database.write([Part("/pages", "pages", "", rows, vectors, True)])
    (hit,) = ask(database, "needle", mode="text")
    assert text.split("\n")[hit.snippet_line - 1] == hit.snippet.split("\n")[0]
    (hit,) = ask(database, "platypus", mode="text")
    assert ("platypus" in hit.snippet, hit.snippet_line) == (True, 3)


def test_the_order_is_always_the_same(database: Database) -> None:
    """Equal scores come in the order of ids, in each mode."""
    for mode in ("vector", "text", "hybrid"):
        first = ask(database, "falcon heron", mode=mode, every_chunk=True)
        assert all(
            first == ask(database, "falcon heron", mode=mode, every_chunk=True) for _ in "123"
        )


def test_a_wrong_number_of_candidates_is_named(database: Database) -> None:
    """As any wrong argument."""
    with pytest.raises(UsageError, match="candidates is 0"):
        ask(database, "falcon", candidates=0)


def test_the_command_has_all_of_it(
    tmp_path: Path, tiny_package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Filters, exact search, explanations and line numbers."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.md").write_text(f"# {name}\n\nthe falcon {name}\n", "utf-8")
    path = tmp_path / "index.sqlite"
    with Index.open(path, model=tiny_package) as index:
        index.add(tmp_path)
    command = ["search", "--db", str(path), "falcon", "--exact", "--explain", "--all"]
    assert main([*command, "--filter", "path=a.md", "--line-numbers", "--full"]) == 0
    out = capsys.readouterr().out
    assert "a.md:1" in out
    assert "b.md" not in out
    assert "vector: rank 1, score" in out
    assert "text: rank 1, score" in out
    assert "    3  the falcon a" in out
    assert main([*command, "--filter", "path!=a.md", "--json", "--candidates", "5"]) == 0
    (hit,) = json.loads(capsys.readouterr().out)
    assert hit["explanation"]["text_rank"] == 1
    assert main([*command, "--filter", "nonsense"]) == 2
    assert "is not a condition" in capsys.readouterr().err
