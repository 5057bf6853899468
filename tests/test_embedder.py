"""Texts to vectors."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from harrier_edge.embedder import Embedder
from harrier_edge.errors import TextTooLongError, UsageError
from harrier_edge.session import token_batches
from harrier_edge.spec import PackageManifest, read_table

WEB = (
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: "
)
TEXTS = ["A falcon.", "", "日本語のテキスト", "word " * 300, "\0", "  ", "A falcon.", "\ud800"]


def short(package: Path, max_tokens: int) -> Embedder:
    """The package with a lower token limit."""
    path = package / "manifest.toml"
    manifest = read_table(path, PackageManifest)
    tokens = msgspec.structs.replace(manifest.tokens, max_tokens=max_tokens)
    manifest = msgspec.structs.replace(manifest, tokens=tokens)
    path.write_text(tomli_w.dumps(msgspec.to_builtins(manifest)), "utf-8")
    return Embedder(package)


def test_rows_come_in_the_order_of_the_texts(tiny_embedder: Embedder) -> None:
    """Batches by length do not change the order, and every odd text has a finite unit vector."""
    vectors = tiny_embedder.encode(TEXTS)
    assert vectors.shape == (len(TEXTS), tiny_embedder.dimension)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    for text, vector in zip(TEXTS, vectors, strict=True):
        assert np.array_equal(tiny_embedder.encode(text), vector)


def test_one_text_is_one_vector_and_none_is_none(tiny_embedder: Embedder) -> None:
    """A str gives (dimension,), an empty list (0, dimension)."""
    assert tiny_embedder.encode("a").shape == (64,)
    assert tiny_embedder.encode([]).shape == (0, 64)


def test_queries_get_the_instruction_and_documents_never(tiny_embedder: Embedder) -> None:
    """The default instruction is on the query side alone."""
    e = tiny_embedder
    assert np.array_equal(e.encode_query("falcons"), e.encode(WEB + "falcons"))
    assert np.array_equal(e.encode_document("falcons"), e.encode("falcons"))
    assert not np.array_equal(e.encode_query("falcons"), e.encode_document("falcons"))


def test_a_query_takes_another_prompt(tiny_embedder: Embedder) -> None:
    """A verbatim prompt, a preset and a task sentence each take the instruction's place."""
    e = tiny_embedder
    assert np.array_equal(e.encode_query("a", prompt=""), e.encode("a"))
    assert np.array_equal(
        e.encode_query("a", prompt_name="sts_query"), e.encode("a", prompt_name="sts_query")
    )
    assert np.array_equal(
        e.encode_query("a", task="Find birds"), e.encode("Instruct: Find birds\nQuery: a")
    )


def test_langchain_gets_lists(tiny_embedder: Embedder) -> None:
    """embed_query and embed_documents are encode_query and encode_document as lists."""
    assert tiny_embedder.embed_query("a") == tiny_embedder.encode_query("a").tolist()
    assert tiny_embedder.embed_documents(["a"]) == tiny_embedder.encode_document(["a"]).tolist()


def test_similarity_is_cosine(tiny_embedder: Embedder) -> None:
    """Rows against rows, of any length."""
    cosine = tiny_embedder.similarity([[3.0, 4.0], [0.0, 0.0]], [[6.0, 8.0], [-4.0, 3.0]])
    np.testing.assert_allclose(cosine, [[1, 0], [0, 0]], atol=1e-7)


