"""Random checkpoints in any shape, single or in shards: they prove parity, not quality.

Run as `python -m standins.random_checkpoint qwen3-0.6b FOLDER`.
"""

from __future__ import annotations

import argparse
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from standins.folder import full_tokenizer, whole, write_json, write_sentence_files
from standins.gemma3_270m import CONFIG as GEMMA3_270M

Config = dict[str, Any]

DTYPES = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16, "float32": np.float32}
TINY_VOCABULARY = 384


def gemma3_270m() -> Config:
    """Harrier-270M's shape."""
    return dict(GEMMA3_270M)


def gemma3_27b() -> Config:
    """Harrier-27B's shape."""
    return {
        **GEMMA3_270M,
        "head_dim": 128,
        "hidden_size": 5376,
        "intermediate_size": 21504,
        "layer_types": sliding_pattern(62),
        "max_position_embeddings": 131072,
        "num_attention_heads": 32,
        "num_hidden_layers": 62,
        "num_key_value_heads": 16,
        "query_pre_attn_scalar": 168,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "sliding_window": 1024,
        "vocab_size": 262208,
    }


def qwen3_0_6b() -> Config:
    """Harrier-0.6B's shape and fields."""
    return {
        "architectures": ["Qwen3Model"],
        "model_type": "qwen3",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "dtype": "bfloat16",
        "eos_token_id": 151645,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 1024,
        "initializer_range": 0.02,
        "intermediate_size": 3072,
        "layer_types": ["full_attention"] * 28,
        "max_position_embeddings": 32768,
        "max_window_layers": 28,
        "num_attention_heads": 16,
        "num_hidden_layers": 28,
        "num_key_value_heads": 8,
        "pad_token_id": 151643,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": 151936,
    }


def bitnet_270m() -> Config:
    """BitNet-embedding-270M's shape: Harrier-270M's, with other positions."""
    return {**gemma3_270m(), "rope_theta": 10000}


def tiny_gemma3() -> Config:
    """A Gemma 3 of seven layers that has all that the 27B has: 5:1 sliding, linear scaling."""
    return {
        **gemma3_27b(),
        "head_dim": 32,
        "hidden_size": 64,
        "intermediate_size": 96,
        "layer_types": sliding_pattern(7),
        "max_position_embeddings": 4096,
        "num_attention_heads": 4,
        "num_hidden_layers": 7,
        "num_key_value_heads": 2,
        "query_pre_attn_scalar": 40,
        "sliding_window": 16,
        "vocab_size": TINY_VOCABULARY,
    }


def tiny_qwen3() -> Config:
    """A Qwen3 of three layers."""
    return {
        **qwen3_0_6b(),
        "eos_token_id": 2,
        "head_dim": 32,
        "hidden_size": 64,
        "intermediate_size": 96,
        "layer_types": ["full_attention"] * 3,
        "max_position_embeddings": 4096,
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "pad_token_id": 1,
        "vocab_size": TINY_VOCABULARY,
    }


SHAPES = {"gemma3-270m": gemma3_270m, "gemma3-27b": gemma3_27b, "qwen3-0.6b": qwen3_0_6b}


def sliding_pattern(layers: int) -> list[str]:
    """Five sliding layers, then a full one."""
    return ["full_attention" if i % 6 == 5 else "sliding_attention" for i in range(layers)]


def tiny_tokenizer(path: Path) -> Path:
    """Write a byte tokenizer with a few merges: `<pad>` 0, `<eos>` 1, `<bos>` 2, then bytes."""
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", "<bos>"])}
    for letter in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary[letter] = len(vocabulary)
    merges = [("t", "h"), ("th", "e"), ("i", "n"), ("Ġ", "a"), ("e", "r"), ("Ġ", "the")]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>",
        pair="<bos> $A $B <eos>",
        special_tokens=[("<bos>", 2), ("<eos>", 1)],
    )
    tokenizer.add_special_tokens(["<pad>", "<eos>", "<bos>"])
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
    return path


