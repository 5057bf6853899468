"""Checkpoints that cannot be exported are told from those that can, by name."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from standins.random_checkpoint import random_checkpoint, tiny_gemma3, tiny_qwen3
from standins.sentence_models import PROMPTS, sentence_model

from harrier_edge.errors import CheckpointError, HarrierError, UnsupportedModelError
from harrier_export import ExportOptions, export
from harrier_export.checkpoint import Checkpoint, ModelFolder
from harrier_export.sentence_transformers import SentenceConfig, read_sentence_config

WEIGHTS = "model.safetensors"
NORM = "layers.1.self_attn.q_norm.weight"


def change_config(folder: Path, **values: Any) -> None:
    """Write other values into config.json; None takes a key out."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text("utf-8")), **values}
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}), "utf-8")


def change_tensors(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Load the weights, let `change` alter the table, and write them back."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def refused(folder: Path, error: type[HarrierError], message: str) -> None:
    """Assert that an export of `folder` fails with that message and leaves nothing."""
    target = folder.parent / "packages" / "target"
    with pytest.raises(error, match=message):
        export(folder, target, ExportOptions(precision="fp32", verify=False))
    assert not target.parent.exists() or list(target.parent.iterdir()) == []


def test_a_folder_without_a_config_is_named(tmp_path: Path) -> None:
    """The file that was looked for is in the message."""
    refused(tmp_path, CheckpointError, r"config\.json: No such file")
    refused(tmp_path / "nowhere", CheckpointError, "nowhere: no such folder")


@pytest.mark.parametrize(("text", "message"), [("{", "is not JSON"), ("[]", "holds a list")])
def test_a_config_that_is_no_object_is_named(own_gemma: Path, text: str, message: str) -> None:
    """Damaged JSON, or JSON of another kind."""
    (own_gemma / "config.json").write_text(text, "utf-8")
    refused(own_gemma, CheckpointError, message)


def test_a_folder_without_weights_is_named(own_gemma: Path) -> None:
    """Both names under which weights may come are in the message."""
    (own_gemma / WEIGHTS).unlink()
    refused(own_gemma, CheckpointError, rf"neither {WEIGHTS} nor {WEIGHTS}\.index\.json")


@pytest.mark.parametrize("left", [0, 4, 1000, -1])
def test_truncated_weights_are_named(own_gemma: Path, left: int) -> None:
    """A download that broke off anywhere is told as such."""
    path = own_gemma / WEIGHTS
    path.write_bytes(path.read_bytes()[:left])
    refused(own_gemma, CheckpointError, "is not a whole safetensors file")


def test_weights_of_another_hash_are_named(tmp_path: Path, tiny_gemma: Path) -> None:
    """With --model, the published sha256 decides."""
    with pytest.raises(CheckpointError, match=r"sha256 is \w{64}; harrier-270m at revision 31de"):
        options = ExportOptions(model="harrier-270m", verify=False)
        export(tiny_gemma, tmp_path / "package", options)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_shard_is_named(tmp_path: Path, tiny_qwen: Path) -> None:
    """The shard and the index that promises it are in the message."""
    folder = random_checkpoint(
        tmp_path / "sharded",
        config=tiny_qwen3(),
        tokenizer=tiny_qwen / "tokenizer.json",
        shards=3,
    )
    (folder / "model-00002-of-00003.safetensors").unlink()
    refused(folder, CheckpointError, r"shard model-00002-of-00003\.safetensors is missing")
    (folder / "model.safetensors.index.json").write_text("{}", "utf-8")
    refused(folder, CheckpointError, "is not a shard index")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(own_gemma: Path, value: float) -> None:
    """The tensor is in the message."""

    def spoil(tensors: dict[str, Any]) -> None:
        tensors[NORM] = tensors[NORM].copy()
        tensors[NORM][3] = value

    change_tensors(own_gemma, spoil)
    refused(own_gemma, CheckpointError, f"{NORM} holds NaN or infinity")


def test_a_config_that_disagrees_with_the_tensors_is_named(own_gemma: Path) -> None:
    """Both shapes are in the message."""
    change_config(own_gemma, intermediate_size=128)
    refused(own_gemma, CheckpointError, r"is \[96, 64\], but config\.json says \[128, 64\]")


def test_a_missing_tensor_is_named(own_gemma: Path) -> None:
    """Weights of another model show by what they lack."""
    change_tensors(own_gemma, lambda tensors: tensors.pop(NORM))
    refused(own_gemma, CheckpointError, f"tensor {NORM} is missing")


def test_a_tensor_without_a_place_is_named(own_gemma: Path) -> None:
    """Weights are never left out in silence."""

    def add(tensors: dict[str, Any]) -> None:
        tensors["layers.0.self_attn.q_proj.lora_A"] = np.zeros((2, 2), np.float32)

    change_tensors(own_gemma, add)
    refused(own_gemma, UnsupportedModelError, r"first being layers\.0\.self_attn\.q_proj\.lora_A")


def test_quantized_weights_are_named(own_gemma: Path) -> None:
    """A checkpoint in integers is not one that can be read as floats."""

    def quantize(tensors: dict[str, Any]) -> None:
        tensors[NORM] = np.zeros(32, np.int8)

    change_tensors(own_gemma, quantize)
    refused(own_gemma, UnsupportedModelError, f"{NORM} is I8; wanted BF16, F16 or F32")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("attn_logit_softcapping", 50.0),
        ("final_logit_softcapping", 30.0),
        ("use_bidirectional_attention", True),
        ("attention_bias", True),
        ("hidden_activation", "relu"),
        ("is_decoder", False),
        ("num_experts", 8),
        ("layer_types", ["full_attention"] * 6),
        ("layer_types", ["chunked_attention"] * 7),
        ("num_key_value_heads", 3),
        ("sliding_window", 0),
        ("rope_theta", "big"),
        ("rope_theta", 0),
        ("model_type", "gemma3"),
        ("hidden_size", None),
        ("eos_token_id", None),
    ],
)
def test_a_field_that_is_not_supported_is_named(own_gemma: Path, field: str, value: object) -> None:
    """Nothing that changes the mathematics is ignored."""
    change_config(own_gemma, **{field: value})
    refused(own_gemma, UnsupportedModelError, f"config.json: .*{field}")


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "yarn", "factor": 4.0},
        {"rope_type": "dynamic", "factor": 4.0},
        {"rope_type": "linear", "factor": 8.0, "low_freq_factor": 1.0},
        {"type": "llama3", "factor": 8.0},
        {"rope_type": "linear", "factor": -1.0},
    ],
)
def test_other_rotary_scalings_are_named(own_gemma: Path, scaling: dict[str, object]) -> None:
    """Only plain and linear positions are written."""
    change_config(own_gemma, rope_scaling=scaling)
    refused(own_gemma, UnsupportedModelError, "config.json: rotary")


