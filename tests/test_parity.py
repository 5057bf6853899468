"""The exported graph against transformers in float32, on small random models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from standins.random_checkpoint import gemma3_27b, random_checkpoint, tiny_gemma3, tiny_qwen3

from harrier_edge import Embedder
from harrier_edge.package import open_package
from harrier_edge.session import Session
from harrier_export import ExportOptions, export, parity, reference
from harrier_export.parity import row_cosines

FAST = ExportOptions(precision="fp32", verify=False)


def token_ids(lengths: list[int], final: int = 1) -> list[list[int]]:
    """Random texts of the tiny vocabulary, each with its final token."""
    random = np.random.default_rng(0)
    return [[2, *random.integers(3, 300, n).tolist(), final] for n in lengths]


def assert_parity(checkpoint: Path, package: Path, texts: list[list[int]]) -> None:
    """Each text alone, and all in one mixed batch, agree with transformers to 0.99999."""
    wanted = reference.transformers_vectors(checkpoint, texts, lambda done: None)
    session = Session(package / "model.onnx", dimension=wanted.shape[1], pad_token=0)
    alone = np.concatenate([session.run([ids]) for ids in texts])
    assert row_cosines(alone, wanted).min() > 0.99999
    assert row_cosines(session.run(texts), wanted).min() > 0.99999
    assert row_cosines(wanted[1:], wanted[:-1]).max() < 0.99, "the texts must differ in the model"


def test_gemma_with_sliding_layers_and_scaled_positions(
    tiny_gemma: Path, tiny_package: Path
) -> None:
    """5:1 sliding layers, window 16, linear scaling 8, a scale that is not head_dim's."""
    config = tiny_gemma3()
    assert config["query_pre_attn_scalar"] != config["head_dim"]
    assert_parity(tiny_gemma, tiny_package, token_ids([1, 14, 15, 16, 40, 333, 700]))


def test_the_27b_with_narrow_layers(tmp_path: Path, tiny_gemma: Path) -> None:
    """All 62 layers, in shards: 5:1 sliding, window 1,024, linear scaling 8, the scalar 168."""
    narrow = {"head_dim": 32, "hidden_size": 64, "intermediate_size": 96, "vocab_size": 384}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = {**gemma3_27b(), **narrow, **heads}
    assert (config["num_hidden_layers"], config["sliding_window"]) == (62, 1024)
    tokenizer = tiny_gemma / "tokenizer.json"
    checkpoint = random_checkpoint(
        tmp_path / "narrow", config=config, tokenizer=tokenizer, shards=4
    )
    options = ExportOptions(precision="fp32", verify=False, max_file_bytes=10**6)
    package = export(checkpoint, tmp_path / "package", options).folder
    assert len(list(package.glob("model.onnx_data*"))) > 2
    assert_parity(checkpoint, package, token_ids([3, 40, 1023, 1400]))


def test_qwen_in_shards(tiny_qwen: Path, tmp_path: Path) -> None:
    """Grouped heads, norms of each head, SwiGLU, weights in several files."""
    package = export(tiny_qwen, tmp_path / "package", FAST).folder
    assert_parity(tiny_qwen, package, token_ids([1, 2, 30, 333]))


@pytest.mark.parametrize("config", [tiny_gemma3(), tiny_qwen3()], ids=["gemma3", "qwen3"])
@pytest.mark.parametrize(
    "kind",
    [
        {"dtype": "float16"},
        {"dtype": "float32"},
        {"dtype": "float32", "prefix": "model.", "lm_head": True},
    ],
    ids=str,
)
def test_other_forms_of_a_checkpoint(
    tmp_path: Path, tiny_gemma: Path, config: dict[str, Any], kind: dict[str, Any]
) -> None:
    """Other dtypes, and the names and the head of a causal language model, change nothing."""
    tokenizer = tiny_gemma / "tokenizer.json"
    bare = {name: value for name, value in kind.items() if name == "dtype"}
    plain = random_checkpoint(tmp_path / "plain", config=config, tokenizer=tokenizer, **bare)
    checkpoint = random_checkpoint(tmp_path / "other", config=config, tokenizer=tokenizer, **kind)
    package = export(checkpoint, tmp_path / "package", FAST).folder
    assert_parity(plain, package, token_ids([1, 20, 50]))


def test_a_verified_export_says_how_close_it_is(
    tmp_path: Path, tiny_qwen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest names the reference, at least 64 texts, and a minimum over the floor."""
    monkeypatch.setattr(parity, "MAX_TEXT_TOKENS", 100)
    seen: list[tuple[str, int, int]] = []
    options = ExportOptions(precision="fp32", verify=True)
    folder = export(tiny_qwen, tmp_path / "package", options, lambda *p: seen.append(p)).folder
    measured = open_package(folder).manifest.parity
    assert measured is not None
    assert measured.texts >= 64
    assert measured.min_cosine >= 0.9999
    assert measured.reference.startswith("transformers ")
    stages = [stage for stage, _, _ in seen]
    assert set(stages) == {"export", "verify"}
    assert all(done <= total for _, done, total in seen)
    last_export = max(i for i, stage in enumerate(stages) if stage == "export")
    assert seen[last_export][1] == seen[last_export][2]
    assert seen[-1] == ("verify", measured.texts, measured.texts)


def test_texts_of_the_embedder_agree_too(tiny_gemma: Path, tiny_embedder: Embedder) -> None:
    """From text to vector, batches and order included."""
    texts = ["the " * n for n in (50, 1, 20)]
    ids = [encoded.ids for encoded in tiny_embedder._tokenizer.encode(texts)]
    wanted = reference.transformers_vectors(tiny_gemma, ids, lambda done: None)
    assert row_cosines(tiny_embedder.encode(texts), wanted).min() > 0.99999
