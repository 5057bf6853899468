"""A package's graphs in the form in which the hub's community publishes ONNX."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path

import onnx
from onnxruntime.quantization import quantize_dynamic
from tokenizers import Tokenizer, processors

from harrier_edge.foreign import FLOAT
from standins.folder import write_json


def foreign_export(target: Path, checkpoint: Path, packages: Mapping[str, Path]) -> Path:
    """Write the folder `target`: a graph for each of `packages`, by precision.

    Its tokenizer appends no final token, and nothing says what prompts the model has.
    """
    (target / "onnx").mkdir(parents=True)
    for precision, package in packages.items():
        name = "model.onnx" if precision == FLOAT else f"model_{precision}.onnx"
        model = onnx.load(package / "model.onnx", load_external_data=False)
        for weight in model.graph.initializer:
            for entry in weight.external_data:
                if entry.key == "location":
                    entry.value = f"{name}_data"
        (target / "onnx" / name).write_bytes(model.SerializeToString())
        shutil.copyfile(package / "model.onnx_data", target / "onnx" / f"{name}_data")
    config = json.loads((checkpoint / "config.json").read_text("utf-8"))
    write_json(target / "config.json", {**config, "transformers.js_config": {"dtype": "q4"}})
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", 2)]
    )
    tokenizer.save(str(target / "tokenizer.json"))
    return target


def add_dynamic(folder: Path) -> None:
    """Add `onnx/model_quantized.onnx`, whose activations have one range over the whole batch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of NumPy, in ONNX Runtime's own code
        quantize_dynamic(
            folder / "onnx" / "model.onnx",
            folder / "onnx" / "model_quantized.onnx",
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )
