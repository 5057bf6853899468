"""Writes the student as a Hugging Face folder, as Harrier's own is laid out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from harrier_edge import catalog
from recipe.student import HIDDEN, MAX_TOKENS, Student, config

WEIGHTS = "model.safetensors"
_ST = "sentence_transformers.models."


def write(student: Student, work: Path, folder: Path) -> None:
    """Write bf16 weights, config, tokenizer and sentence-transformers' files into `folder`.

    What the student's heads hold is turned first, so that its weights can be rounded.
    """
    student.turn()
    (folder / "1_Pooling").mkdir(parents=True, exist_ok=True)
    tensors = {k: v.to(torch.bfloat16).contiguous() for k, v in student.state_dict().items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    shutil.copyfile(work / "tokenizer.json", folder / "tokenizer.json")
    size = student.embed_tokens.num_embeddings
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    files: dict[str, Any] = {
        "config.json": config(size, len(student.layers)),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": MAX_TOKENS,
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
            "clean_up_tokenization_spaces": False,
        },
        "modules.json": [
            {"idx": i, "name": str(i), "path": path, "type": _ST + kind}
            for i, (path, kind) in enumerate(modules)
        ],
        "1_Pooling/config.json": {
            "word_embedding_dimension": HIDDEN,
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": False,
            "pooling_mode_lasttoken": True,
            "include_prompt": True,
        },
        "config_sentence_transformers.json": {
            "prompts": catalog.load("harrier-270m").prompts,
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
        "sentence_bert_config.json": {"max_seq_length": MAX_TOKENS, "do_lower_case": False},
    }
    for name, content in files.items():
        text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
        (folder / name).write_text(text, "utf-8")
