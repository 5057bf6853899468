"""Small random sentence-transformers models of many architectures and poolings."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

WORDS = ("falcon", "owl", "sky", "night", "barn", "old", "in", "the", "a", "an", "at")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")  # ids 0 to 3
PROMPTS = {"query": "query: ", "document": "passage: "}

_SIZE: Mapping[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 70,
    "pad_token_id": 0,
    "initializer_range": 0.2,  # so that random models tell texts apart
}
_DECODER: Mapping[str, Any] = {
    **_SIZE,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "sliding_window": 16,
}
# model_type -> class of transformers' config, its arguments, pooling.
MODELS: Mapping[str, tuple[str, Mapping[str, Any], str]] = {
    "bert": ("BertConfig", _SIZE, "mean"),
    "xlm-roberta": ("XLMRobertaConfig", _SIZE, "cls"),
    "mpnet": ("MPNetConfig", _SIZE, "mean"),
    "modernbert": (
        "ModernBertConfig",
        {**_SIZE, "max_position_embeddings": 256, "local_attention": 16},
        "cls",
    ),
    "qwen3": ("Qwen3Config", {**_DECODER, "sliding_window": None}, "lasttoken"),
    "embeddinggemma": (
        "Gemma3TextConfig",
        {**_DECODER, "query_pre_attn_scalar": 32, "use_bidirectional_attention": True},
        "mean",
    ),
}


def sentence_model(folder: Path, kind: str) -> Path:
    """Write a random model of `kind`; those with mean pooling have a dense layer as well."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of releases to come
        _write(folder, *MODELS[kind])
    return folder


def _write(folder: Path, name: str, arguments: Mapping[str, Any], pooling: str) -> None:
    import torch
    import transformers
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Dense, Normalize, Pooling, Transformer

    torch.manual_seed(0)
    config = getattr(transformers, name)(**arguments)
    bare = folder.with_name(f"{folder.name}-transformer")
    transformers.AutoModel.from_config(config).save_pretrained(bare)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=_tokenizer(),
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "attention_mask"],  # not all take token types
    ).save_pretrained(bare)
    modules: list[Any] = [
        Transformer(str(bare), max_seq_length=32),
        Pooling(64, pooling_mode=pooling),
    ]
    if pooling == "mean":
        modules.append(Dense(64, 48, activation_function=torch.nn.Tanh()))
    SentenceTransformer(modules=[*modules, Normalize()], device="cpu", prompts=PROMPTS).save(
        str(folder), create_model_card=False
    )
    for path in bare.iterdir():
        path.unlink()
    bare.rmdir()


def _tokenizer() -> Tokenizer:
    """Words, and letters for all others, between [CLS] and [SEP]."""
    letters = [f"{mark}{c}" for c in "abcdefghijklmnopqrstuvwxyz:.," for mark in ("", "##")]
    vocabulary = {token: i for i, token in enumerate((*SPECIAL, *WORDS, *letters))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer
