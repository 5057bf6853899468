"""Texts of many requests in common batches."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harrier_edge.embedder import Embedder
from harrier_edge.errors import BusyError, UsageError
from harrier_edge.server.batching import Batcher
from harrier_edge.server.models import Models
from harrier_edge.server.queue import PADDING_TOKENS, FairQueue, Job
from harrier_edge.session import BATCH_TOKENS
from harrier_edge.vectors import Vectors


@pytest.fixture
def batcher() -> Iterator[Batcher]:
    """Two threads of each kind."""
    batcher = Batcher(2, 100_000)
    yield batcher
    batcher.close()


def job(model: Embedder, lengths: list[int], client: str = "", prompt: str = "") -> Job:
    """Texts of these lengths."""
    return Job(model, prompt, [[3] * length for length in lengths], client)


def test_who_sends_much_waits_behind_itself(tiny_embedder: Embedder) -> None:
    """One text of another client, though it comes last, is among the next to go."""
    queue = FairQueue()
    bulk = job(tiny_embedder, [200] * 50, "bulk")
    queue.put(bulk)
    assert [text.job for text in queue.take()] == [bulk]
    single = job(tiny_embedder, [200], "single")
    queue.put(single)
    assert single in [queue.take()[0].job for _ in range(2)]


def test_clients_get_equal_shares(tiny_embedder: Embedder) -> None:
    """Of two that always have something waiting, none is ever two batches ahead of the other."""
    queue = FairQueue()
    for client, length in (("short", 50), ("long", 200)):
        queue.put(job(tiny_embedder, [length] * 200, client))
    tokens = {"short": 0, "long": 0}
    for _ in range(40):
        for text in queue.take():
            tokens[str(text.job.client)] += len(text.ids)
        assert abs(tokens["short"] - tokens["long"]) <= 2 * BATCH_TOKENS


def test_queries_without_end_get_ahead_of_their_share(tiny_embedder: Embedder) -> None:
    """By what they had, while others wait; it is forgotten as these get theirs, or nobody waits."""
    queue = FairQueue()
    assert queue.charge("asks", 100) == 0
    assert queue.lead("asks") == 0, "nobody waits"
    queue.put(job(tiny_embedder, [200] * 4, "bulk"))
    for asked in range(1, 4):
        queue.charge("asks", 100)
        assert queue.lead("asks") == 100 * asked
    queue.take()
    queue.take()
    assert queue.lead("asks") == 100
    assert queue.lead("another") == 0
    queue.take()
    queue.take()
    assert queue.lead("asks") == 0


@given(st.lists(st.integers(2, 300), min_size=1, max_size=60))
@settings(deadline=None)
def test_batches_hold_every_text_once_and_hardly_any_padding(
    tiny_embedder: Embedder, lengths: list[int]
) -> None:
    """Whatever the lengths; and no batch is over its tokens unless it is one text."""
    queue = FairQueue()
    queue.put(job(tiny_embedder, lengths))
    rows = []
    while batch := queue.take():
        widths = [len(text.ids) for text in batch]
        assert len(batch) == 1 or max(widths) * len(batch) <= BATCH_TOKENS
        assert max(widths) - min(widths) <= 2 * PADDING_TOKENS
        rows += [text.row for text in batch]
    assert sorted(rows) == list(range(len(lengths)))


def test_what_nobody_wants_any_more_is_not_run(tiny_embedder: Embedder) -> None:
    """A cancelled job leaves the queue."""
    queue = FairQueue()
    gone, wanted = job(tiny_embedder, [20] * 5), job(tiny_embedder, [20])
    queue.put(gone)
    queue.put(wanted)
    gone.future.cancel()
    assert [text.job for text in queue.take()] == [wanted]
    assert queue.take() == []


def test_vectors_have_the_bits_of_no_batching(tiny_embedder: Embedder, batcher: Batcher) -> None:
    """Texts of many clients and lengths, behind a prompt or not, urgent or not."""
    texts = [f"{'word ' * (n % 23)}{n}" for n in range(120)]
    for prompt in ("", tiny_embedder.prompts["web_search_query"]):
        ids = [text.ids for text in tiny_embedder.tokenize(texts, prompt=prompt)]
        futures: list[Future[Vectors]] = [
            batcher.submit(
                tiny_embedder,
                ids[start : start + 4],
                client=start % 3,
                prompt=prompt,
                urgent=start % 2 == 0,
            )
            for start in range(0, len(ids), 4)
        ]
        batched = np.concatenate([future.result(60) for future in futures])
        alone = [tiny_embedder.encode(prompt + text) for text in texts]
        assert np.array_equal(batched, np.array(alone))
    assert batcher.load.waiting_tokens == 0
    assert batcher.load.batches < batcher.load.texts


def test_a_text_that_fails_takes_no_other_with_it(
    tiny_embedder: Embedder, batcher: Batcher
) -> None:
    """The request that it is of has the error, those beside it have their vectors."""
    rows = 10**9  # of no table
    futures = [
        batcher.submit(tiny_embedder, [[3, rows if n == 5 else n, 1]], client=n) for n in range(12)
    ]
    wait_for(futures, 60)
    failed = [n for n, future in enumerate(futures) if future.exception()]
    assert failed == [5]


def test_no_more_waits_than_may(tiny_embedder: Embedder) -> None:
    """The rest is told when to come again; what can never fit, that it cannot."""
    batcher = Batcher(1, 2000)
    try:
        futures = []
        with pytest.raises(BusyError, match="2000 that may") as raised:
            for _ in range(100):
                futures.append(batcher.submit(tiny_embedder, [[3] * 500] * 2))
        assert raised.value.retry_after >= 0
        with pytest.raises(UsageError, match="2001 tokens"):
            batcher.submit(tiny_embedder, [[3] * 2001])
        wait_for(futures, 60)
        assert batcher.submit(tiny_embedder, [[3]]).result(60).shape == (1, 64)
        assert batcher.submit(tiny_embedder, []).result(60).shape == (0, 64)
    finally:
        batcher.close()


def test_the_end_waits_for_what_waits(tiny_embedder: Embedder) -> None:
    """Closing finishes all that was taken, and takes nothing more."""
    batcher = Batcher(1, 100_000)
    futures = [batcher.submit(tiny_embedder, [[3] * 50] * 8) for _ in range(20)]
    batcher.close()
    assert all(future.done() for future in futures)
    with pytest.raises(BusyError, match="about to end"):
        batcher.submit(tiny_embedder, [[3]])


def test_threads_that_wait_keep_no_model(tiny_package: Path, batcher: Batcher) -> None:
    """Nor its last texts: what nobody else has is freed."""
    model = Embedder(tiny_package)
    for urgent in (False, True):
        batcher.submit(model, [[3] * 5], urgent=urgent).result(60)
    kept = weakref.ref(model)
    del model
    end = time.monotonic() + 5
    while kept() and time.monotonic() < end:  # the threads are about to wait
        gc.collect()
    assert kept() is None


def test_an_unloaded_model_is_freed_at_once(tiny_package: Path) -> None:
    """All of it, though its tokenizer is in a cycle: an idle process collects no garbage."""
    models = Models([tiny_package], idle_seconds=0.0)
    with models.using() as model:
        kept: list[weakref.ref[object]] = [weakref.ref(model), weakref.ref(model._tokenizer)]
    del model
    gc.disable()
    try:
        models.unload_idle()
        assert [one() for one in kept] == [None, None]
    finally:
        gc.enable()
