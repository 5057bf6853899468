"""The exported graphs at full size: trained weights of the 270M, random ones of the 0.6B."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from standins.folder import cache, full_tokenizer
from standins.gemma3_270m import gemma3_270m
from standins.optimum import optimum_export
from standins.packages import cached_package
from standins.random_checkpoint import (
    gemma3_270m as gemma3_270m_shape,
)
from standins.random_checkpoint import (
    qwen3_0_6b,
    random_checkpoint,
    tiny_tokenizer,
)

from harrier_edge import Embedder
from harrier_edge.session import Session, Vectors
from harrier_edge.tokens import Tokenizer
from harrier_export import reference
from harrier_export.parity import MAX_TEXT_TOKENS, row_cosines
from harrier_export.texts import parity_texts
from harrier_export.tokenizer import write_tokenizer

pytestmark = pytest.mark.large


@pytest.fixture(scope="module")
def standin() -> Path:
    """Gemma 3 270M in Harrier-270M's shape."""
    return gemma3_270m()


@pytest.fixture(scope="module")
def texts(standin: Path) -> list[list[int]]:
    """The parity texts as token ids of the stand-in."""
    tokenizer = Tokenizer(standin / "tokenizer.json", final_token=1, max_tokens=MAX_TEXT_TOKENS)
    encoded = [text.ids for text in tokenizer.encode(parity_texts())]
    lengths = sorted(map(len, encoded))
    assert len(encoded) >= 64
    assert lengths[0] <= 4
    assert lengths[-1] > 1900
    return encoded


@pytest.fixture(scope="module")
def wanted(standin: Path, texts: list[list[int]]) -> Vectors:
    """What transformers gives for them in float32."""
    return reference.transformers_vectors(standin, texts, lambda done: None)


@pytest.fixture(scope="module")
def alone(standin: Path, texts: list[list[int]]) -> Vectors:
    """What the fp32 package gives for them, one at a time."""
    session = Session(cached_package(standin, "fp32") / "model.onnx", dimension=640, pad_token=0)
    return np.concatenate([session.run([ids]) for ids in texts])


def embed(package: Path, texts: Sequence[list[int]], order: Sequence[int]) -> Vectors:
    """Embed texts in batches of up to eight in a given order, whatever their lengths."""
    session = Session(package / "model.onnx", dimension=640, pad_token=0)
    vectors = np.empty((len(texts), 640), np.float32)
    for start in range(0, len(order), 8):
        rows = list(order[start : start + 8])
        vectors[rows] = session.run([texts[row] for row in rows])
    return vectors


def test_fp32_is_the_reference_alone_and_in_mixed_batches(
    standin: Path, texts: list[list[int]], wanted: Vectors, alone: Vectors
) -> None:
    """Minimum cosine 0.9999 over all parity texts, however they are batched."""
    assert row_cosines(alone, wanted).min() >= 0.9999
    short = [row for row, ids in enumerate(texts) if len(ids) < 400]
    random.Random(0).shuffle(short)
    mixed = embed(cached_package(standin, "fp32"), texts, short)
    assert row_cosines(mixed[short], wanted[short]).min() >= 0.9999


@pytest.mark.parametrize(
    ("precision", "mean", "least"), [("int8", 0.998, 0.98), ("int8-block", 0.999, 0.98)]
)
def test_8_bits_are_faithful(
    standin: Path,
    texts: list[list[int]],
    wanted: Vectors,
    precision: str,
    mean: float,
    least: float,
) -> None:
    """Mean and minimum cosine over the parity texts, of which none was seen in calibration."""
    package = cached_package(standin, precision)
    session = Session(package / "model.onnx", dimension=640, pad_token=0)
    seen = session.run_many(texts)
    assert row_cosines(seen, wanted).mean() >= mean
    assert row_cosines(seen, wanted).min() >= least


