"""Token ids to unit vectors."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from standins.packages import Exported

from harrier_edge.beginnings import KEPT
from harrier_edge.errors import PackageError, UsageError
from harrier_edge.package import Package, find_package
from harrier_edge.session import CACHED_TEXT_TOKENS, Session
from harrier_edge.spec import MANIFEST_NAME, PackageManifest, read_table
from harrier_export.precision import PRECISIONS


@pytest.fixture(scope="module")
def session(tiny_package: Path) -> Session:
    """The tiny package's graph."""
    return Session(tiny_package / "model.onnx", dimension=64, pad_token=0)


texts = st.lists(st.lists(st.integers(0, 300), min_size=1, max_size=60), min_size=1, max_size=8)


@settings(max_examples=40, deadline=None)
@given(texts, st.randoms(use_true_random=False))
def test_a_vector_does_not_depend_on_its_company(
    session: Session, batch: list[list[int]], random: Random
) -> None:
    """A text's vector is the same bits alone, in a batch, and in that batch in another order."""
    together = session.run(batch)
    alone = np.concatenate([session.run([ids]) for ids in batch])
    order = list(range(len(batch)))
    random.shuffle(order)
    assert np.array_equal(together, alone)
    assert np.array_equal(session.run([batch[i] for i in order]), together[order])


def test_a_token_without_a_row_is_refused(tiny_package: Path) -> None:
    """Before ONNX Runtime, which reads past the end of a quantized table, is given any."""
    query = tiny_package / "query.onnx"
    wrong = [2, 5, 9, 384, 1]
    session = Session(
        tiny_package / "model.onnx", dimension=64, pad_token=0, vocab_size=384, query=query
    )
    for embed in (session.run, session.run_many, lambda batch: session.run_after([2, 5], batch[0])):
        with pytest.raises(PackageError, match="has the token 384, and the model's table has 384"):
            embed([wrong])
    manifest = read_table(tiny_package / MANIFEST_NAME, PackageManifest)
    assert manifest.vocab_size == 384


@pytest.fixture(
    scope="module",
    params=[*(("tiny_gemma", name) for name in PRECISIONS), ("tiny_qwen", "int8")],
    ids="-".join,
)
def any_session(
    request: pytest.FixtureRequest,
    exported: Exported,
) -> Session:
    """The tiny Gemma in each precision, and another architecture, on two threads."""
    checkpoint, precision = request.param
    target = exported(request.getfixturevalue(checkpoint), precision)
    return Session(
        target / "model.onnx",
        dimension=64,
        pad_token=0,
        query=target / "query.onnx",
        layers=Package(target, read_table(target / MANIFEST_NAME, PackageManifest)).layers,
        one_pass_tokens=1000,
        threads=2,
    )


@pytest.fixture(scope="module")
def plain_session(any_session: Session) -> Session:
    """The same package with nothing but `model.onnx`."""
    return Session(any_session._model, dimension=64, pad_token=0, threads=2)


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.sampled_from([1, 2, 3, 9, 31, 80, 200, 511, 512, 513, 700]), min_size=2),
    st.integers(0, 2**32),
)
def test_many_texts_get_the_bits_that_each_gets_alone(
    any_session: Session, plain_session: Session, lengths: list[int], seed: int
) -> None:
    """In every precision, side by side and in one batch, on both sides of the kernels' border."""
    random = np.random.default_rng(seed)
    texts = [[2, *random.integers(3, 300, n - 1).tolist()] for n in lengths[:12]]
    alone = np.concatenate([any_session.run([ids]) for ids in texts])
    assert np.array_equal(any_session.run_many(texts), alone)
    assert np.array_equal(plain_session.run(texts), alone)
    assert np.array_equal(any_session.run_many(texts[::-1], batch_size=3), alone[::-1])


def test_one_thread_gives_the_bits_of_two(tiny_package: Path, session: Session) -> None:
    """A thread count is for speed alone."""
    texts = [[2, *range(3, 3 + n), 1] for n in (1, 7, 60, 250)]
    one = Session(tiny_package / "model.onnx", dimension=64, pad_token=0, threads=1)
    assert np.array_equal(one.run_many(texts), session.run_many(texts))


def test_a_graph_that_is_loaded_once_gives_the_same_bits(any_session: Session) -> None:
    """Queries, batches and single texts go through one copy of the weights, whatever is asked."""
    model = any_session._model
    once = Session(
        model,
        dimension=64,
        pad_token=0,
        query=model.with_name("query.onnx"),
        once=True,
        threads=2,
    )
    texts = [[2, *range(3, 3 + n), 1] for n in (1, 7, 7, 60, 250)]
    assert np.array_equal(once.run_many(texts), any_session.run_many(texts))
    assert np.array_equal(once.run_beside(texts[1:3]), any_session.run(texts[1:3]))
    assert once.run_after([2], texts[1]) is None
    once.give_back()
    assert once._one_thread is None
    assert once._all_threads() is once._single()


