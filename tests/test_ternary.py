"""BitNet: ternary weights and 8-bit activations, the same integers in every precision."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from standins.random_checkpoint import (
    random_checkpoint,
    tiny_gemma3,
    tiny_qwen3,
    tiny_tokenizer,
)

from harrier_edge.errors import UsageError
from harrier_edge.session import Session
from harrier_export import ExportOptions, export, parity
from harrier_export.parity import row_cosines
from harrier_export.precision import TERNARY_PRECISIONS
from harrier_export.precision.ternary import pack, ternary
from harrier_export.reference import transformers_vectors

CONFIGS = {"gemma": tiny_gemma3, "qwen": tiny_qwen3}
UNVERIFIED = ExportOptions(embedding="fp32", verify=False)
RANDOM = np.random.default_rng(7)
TEXTS = [[2, *RANDOM.integers(3, 300, length).tolist(), 1] for length in (1, 5, 9, 30, 62, 200)]


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def bitnet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BitNet of several layers."""
    folder = tmp_path_factory.mktemp("bitnet")
    tokenizer = tiny_tokenizer(folder / "tokenizer.json")
    config = CONFIGS[request.param]()
    return random_checkpoint(folder / "bitnet", config=config, tokenizer=tokenizer, bitnet=True)


def session(bitnet: Path, precision: str, folder: Path) -> Session:
    """The checkpoint in `precision`, its table in float32."""
    options = dataclasses.replace(UNVERIFIED, precision=precision)
    package = export(bitnet, folder / precision, options).folder
    query = package / "query.onnx"
    return Session(package / "model.onnx", dimension=64, pad_token=0, query=query, threads=2)


def test_every_precision_has_the_bits_of_the_others(bitnet: Path, tmp_path: Path) -> None:
    """Alone, in company, and behind a beginning that is kept; 2 bits take a quarter of 8."""
    sessions = [session(bitnet, name, tmp_path) for name in TERNARY_PRECISIONS]
    wanted = sessions[0].run(TEXTS)
    for one in sessions:
        assert np.array_equal(one.run_many(TEXTS), wanted)
        assert np.array_equal(one.run_many(TEXTS[::-1])[::-1], wanted)
        one.run_after(TEXTS[3][:6], TEXTS[3])
        kept = one.run_after(TEXTS[3][:6], TEXTS[3])
        assert kept is not None
        assert np.array_equal(kept[0], wanted[3])
    for precision, share in (("int8", 1), ("ternary", 4)):
        model = onnx.load(tmp_path / precision / "model.onnx", load_external_data=False)
        weights = {one.name: math.prod(one.dims) for one in model.graph.initializer}
        assert weights["layers.0.mlp.down_proj.weight"] == 64 * 96 // share


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_a_layer_is_the_published_formula(name: str, tmp_path: Path) -> None:
    """Against the formula in torch; a model of one layer, for what is rounded carries through."""
    config = {**CONFIGS[name](), "num_hidden_layers": 1, "layer_types": ["full_attention"]}
    tokenizer = tiny_tokenizer(tmp_path / "tokenizer.json")
    checkpoint = random_checkpoint(
        tmp_path / "bitnet", config=config, tokenizer=tokenizer, bitnet=True
    )
    wanted = transformers_vectors(checkpoint, TEXTS, lambda done: None)
    assert row_cosines(wanted[1:], wanted[:-1]).max() < 0.99, "the texts must differ"
    seen = session(checkpoint, "ternary", tmp_path).run_many(TEXTS)
    assert row_cosines(seen, wanted).min() > 0.99999


def test_the_whole_model_keeps_to_the_formula(
    bitnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Export measures it, and its figure stands in the manifest."""
    monkeypatch.setattr(parity, "MAX_TEXT_TOKENS", 50)
    options = ExportOptions(precision="ternary", embedding="fp32")
    manifest = export(bitnet, tmp_path / "package", options).manifest
    assert manifest.parity is not None
    assert manifest.parity.mean_cosine > 0.9995
    assert manifest.precision.linear == "ternary in 2 bit, activations in 8 bit by token"


def test_four_codes_fit_a_byte() -> None:
    """The first in the lowest bits; the scale is the mean magnitude."""
    mean, codes = ternary(np.array([[0.9, -0.2], [0.4, -2.5], [0, 0], [1, 1]], np.float32))
    assert mean == np.float32(6 / 8)
    assert codes.tolist() == [[1, 0], [1, -1], [0, 0], [1, 1]]
    assert pack(codes.T).tolist() == [[0b10_01_10_10], [0b10_01_00_01]]


def test_a_precision_of_the_other_kind_is_refused(
    bitnet: Path, tiny_gemma: Path, tmp_path: Path
) -> None:
    """With those that there are."""
    with pytest.raises(UsageError, match="'int4' is unknown; wanted fp32, int8, ternary"):
        export(bitnet, tmp_path / "package", ExportOptions(precision="int4"))
    with pytest.raises(UsageError, match="trained with ternary weights"):
        export(tiny_gemma, tmp_path / "package", ExportOptions(precision="ternary"))