def random_checkpoint(
    target: Path,
    *,
    config: Config,
    tokenizer: Path,
    shards: int = 1,
    dtype: str = "bfloat16",
    prefix: str = "",
    lm_head: bool = False,
    bitnet: bool = False,
    damped: bool = True,
    seed: int = 0,
) -> Path:
    """Write the Hugging Face folder `target`, one shard in memory at a time.

    `prefix` goes before every name ("model." in a causal LM's checkpoint), and `lm_head` adds the
    output matrix that an embedder does not use. A `bitnet` has a norm before every linear layer;
    `damped`, its branches add little to the residual stream, as in a model that was trained.
    """
    shapes = {prefix + name: shape for name, shape in tensor_shapes(config, bitnet).items()}
    if lm_head:
        shapes["lm_head.weight"] = (config["vocab_size"], config["hidden_size"])
    with whole(target) as folder:
        write_json(folder / "config.json", {**config, "dtype": dtype})
        write_sentence_files(folder, config["hidden_size"])
        shutil.copyfile(tokenizer, folder / "tokenizer.json")
        places = {}
        for number, names in enumerate(_shares(shapes, shards), 1):
            file = f"model-{number:05}-of-{shards:05}.safetensors"
            if shards == 1:
                file = "model.safetensors"
            tensors = {
                name: _random(name, shapes[name], config, bitnet and damped, seed).astype(
                    DTYPES[dtype]
                )
                for name in names
            }
            save_file(tensors, folder / file, metadata={"format": "pt"})
            places.update(dict.fromkeys(names, file))
        if shards > 1:
            index = {"metadata": {}, "weight_map": places}
            write_json(folder / "model.safetensors.index.json", index)
    return target


def tensor_shapes(config: Config, bitnet: bool = False) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a `gemma3_text` or `qwen3` model, or of its BitNet."""
    hidden, middle, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = (config[f"num_{kind}_heads"] * head for kind in ("attention", "key_value"))
    norms = ["input_layernorm", "post_attention_layernorm"]
    if config["model_type"] == "gemma3_text":
        norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    layer: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "self_attn.q_norm": (head,),
        "self_attn.k_norm": (head,),
        "mlp.gate_proj": (middle, hidden),
        "mlp.up_proj": (middle, hidden),
        "mlp.down_proj": (hidden, middle),
        **dict.fromkeys(norms, (hidden,)),
    }
    if bitnet:
        linear = {name: shape for name, shape in layer.items() if len(shape) == 2}
        layer |= {f"{name}.norm": (shape[1],) for name, shape in linear.items()}
    return {
        "embed_tokens.weight": (config["vocab_size"], hidden),
        **{
            f"layers.{i}.{name}.weight": shape
            for i in range(config["num_hidden_layers"])
            for name, shape in layer.items()
        },
        "norm.weight": (hidden,),
    }


def _shares(shapes: dict[str, tuple[int, ...]], count: int) -> Iterator[list[str]]:
    """The names in `count` runs of about the same size."""
    total = sum(map(math.prod, shapes.values()))
    share: list[str] = []
    done = number = 0
    for name, shape in shapes.items():
        share.append(name)
        done += math.prod(shape)
        if done >= total * (number + 1) / count:
            yield share
            share, number = [], number + 1


def _random(
    name: str, shape: tuple[int, ...], config: Config, damped: bool, seed: int
) -> npt.NDArray[np.float32]:
    """Values that keep a signal's size from layer to layer; the same for a name in any order."""
    name = name.removeprefix("model.")
    random = np.random.default_rng([seed, *name.encode()])
    values = random.standard_normal(shape, dtype=np.float32)
    is_gemma = config["model_type"] == "gemma3_text"
    # What a branch adds: all of them together as much as the embeddings they are added to.
    gain = np.float32((2 * config["num_hidden_layers"]) ** -0.5)
    if len(shape) == 1:
        spread = np.float32(0.2)
        if is_gemma and damped and ".post_" in name:
            return (1 + values * spread) * gain - 1
        # Gemma's own norms multiply by 1 + w.
        return values * spread + np.float32(not is_gemma or "_proj" in name)
    if damped and not is_gemma:  # no norm follows a branch, and none lifts the embeddings to 1
        if name == "embed_tokens.weight":
            return values
        if "o_proj" in name or "down_proj" in name:
            values *= gain
    return values * np.float32(shape[-1] ** -0.5)


def main() -> None:
    """Write a checkpoint of a Harrier's shape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, help="fewer layers than the shape has")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bfloat16")
    args = parser.parse_args()
    config = SHAPES[args.shape]()
    if args.layers:
        config["num_hidden_layers"] = args.layers
        config["layer_types"] = config["layer_types"][: args.layers]
    tokenizer = full_tokenizer(args.shape.partition("-")[0])
    print(
        random_checkpoint(
            args.folder, config=config, tokenizer=tokenizer, shards=args.shards, dtype=args.dtype
        )
    )


if __name__ == "__main__":
    main()