@pytest.mark.parametrize(("field", "value"), [("use_sliding_window", True), ("hidden_act", "x")])
def test_a_field_of_qwen_that_is_not_supported_is_named(
    tmp_path: Path, tiny_qwen: Path, field: str, value: object
) -> None:
    """Qwen3 is held to its own fields."""
    folder = random_checkpoint(
        tmp_path / "qwen", config=tiny_qwen3(), tokenizer=tiny_qwen / "tokenizer.json"
    )
    change_config(folder, **{field: value})
    refused(folder, UnsupportedModelError, f"config.json: .*{field}")


def test_a_qwen_without_a_padding_token_ends_as_its_tokenizer_does(
    tmp_path: Path, tiny_qwen: Path
) -> None:
    """As Qwen3-Embedding, whose config tells it nowhere; what no file tells is not guessed."""
    folder = random_checkpoint(
        tmp_path / "qwen", config=tiny_qwen3(), tokenizer=tiny_qwen / "tokenizer.json"
    )
    change_config(folder, pad_token_id=None)
    options = ExportOptions(precision="fp32", verify=False)
    tokens = export(folder, tmp_path / "package", options).manifest.tokens
    assert (tokens.final, tokens.pad) == (1, 1)
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**data, "post_processor": None}), "utf-8")
    refused(folder, UnsupportedModelError, r"pad_token_id is missing, and tokenizer\.json appends")


@pytest.mark.parametrize(
    ("pooling", "modes"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_lasttoken": False}, r"\['mean_tokens'\]"),
        ({"pooling_mode": "mean"}, r"\['mean'\]"),
        ({"pooling_mode": ["mean", "lasttoken"]}, r"\['mean', 'lasttoken'\]"),
        ({"include_prompt": True}, r"\[\]"),
    ],
)
def test_other_poolings_are_named(own_gemma: Path, pooling: dict[str, Any], modes: str) -> None:
    """In whichever form sentence-transformers has written them."""
    (own_gemma / "1_Pooling" / "config.json").write_text(json.dumps(pooling), "utf-8")
    refused(own_gemma, UnsupportedModelError, f"pools by {modes}; the exporter writes lasttoken")


