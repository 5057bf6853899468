"""harrier_edge.spec: what is known of a model is read whole, or refused with a reason."""

from __future__ import annotations

import hashlib
import json
from functools import reduce
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harrier_edge.errors import SpecError
from harrier_edge.spec import Attention, ModelSpec, Shape, Tokens, read_table

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "models"
HARRIERS = ("harrier-0.6b", "harrier-270m", "harrier-27b")
NAMES = (*HARRIERS, "bitnet-0.6b", "bitnet-270m")
PUBLISHED_06B = ROOT.parent / "shared" / "facts" / "harrier-0.6b"

needs_published_files = pytest.mark.skipif(
    not PUBLISHED_06B.is_dir(), reason="the published files in ../shared/facts are not here"
)


def shipped(name: str) -> ModelSpec:
    return read_table(MODELS / f"{name}.toml", ModelSpec)


def test_the_270m_is_as_published() -> None:
    """harrier-270m.toml has the published shape, attention and tokens."""
    spec = shipped("harrier-270m")
    assert spec.shape == Shape(
        architecture="gemma3_text",
        hidden_size=640,
        layers=18,
        heads=4,
        kv_heads=1,
        head_dim=256,
        intermediate_size=2048,
        vocab_size=262144,
        parameters=268_098_176,
    )
    assert spec.attention == Attention(
        layers="full", rope_theta=1e6, query_pre_attn_scalar=256, sliding_window=512
    )
    assert spec.tokens == Tokens(final=1, pad=0, bos=2, max_tokens=32768)
    assert spec.mteb_v2_multilingual == 66.5
    assert spec.inferred == []


def test_the_06b_is_as_published() -> None:
    """harrier-0.6b.toml has the published shape, attention and tokens."""
    spec = shipped("harrier-0.6b")
    assert spec.shape == Shape(
        architecture="qwen3",
        hidden_size=1024,
        layers=28,
        heads=16,
        kv_heads=8,
        head_dim=128,
        intermediate_size=3072,
        vocab_size=151936,
        parameters=596_049_920,
    )
    assert spec.attention == Attention(layers="full", rope_theta=1e6, query_pre_attn_scalar=128)
    assert spec.tokens == Tokens(final=151643, pad=151643, max_tokens=32768)
    assert spec.mteb_v2_multilingual == 69.0
    assert spec.inferred == []


def test_the_27b_is_as_published() -> None:
    """harrier-27b.toml has the published shape, attention and tokens."""
    spec = shipped("harrier-27b")
    assert spec.shape == Shape(
        architecture="gemma3_text",
        hidden_size=5376,
        layers=62,
        heads=32,
        kv_heads=16,
        head_dim=128,
        intermediate_size=21504,
        vocab_size=262208,
        parameters=27_009_346_304,
    )
    assert spec.attention == Attention(
        layers="5 sliding, 1 full",
        rope_theta=1e6,
        query_pre_attn_scalar=168,
        rope_scaling_factor=8,
        rope_local_base_freq=1e4,
        sliding_window=1024,
    )
    assert spec.tokens == Tokens(final=1, pad=0, bos=2, max_tokens=32768)
    assert spec.mteb_v2_multilingual == 74.3