def test_a_long_text_is_cut_and_told(own_package: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Truncation is logged, and counted for each text."""
    embedder = short(own_package, 16)
    with caplog.at_level(logging.WARNING):
        result = embedder.embed(["word " * 50, "a"])
    assert result.tokens[0] == 16
    assert result.cut_tokens[0] == embedder.count_tokens(["word " * 50])[0] - 16
    assert result.cut_tokens[1] == 0
    assert "1 of 2 texts were cut to 16 tokens" in caplog.text


def test_counting_many_texts_takes_little_memory(tiny_embedder: Embedder) -> None:
    """The ids of a part of them at a time; those of all would take several times as much."""
    import tracemalloc

    texts = ["a word " * 1000] * 400
    tracemalloc.start()
    try:
        counts = tiny_embedder.count_tokens(texts)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert set(counts) == set(tiny_embedder.count_tokens(texts[:1]))
    assert 8 * sum(counts) > 2 * peak


def test_a_long_text_can_be_refused(own_package: Path) -> None:
    """on_overflow="error" names the text, its tokens and the limit."""
    embedder = short(own_package, 16)
    with pytest.raises(TextTooLongError, match=r"text 1 has \d+ tokens, tiny-gemma takes 16"):
        embedder.encode(["a", "word " * 50], on_overflow="error")


def test_cut_dimensions_are_warned_of(tiny_embedder: Embedder) -> None:
    """A prefix of the dimensions is given only with a warning, at unit length unless told."""
    whole = tiny_embedder.encode("a")
    with pytest.warns(UserWarning, match="no Matryoshka"):
        cut = tiny_embedder.encode("a", truncate_dim=8)
    np.testing.assert_allclose(cut, whole[:8] / np.linalg.norm(whole[:8]), rtol=1e-6)
    with pytest.warns(UserWarning, match="no Matryoshka"):
        assert np.array_equal(tiny_embedder.encode("a", truncate_dim=8, normalize=False), whole[:8])
    with pytest.raises(UsageError, match="truncate_dim is 65"):
        tiny_embedder.encode("a", truncate_dim=65)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e: e.encode(["a", None]), "None, a NoneType"),
        (lambda e: e.encode([b"a"]), "b'a', a bytes"),
        (lambda e: e.encode("a", batch_size=0), "batch_size is 0"),
        (lambda e: e.encode("a", on_overflow="drop"), "on_overflow is 'drop'"),
        (lambda e: e.encode("a", prompt_name="nope"), "'nope' is unknown"),
        (lambda e: e.embed("a"), "texts is one str"),
    ],
)
def test_wrong_arguments_are_named(tiny_embedder: Embedder, call: object, message: str) -> None:
    """Each error names the value that was given."""
    assert callable(call)
    with pytest.raises(UsageError, match=message):
        call(tiny_embedder)


def test_threads_may_share_an_embedder(tiny_embedder: Embedder) -> None:
    """Eight threads at once get the bits that one gets."""
    texts = [f"text number {i} " * (i % 7 + 1) for i in range(64)]
    alone = [tiny_embedder.encode(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(tiny_embedder.encode, texts))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_the_thread_count_comes_from_the_environment(
    tiny_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HARRIER_EDGE_THREADS is honoured, and a wrong value is named."""
    monkeypatch.setenv("HARRIER_EDGE_THREADS", "many")
    with pytest.raises(UsageError, match="HARRIER_EDGE_THREADS is 'many'"):
        Embedder(tiny_package)
    monkeypatch.setenv("HARRIER_EDGE_THREADS", "1")
    assert Embedder(tiny_package).encode("a").shape == (64,)


@given(st.lists(st.integers(1, 5000), max_size=50), st.none() | st.integers(1, 5))
def test_batches_hold_every_text_once_within_the_budget(
    lengths: list[int], batch_size: int | None
) -> None:
    """No text is lost or doubled, and only a text that alone is too long passes the budget."""
    batches = list(token_batches(lengths, batch_size))
    assert sorted(row for rows in batches for row in rows) == list(range(len(lengths)))
    for rows in batches:
        padded = len(rows) * max(lengths[row] for row in rows)
        assert len(rows) == 1 or padded <= 256
        assert batch_size is None or len(rows) <= batch_size


def test_a_query_is_the_same_with_the_instruction_kept(tiny_package: Path) -> None:
    """Alone, in a list, and without the cache, a query has the same bits."""
    embedder = Embedder(tiny_package)
    queries = ["a fox", "where does the river end", "", "東京", "été", "\u0301x", " ", "the " * 300]
    prompt = "Instruct: find\nQuery: "
    together = embedder.encode_query(queries, prompt=prompt)
    assert len(embedder._session._beginnings._pasts) == 1
    (kept,) = embedder._session._beginnings._pasts
    assert len(kept) > 5
    alone = np.stack([embedder.encode_query(query, prompt=prompt) for query in queries])
    uncached = embedder.encode_document([prompt + query for query in queries])
    assert np.array_equal(together, alone)
    assert np.array_equal(together, uncached)


def test_batches_of_ids_have_the_bits_of_embed(tiny_embedder: Embedder) -> None:
    """Whoever tokenizes and makes batches himself, from texts or from ids without special ones."""
    e, texts = tiny_embedder, ["a falcon", "a falcon and an oak", ""]
    for prompt in ("", WEB):
        ids = [text.ids for text in e.tokenize(texts, prompt=prompt)]
        wanted = e.embed(texts, prompt=prompt).vectors
        assert np.array_equal(e.embed_batch(ids, prompt=prompt), wanted)
        singles = [e.embed_batch([one], prompt=prompt) for one in ids]
        assert np.array_equal(np.concatenate(singles), wanted)
    ids = [text.ids for text in e.tokenize(texts)]
    assert [text.ids for text in e.complete([one[1:-1] for one in ids])] == ids
    assert [text.ids for text in e.complete(ids)] == ids


def test_a_token_that_the_table_lacks_is_refused(tiny_embedder: Embedder) -> None:
    """Before anything reads past its end; the last one that it has is taken."""
    with pytest.raises(UsageError, match=r"token id 999999 is none of tiny-gemma's"):
        tiny_embedder.complete([[5], [6, 999_999]])
    with pytest.raises(UsageError, match="token id -1"):
        tiny_embedder.complete([[-1]])
    assert Embedder("kestrel").complete([[51_999]])[0].ids[1] == 51_999
    with pytest.raises(UsageError, match="0 to 51999"):
        Embedder("kestrel").complete([[52_000]])