def test_every_text_is_counted_and_a_failure_is_not_swallowed(session: Session) -> None:
    """Progress adds up to the number of texts; a token that does not exist is an error."""
    counts: list[int] = []
    texts = [[2, 5, 1]] * 300
    session.run_many(texts, on_texts=counts.append)
    assert sum(counts) == 300
    assert len(counts) > 1
    with pytest.raises(Exception, match="indices"):
        session.run_many([*texts, [2, 10**6, 1]])
    assert session.run_many([]).shape == (0, 64)


def test_vectors_have_unit_length(session: Session) -> None:
    """Normalization is in the graph."""
    vectors = session.run([[2, 7, 1], [2, 1]])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_what_stands_in_the_padding_is_not_seen(tiny_package: Path) -> None:
    """Two batches that differ only behind the mask give the same bits."""
    plain = onnxruntime.InferenceSession(str(tiny_package / "model.onnx"))
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int64)
    ids = np.array([[2, 7, 1, 0, 0], [2, 5, 6, 7, 1]], np.int64)
    other = np.array([[2, 7, 1, 9, 99], [2, 5, 6, 7, 1]], np.int64)
    first = plain.run(None, {"input_ids": ids, "attention_mask": mask})[0]
    second = plain.run(None, {"input_ids": other, "attention_mask": mask})[0]
    assert np.array_equal(first, second)


def test_a_wrong_dimension_is_refused(tiny_package: Path) -> None:
    """A manifest that disagrees with its graph does not load."""
    with pytest.raises(PackageError, match="wanted sentence_embedding of float, dimension 65"):
        Session(tiny_package / "model.onnx", dimension=65, pad_token=0)


def test_other_inputs_are_refused(own_package: Path) -> None:
    """A graph of another form is named with the inputs that it has."""
    path = own_package / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    extra = onnx.helper.make_tensor_value_info("token_type_ids", onnx.TensorProto.INT64, ["b"])
    model.graph.input.append(extra)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(PackageError, match="token_type_ids"):
        Session(path, dimension=64, pad_token=0)


def test_a_damaged_graph_is_refused(own_package: Path) -> None:
    """Bytes that are no graph end in an error of ours."""
    path = own_package / "model.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(PackageError, match="cannot load it"):
        Session(path, dimension=64, pad_token=0)


def test_a_provider_that_is_not_installed_is_named(tiny_package: Path) -> None:
    """The message lists the providers that there are."""
    with pytest.raises(UsageError, match=r"'CUDA' is not installed.*CPU"):
        Session(tiny_package / "model.onnx", dimension=64, pad_token=0, providers=["CUDA"])


def test_no_threads_are_refused(tiny_package: Path) -> None:
    """Zero means "all" to ONNX Runtime, which is not what it says here."""
    with pytest.raises(UsageError, match="threads is 0"):
        Session(tiny_package / "model.onnx", dimension=64, pad_token=0, threads=0)


def test_the_graph_with_a_past_gives_the_bits_of_the_plain_one(
    any_session: Session, plain_session: Session
) -> None:
    """One text through `query.onnx`, with nothing before it, is what it is through `model.onnx`."""
    for count in (1, 2, 3, 63, 64, 65, 512, 513, 900):
        text = [2, *range(3, 3 + count % 200)] * (1 + count // 200)
        assert np.array_equal(any_session.run([text]), plain_session.run([text])), count


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 62), st.lists(st.integers(2, 63), min_size=2, max_size=4), st.integers(0, 2**32)
)
def test_a_beginning_that_is_kept_changes_no_bit(
    any_session: Session, plain_session: Session, start: int, rests: list[int], seed: int
) -> None:
    """What follows it has the vector that the whole text has, in sliding layers too."""
    random = np.random.default_rng(seed)
    beginning = [2, *random.integers(0, 260, start - 1).tolist()]
    any_session._beginnings._pasts.clear()
    for rest in (min(rest, CACHED_TEXT_TOKENS - start) for rest in rests):
        text = [*beginning, *random.integers(0, 260, rest - 1).tolist(), 1]
        after = any_session.run_after(beginning, text)
        assert list(any_session._beginnings._pasts) == [tuple(beginning)]
        assert after is not None
        assert np.array_equal(after, any_session.run([text]))
        assert np.array_equal(after, plain_session.run([text, [2, 3, 1], [2] * 64])[:1])


def test_a_text_that_has_not_that_beginning_is_left_to_others(any_session: Session) -> None:
    """As is one with nothing behind it, and one for which no bits are promised."""
    assert any_session.run_after([2, 5], [2, 6, 7, 1]) is None
    assert any_session.run_after([2, 5, 6], [2, 5, 6, 1]) is None
    assert any_session.run_after([], [2, 6, 7, 1]) is None
    assert any_session.run_after([2, 5], [2, 5] * 33) is None


def test_beginnings_are_kept_in_bounds(any_session: Session) -> None:
    """The memory of many custom instructions is not without end, and old ones work again."""
    first = any_session.run_after([2, 3], [2, 3, 9, 1])
    for token in range(4, 60):
        any_session.run_after([2, token], [2, token, 9, 1])
    assert len(any_session._beginnings._pasts) == KEPT
    again = any_session.run_after([2, 3], [2, 3, 9, 1])
    assert first is not None
    assert again is not None
    assert np.array_equal(first, again)