def test_what_is_inferred_of_the_27b_is_marked() -> None:
    """Exactly the values of harrier-27b that nobody has read from its files are marked so."""
    assert shipped("harrier-27b").inferred == [
        "shape.heads",
        "shape.kv_heads",
        "shape.head_dim",
        "shape.vocab_size",
        "attention.rope_scaling_factor",
        "attention.rope_local_base_freq",
        "attention.query_pre_attn_scalar",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_an_inferred_key_exists(name: str) -> None:
    """Each dotted key marked as inferred leads to a value."""
    spec = shipped(name)
    for key in spec.inferred:
        assert reduce(getattr, key.split("."), spec) is not None


@pytest.mark.parametrize(
    ("name", "repository", "revision", "base"),
    [
        (
            "harrier-270m",
            "microsoft/harrier-oss-v1-270m",
            "31de22b673913c7d658c0f03f792d77c2dcf8ebd",
            "google/gemma-3-270m",
        ),
        (
            "harrier-0.6b",
            "microsoft/harrier-oss-v1-0.6b",
            "f9b9dc8d367d443f2479d27aa5d8d2850c0774ee",
            "Qwen/Qwen3-0.6B",
        ),
        (
            "harrier-27b",
            "microsoft/harrier-oss-v1-27b",
            "0c0fc62f6d8af9e8604cb818c412301b103a0093",
            "google/gemma-3-27b-pt",
        ),
    ],
)
def test_the_source_is_pinned(name: str, repository: str, revision: str, base: str) -> None:
    """Each model names its repository, a full commit of it, and the model it was adapted from."""
    source = shipped(name).source
    assert (source.repository, source.revision, source.adapted_from) == (repository, revision, base)


@pytest.mark.parametrize("size", ["270m", "0.6b"])
def test_a_bitnet_is_its_sibling_not_pinned_yet(size: str) -> None:
    """The same shape, no revision and no hashes; what nobody has read of it is marked."""
    bitnet, harrier = shipped(f"bitnet-{size}"), shipped(f"harrier-{size}")
    assert bitnet.source.repository == f"microsoft/bitnet-embedding-{size}"
    assert (bitnet.source.revision, bitnet.source.files) == ("", {})
    parameters = bitnet.shape.parameters
    assert bitnet.shape == msgspec.structs.replace(harrier.shape, parameters=parameters)
    assert bitnet.tokens == harrier.tokens
    assert "prompts" in bitnet.inferred
    assert bitnet.mteb_v2_multilingual < harrier.mteb_v2_multilingual


@pytest.mark.parametrize("name", NAMES)
def test_what_all_models_share(name: str) -> None:
    """Licence, languages, name, and an embedding as wide as the hidden state."""
    spec = shipped(name)
    assert (spec.name, spec.licence, spec.languages) == (name, "MIT", 94)
    assert spec.dimension == spec.shape.hidden_size


@pytest.mark.parametrize("name", NAMES)
def test_the_prompts_are_exact(name: str) -> None:
    """Each model has the three published prompts, to the space at their end."""
    assert shipped(name).prompts == {
        "web_search_query": "Instruct: Given a web search query, retrieve relevant passages that "
        "answer the query\nQuery: ",
        "sts_query": "Instruct: Retrieve semantically similar text\nQuery: ",
        "bitext_query": "Instruct: Retrieve parallel sentences\nQuery: ",
    }


@pytest.mark.parametrize("name", NAMES)
def test_file_records_are_well_formed(name: str) -> None:
    """Every recorded sha256 is 64 lower-case hexadecimal digits, every size is above 0."""
    for record in shipped(name).source.files.values():
        assert record.sha256 is not None
        assert len(record.sha256) == 64 and set(record.sha256) <= set("0123456789abcdef")
        assert record.size is None or record.size > 0


def test_weights_and_tokenizers_have_their_hashes() -> None:
    """The published hashes of the weights and tokenizers are those of the catalogue."""
    small, middle, large = (
        shipped(n).source.files for n in ("harrier-270m", "harrier-0.6b", "harrier-27b")
    )
    assert small["model.safetensors"].sha256 == (
        "90933b6826b61afd9331e0ebe3c0598b421a32eda5fb301a114fe36f306cb51a"
    )
    assert middle["model.safetensors"].sha256 == (
        "6bb124227f33c3dbf7fbbd38119b2afa8be959e93666d3c9be7142b66708b66c"
    )
    assert middle["model.safetensors"].size == 1_192_133_232
    assert middle["tokenizer.json"].sha256 == (
        "def76fb086971c7867b829c23a26261e38d9d74e02139253b38aeb9df8b4b50a"
    )
    assert small["tokenizer.json"].sha256 == (
        "6852f8d561078cc0cebe70ca03c5bfdd0d60a45f9d2e0e1e4cc05b68e9ec329e"
    )
    assert small["tokenizer.json"] == large["tokenizer.json"]


@pytest.mark.parametrize(
    "file", ["modules.json", "config_sentence_transformers.json", "mteb_v2_eval_prompts.json"]
)
def test_files_that_all_sizes_share_have_one_record(file: str) -> None:
    """The files that are the same in all sizes have the same record in all sizes."""
    records = [shipped(name).source.files[file] for name in HARRIERS]
    assert records[0].sha256 is not None
    assert records == [records[0]] * 3


@needs_published_files
def test_the_06b_agrees_with_its_config() -> None:
    """The published config.json of the 0.6B says what harrier-0.6b.toml says."""
    config: dict[str, Any] = json.loads((PUBLISHED_06B / "config.json").read_bytes())
    spec = shipped("harrier-0.6b")
    wanted = {
        "model_type": spec.shape.architecture,
        "hidden_size": spec.shape.hidden_size,
        "num_hidden_layers": spec.shape.layers,
        "num_attention_heads": spec.shape.heads,
        "num_key_value_heads": spec.shape.kv_heads,
        "head_dim": spec.shape.head_dim,
        "intermediate_size": spec.shape.intermediate_size,
        "vocab_size": spec.shape.vocab_size,
        "rope_theta": spec.attention.rope_theta,
        "rope_scaling": spec.attention.rope_scaling_factor,
        "sliding_window": spec.attention.sliding_window,
        "layer_types": [f"{spec.attention.layers}_attention"] * spec.shape.layers,
        "pad_token_id": spec.tokens.pad,
        "max_position_embeddings": spec.tokens.max_tokens,
    }
    assert {key: config[key] for key in wanted} == wanted
    assert spec.attention.query_pre_attn_scalar == config["head_dim"]


@needs_published_files
def test_the_prompts_agree_with_the_published_ones() -> None:
    """The published config_sentence_transformers.json has the catalogue's prompts."""
    path = PUBLISHED_06B / "config_sentence_transformers.json"
    assert json.loads(path.read_bytes())["prompts"] == shipped("harrier-0.6b").prompts


@needs_published_files
def test_the_published_files_have_the_catalogues_hashes() -> None:
    """Every published file that is here has the size and sha256 that the catalogue gives."""
    records = shipped("harrier-0.6b").source.files
    seen = {p.relative_to(PUBLISHED_06B).as_posix(): p for p in PUBLISHED_06B.rglob("*.json")}
    assert seen.keys() <= records.keys()
    for name, path in seen.items():
        content = path.read_bytes()
        assert hashlib.sha256(content).hexdigest() == records[name].sha256
        assert len(content) == records[name].size


def spoiled(folder: Path, old: str, new: str) -> Path:
    """A copy of the 0.6B's TOML with `old` replaced, which must be there."""
    text = (MODELS / "harrier-0.6b.toml").read_text("utf-8")
    assert old in text
    path = folder / "spoiled.toml"
    path.write_text(text.replace(old, new, 1), "utf-8")
    return path


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        pytest.param("layers = 28", "layers = 28\nlayerz = 1", "`layerz`", id="unknown-key"),
        pytest.param("kv_heads = 8\n", "", "`kv_heads`", id="missing-field"),
        pytest.param("head_dim = 128", 'head_dim = "128"', "$.shape.head_dim", id="str-for-int"),
        pytest.param("pad = 151643", "pad = 1.5", "$.tokens.pad", id="float-for-int"),
        pytest.param('licence = "MIT"', "licence = 1", "$.licence", id="int-for-str"),
        pytest.param('layers = "full"', 'layers = "half"', "$.attention.layers", id="pattern"),
    ],
)
def test_a_wrong_key_is_named(tmp_path: Path, old: str, new: str, wanted: str) -> None:
    """An unknown key, a missing one and a value of another type are refused, file and key named."""
    path = spoiled(tmp_path, old, new)
    with pytest.raises(SpecError) as caught:
        read_table(path, ModelSpec)
    assert str(path) in str(caught.value)
    assert wanted in str(caught.value)


@pytest.mark.parametrize("content", [b"{ this is not TOML", b"name = \xff"])
def test_a_file_that_is_not_toml_is_named(tmp_path: Path, content: bytes) -> None:
    """A file that is not TOML, or not UTF-8, is refused by its name."""
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(SpecError) as caught:
        read_table(path, ModelSpec)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A file that is not there is told as such, by its name."""
    path = tmp_path / "absent.toml"
    with pytest.raises(SpecError, match="cannot be read") as caught:
        read_table(path, ModelSpec)
    assert str(path) in str(caught.value)
