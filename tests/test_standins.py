"""The stand-ins are what they say they are."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file
from standins.gemma3_270m import CONFIG
from standins.large import large_checkpoint
from standins.random_checkpoint import (
    gemma3_27b,
    gemma3_270m,
    qwen3_0_6b,
    random_checkpoint,
    tensor_shapes,
    tiny_gemma3,
    tiny_qwen3,
    tiny_tokenizer,
)

from harrier_edge import catalog
from harrier_export import ExportOptions, export
from harrier_export.architectures import architecture_of

SHAPES = {"harrier-270m": gemma3_270m, "harrier-0.6b": qwen3_0_6b, "harrier-27b": gemma3_27b}


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_the_catalogues(name: str) -> None:
    """Layers, sizes, heads, tokens and the count of parameters are the real model's."""
    config, spec = SHAPES[name](), catalog.load(name)
    decoder = architecture_of(config).read(config)
    assert len(decoder.layers) == spec.shape.layers
    for field in ("hidden_size", "heads", "kv_heads", "head_dim", "vocab_size"):
        assert getattr(decoder, field) == getattr(spec.shape, field)
    assert decoder.intermediate_size == spec.shape.intermediate_size
    assert decoder.attention_scale == spec.attention.query_pre_attn_scalar**-0.5
    assert (decoder.final_token, decoder.pad_token) == (spec.tokens.final, spec.tokens.pad)
    windows = {layer.window for layer in decoder.layers}
    assert windows == ({None} if spec.attention.layers == "full" else {None, 1024})
    parameters = sum(math.prod(shape) for shape in tensor_shapes(config).values())
    assert parameters == spec.shape.parameters


def test_a_large_checkpoint_needs_little_disk(tmp_path: Path, tiny_gemma: Path) -> None:
    """Shards and index are whole, most of their bytes are not on the disk, and it exports."""
    config = {**tiny_gemma3(), "hidden_size": 512, "intermediate_size": 16384}
    folder = large_checkpoint(
        tmp_path / "large", config=config, tokenizer=tiny_gemma / "tokenizer.json", dense=1 / 8
    )
    (shard,) = folder.glob("*.safetensors")
    assert shard.stat().st_blocks * 512 < shard.stat().st_size / 3
    first, second = (load_file(shard)[f"layers.{i}.mlp.up_proj.weight"] for i in (0, 1))
    assert np.count_nonzero(first) > first.size / 10
    assert not np.array_equal(first, second)
    options = ExportOptions(precision="int4", calibrate=False, verify=False)
    assert export(folder, tmp_path / "package", options).manifest.dimension == 512


def test_the_0_6b_has_the_published_config(shared: Path) -> None:
    """Field by field, but for what transformers adds and no model depends on."""
    path = shared / "facts" / "harrier-0.6b" / "config.json"
    published = json.loads(path.read_text("utf-8"))
    mine = qwen3_0_6b()
    for key in ("transformers_version", "use_cache", "bos_token_id"):
        published.pop(key, None)
        mine.pop(key, None)
    assert mine == published


def test_shards_hold_every_tensor_once(tmp_path: Path) -> None:
    """The index tells where each is, and other shards change no weight."""
    tokenizer = tiny_tokenizer(tmp_path / "tokenizer.json")
    whole = random_checkpoint(tmp_path / "1", config=tiny_qwen3(), tokenizer=tokenizer)
    parts = random_checkpoint(tmp_path / "3", config=tiny_qwen3(), tokenizer=tokenizer, shards=3)
    index = json.loads((parts / "model.safetensors.index.json").read_text("utf-8"))
    assert index["weight_map"].keys() == tensor_shapes(tiny_qwen3()).keys()
    assert len(set(index["weight_map"].values())) == 3
    with safe_open(whole / "model.safetensors", framework="np") as one:
        for name, file in index["weight_map"].items():
            with safe_open(parts / file, framework="np") as shard:
                assert (one.get_tensor(name) == shard.get_tensor(name)).all()


def test_the_270m_attends_everywhere() -> None:
    """Harrier-270M has no sliding layer, whatever its base model has."""
    assert set(CONFIG["layer_types"]) == {"full_attention"}
    assert CONFIG["rope_theta"] == 1e6