@settings(max_examples=8, deadline=None)
@given(
    st.integers(1001, 3000) | st.sampled_from([1024, 1025, 1088, 1089, 1536, 2048]),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_a_long_text_in_pieces_has_the_bits_of_one_pass(
    any_session: Session, plain_session: Session, count: int, usual: bool, seed: int
) -> None:
    """Layer by layer, in sliding layers too, with or without the tokens that texts begin and end
    with, which may stand elsewhere as well."""
    random = np.random.default_rng(seed)
    text = random.integers(0, 300, count).tolist()
    if usual:
        text[0], text[-1] = 2, 1
    short = [2, 5, 1]
    whole = plain_session.run([text])
    assert np.array_equal(any_session.run([text]), whole)
    assert np.array_equal(any_session.run_many([short, text, short])[1:2], whole)
    assert np.array_equal(any_session.run([short, text])[1:], whole)


def test_threads_may_embed_long_texts_at_once(any_session: Session, plain_session: Session) -> None:
    """They wait for each other, since each text takes all cores, and get what is theirs."""
    texts = [[2, *range(3, 250), 7 + i] * 5 for i in range(3)]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda text: any_session.run([text]), texts))
    for text, vector in zip(texts, together, strict=True):
        assert np.array_equal(vector, plain_session.run([text]))


def test_a_graph_that_is_no_layer_is_refused(tiny_package: Path) -> None:
    """The error names the file and its inputs."""
    path = tiny_package / "model.onnx"
    session = Session(path, dimension=64, pad_token=0, layers=[path], one_pass_tokens=2)
    with pytest.raises(PackageError, match=r"model.onnx: its inputs are \['attention_mask'"):
        session.run([[2, 3, 1]])


FORK = """
import os, sys, warnings
from pathlib import Path
from harrier_edge import Embedder
from harrier_edge.errors import UsageError
from harrier_edge.session import Session

warnings.simplefilter("ignore")  # Python's own of fork beside threads
model = Path(sys.argv[1]) / "model.onnx"
session = Session(model, dimension=64, pad_token=0, threads=2)
session.run_many([[2, 5, 1]] * 300)
embedder = Embedder(sys.argv[1])
embedder.encode(["a"])
calls = (
    lambda: session.run([[2, 5, 1]]),
    lambda: session.run_many([[2, 5, 1]] * 300),
    lambda: embedder.encode(["a"]),
)
child = os.fork()
if not child:
    for call in calls:
        try:
            call()
        except UsageError as error:
            print(error, flush=True)
    print(Session(model, dimension=64, pad_token=0, threads=2).run([[2, 5, 1]]).shape, flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(session.run([[2, 5, 1]]).shape)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_is_told_to_load_its_own(tiny_package: Path) -> None:
    """It gets an error where it would wait for ever, its own session works, and so does the old."""
    command = [sys.executable, "-c", FORK, str(tiny_package)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    *errors, forked, old = run.stdout.splitlines()
    assert len(errors) == 3
    assert all("Load the model in the new process" in error for error in errors)
    assert forked == old == "(1, 64)"


LARGE_BATCH = """
import sys
from pathlib import Path
from harrier_edge.machine import memory
from harrier_edge.session import Session

folder = Path(sys.argv[1])
session = Session(
    folder / "model.onnx", dimension=64, pad_token=0, query=folder / "query.onnx", threads=2
)
short, long = [[2, 5, 1]] * 300, [2, *range(3, 203)] * 35
for embed in (lambda: session.run_many([long] * 2), lambda: session.run([long])):
    session.run_many(short)
    session.run(short[:1])
    before = memory().now_mb
    kept = embed()
    print(memory().peak_mb - before, memory().now_mb - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of a process's memory")
def test_memory_goes_back_after_a_large_batch(tiny_package: Path) -> None:
    """What long texts took is not kept for the short ones that follow, nor with the vectors."""
    command = [sys.executable, "-c", LARGE_BATCH, str(tiny_package)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    for line in run.stdout.splitlines():
        grown, left = map(float, line.split())
        assert grown > 40
        assert left < grown / 2


TWO_GRAPHS = """
import sys
from pathlib import Path
from harrier_edge.machine import memory
from harrier_edge.session import Session

Session._shares_memory = sys.argv[2] == "shared"
folder, text = Path(sys.argv[1]), [2, *range(300, 800), 1]
session = Session(
    folder / "model.onnx", dimension=384, pad_token=0, query=folder / "query.onnx", threads=2
)
session.run([text])
before = memory().peak_mb
session.run_many([text] * 8)
print(memory().peak_mb - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="what memory is resident is the system's")
def test_what_one_graph_leaves_free_is_the_next_ones() -> None:
    """Many texts after a single one take less than with memory of each graph's own."""
    folder = str(find_package("kestrel"))

    def grown(memory: str) -> float:
        command = [sys.executable, "-c", TWO_GRAPHS, folder, memory]
        run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return float(run.stdout)

    assert grown("shared") < grown("own") - 5