def test_the_same_in_the_shape_of_the_0_6b() -> None:
    """Random Qwen3 weights in the exact shape, in two shards: minimum cosine 0.9999."""
    checkpoint = cache() / "random-qwen3-0.6b"
    if not checkpoint.exists():
        random_checkpoint(
            checkpoint, config=qwen3_0_6b(), tokenizer=full_tokenizer("qwen3"), shards=2
        )
    package = cached_package(checkpoint, "fp32")
    tokenizer = Tokenizer(package / "tokenizer.json", final_token=151643, max_tokens=500)
    texts = [text.ids for text in tokenizer.encode(parity_texts()[::8])]
    session = Session(package / "model.onnx", dimension=1024, pad_token=151643)
    seen = session.run(texts)
    del session
    wanted = reference.transformers_vectors(checkpoint, texts, lambda done: None)
    assert row_cosines(seen, wanted).min() >= 0.9999


def test_optimum_agrees(standin: Path, texts: list[list[int]], alone: Vectors) -> None:
    """An export that shares no code with ours, pooled and normalized outside, to 0.9999."""
    judge = onnxruntime.InferenceSession(str(optimum_export(standin) / "model.onnx"))
    some = [(ids, ours) for ids, ours in zip(texts, alone, strict=True) if len(ids) < 600]
    assert len(some) >= 64
    for ids, ours in some:
        feeds = {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64)}
        state = judge.run(["last_hidden_state"], feeds)[0][:, -1]
        assert row_cosines(ours[None], state).min() >= 0.9999


def test_txtai_takes_the_package_as_it_is(standin: Path) -> None:
    """Its ONNX path, with nothing but the package, gives our vectors."""
    package = cached_package(standin, "int8")
    texts = ["A falcon over the field.", "日本語の文", "the word in many words " * 20]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its many dependencies
        from txtai.models import PoolingFactory

        pooling = PoolingFactory.create(
            {"path": str(package / "model.onnx"), "tokenizer": str(package), "device": -1}
        )
        theirs = np.asarray(pooling.encode(texts))
    assert row_cosines(theirs, Embedder(package).encode(texts)).min() >= 0.9999


@pytest.mark.parametrize(
    ("model", "kind", "final"), [("harrier-270m", "gemma3", 1), ("harrier-0.6b", "qwen3", 151643)]
)
def test_token_ids_are_the_published_ones(
    shared: Path, tmp_path: Path, model: str, kind: str, final: int
) -> None:
    """Every text of the gold file gives the ids, or their number, that Harrier's tokenizer does."""
    write_tokenizer(full_tokenizer(kind), tmp_path / "tokenizer.json", final)
    tokenizer = Tokenizer(tmp_path / "tokenizer.json", final_token=final, max_tokens=32768)
    lines = (shared / "gold" / "tokens.jsonl").read_text("utf-8").splitlines()
    gold = [line for line in map(json.loads, lines) if line["model"] == model]
    assert gold
    for line in gold:
        ids = tokenizer.encode([line["text"]])[0].ids
        assert line.get("ids", ids) == ids
        assert line.get("count", len(ids)) == len(ids)
        assert "ids" in line or "count" in line


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_DATA")
@pytest.mark.parametrize("precision", ["fp32", "int8-block", "int4 --no-calibrate"])
def test_an_export_needs_less_memory_than_its_largest_tensor(
    tmp_path: Path, precision: str
) -> None:
    """The 270M's table alone is 671 MB in float32; 400 MB for all that the process has do.

    The tiny tokenizer is for the reason that reading Gemma's own takes more than that.
    """
    checkpoint = random_checkpoint(
        tmp_path / "model",
        config=gemma3_270m_shape(),
        tokenizer=tiny_tokenizer(tmp_path / "tokenizer.json"),
    )
    target = tmp_path / "package"
    command = [sys.executable, "-m", "harrier_edge", "export", str(checkpoint), "-o", str(target)]
    limited = f"ulimit -d 400000; exec {' '.join(command)} --no-verify --precision {precision}"
    run = subprocess.run(["bash", "-c", limited], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    shutil.rmtree(tmp_path)


def test_a_trained_model_ranks_what_its_words_say(standin: Path) -> None:
    """Even a model that was never taught to embed puts a text next to its near copy."""
    embedder = Embedder(cached_package(standin, "int8"))
    texts = ["The harrier hunts low over the fields.", "Interest rates were raised again today."]
    near = ["A harrier hunts low over the field.", "Interest rates were again raised today."]
    scores = embedder.similarity(embedder.encode(texts), embedder.encode(near))
    assert scores.argmax(axis=1).tolist() == [0, 1]