@pytest.mark.parametrize(
    "pooling",
    [
        {"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False, "include_prompt": True},
        {"embedding_dimension": 64, "pooling_mode": "lasttoken", "include_prompt": True},
        {"embedding_dimension": 64, "pooling_mode": ["lasttoken"]},
    ],
)
def test_last_token_pooling_is_known_in_every_form(
    own_gemma: Path, pooling: dict[str, Any]
) -> None:
    """Older releases wrote a flag for each mode, newer ones the mode."""
    (own_gemma / "1_Pooling" / "config.json").write_text(json.dumps(pooling), "utf-8")
    assert read_sentence_config(ModelFolder(own_gemma)).prompts


@pytest.mark.parametrize(
    ("own", "tokenizers", "wanted"),
    [
        ({"max_seq_length": 256}, {"model_max_length": 512}, 256),
        ({"transformer_task": "feature-extraction"}, {"model_max_length": 512}, 512),
        ({"max_seq_length": None}, {"model_max_length": int(1e30)}, None),
        (None, {"model_max_length": 1e30}, None),
        (None, {}, None),
    ],
)
def test_the_limit_is_sentence_transformers_or_the_tokenizers(
    own_gemma: Path,
    own: dict[str, Any] | None,
    tokenizers: dict[str, Any],
    wanted: int | None,
) -> None:
    """A number that stands for no limit is none; then the model's positions are."""
    if own is not None:
        (own_gemma / "sentence_bert_config.json").write_text(json.dumps(own), "utf-8")
    (own_gemma / "tokenizer_config.json").write_text(json.dumps(tokenizers), "utf-8")
    assert read_sentence_config(ModelFolder(own_gemma)).max_tokens == wanted


def test_what_sentence_transformers_writes_now_is_read(tmp_path: Path) -> None:
    """Pooling, prompts and limit of a model that the installed release has saved."""
    config = read_sentence_config(ModelFolder(sentence_model(tmp_path / "qwen3", "qwen3")))
    assert config == SentenceConfig(PROMPTS, None, 32)


def test_other_modules_are_named(own_gemma: Path) -> None:
    """What sentence-transformers would do after the decoder is not left out in silence."""
    modules = [{"path": "3_Dense", "type": "sentence_transformers.models.Dense"}]
    (own_gemma / "modules.json").write_text(json.dumps(modules), "utf-8")
    refused(own_gemma, UnsupportedModelError, "has a Dense module")


def test_a_large_tensor_is_read_in_blocks(own_gemma: Path) -> None:
    """The blocks are the tensor, and none is larger than was agreed."""
    tensors = load_file(own_gemma / WEIGHTS)
    table = np.arange(700_000 * 64, dtype=np.float32).reshape(700_000, 64)
    save_file({**tensors, "embed_tokens.weight": table}, own_gemma / WEIGHTS)
    tensor = Checkpoint(own_gemma).tensor("embed_tokens.weight", 700_000, 64)
    blocks = [tensor.rows(rows) for rows in tensor.blocks()]
    assert len(blocks) > 1
    assert max(block.nbytes for block in blocks) <= 4 * 2**20
    assert np.array_equal(np.concatenate(blocks), table)


def test_the_fingerprint_is_of_what_makes_the_vectors(own_gemma: Path) -> None:
    """Other weights give another one; a readme gives the same."""
    before = Checkpoint(own_gemma).fingerprint()
    (own_gemma / "README.md").write_text("hello", "utf-8")
    assert Checkpoint(own_gemma).fingerprint() == before
    path = own_gemma / WEIGHTS
    data = bytearray(path.read_bytes())
    (header,) = struct.unpack("<Q", data[:8])
    data[8 + header] ^= 1  # one bit of the first weight
    path.write_bytes(data)
    assert Checkpoint(own_gemma).fingerprint() != before


def test_a_config_from_before_layer_types_gets_the_pattern(own_gemma: Path) -> None:
    """Every sixth layer is full where a Gemma 3 config does not list them."""
    from harrier_export.architectures import architecture_of

    listed = architecture_of(tiny_gemma3()).read(tiny_gemma3())
    old = tiny_gemma3()
    del old["layer_types"]
    assert architecture_of(old).read(old).layers == listed.layers
    assert [layer.window for layer in listed.layers] == [16] * 5 + [None, 16]


def test_both_ways_of_telling_rotary_positions_are_read() -> None:
    """The fields of transformers 4 and the table of transformers 5 mean the same."""
    from harrier_export.architectures import architecture_of

    four = tiny_gemma3()
    five = {k: v for k, v in four.items() if not k.startswith("rope_")}
    five["rope_parameters"] = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    read = architecture_of(four).read
    assert read(five) == read(four)
    assert read(four).layers[5].rope.factor == 8
    assert read(four).layers[0].rope.factor == 1
