"""The machine's own rate of 8-bit products: what a graph of nothing else would reach."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from protocol import cores
from standins.random_checkpoint import tensor_shapes

ROWS = (256, 512, 1024, 2048)  # tokens in a batch
SECONDS = 0.2  # a number of rows and round


@dataclass(frozen=True)
class Product:
    """A matrix product of one layer: (rows, inputs) by (inputs, outputs)."""

    name: str
    inputs: int
    outputs: int


def products(config: dict[str, Any]) -> list[Product]:
    """The products of one layer, those of one input taken together."""
    hidden, middle, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = (config[f"num_{kind}_heads"] * head for kind in ("attention", "key_value"))
    return [
        Product("qkv", hidden, queries + 2 * keys),
        Product("o", queries, hidden),
        Product("gate_up", hidden, 2 * middle),
        Product("down", middle, hidden),
    ]


def linear_weights(config: dict[str, Any]) -> int:
    """The number of weights in all layers' products: a token's multiplications and additions."""
    shapes = tensor_shapes(config)
    return sum(shape[0] * shape[1] for name, shape in shapes.items() if "_proj." in name)


class Roofline:
    """One layer's `MatMulIntegerToFloat` products, unsigned 8-bit rows by signed 8-bit columns.

    Inputs are quantized and in place, outputs are written where they stay: nothing but products.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        """Load the products on all cores."""
        self._products = products(config)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = cores()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            _model(self._products).SerializeToString(), options, ["CPUExecutionProvider"]
        )
        self._bindings = {rows: self._binding(rows) for rows in ROWS}
        self._rates: dict[int, list[float]] = {rows: [] for rows in ROWS}

    def measure(self) -> None:
        """Measure the rate at each number of rows, once more."""
        for rows, binding in self._bindings.items():
            operations = sum(2 * rows * p.inputs * p.outputs for p in self._products)
            self._session.run_with_iobinding(binding)
            times: list[float] = []
            while sum(times) < SECONDS:
                start = time.perf_counter()
                self._session.run_with_iobinding(binding)
                times.append(time.perf_counter() - start)
            self._rates[rows].append(operations / statistics.median(times))

    def rates(self) -> dict[int, float]:
        """Number of rows -> operations a second, the median of all measurements."""
        return {rows: statistics.median(rates) for rows, rates in self._rates.items()}

    def _binding(self, rows: int) -> Any:
        binding = self._session.io_binding()
        random = np.random.default_rng(0)
        for p in self._products:
            given = random.integers(0, 256, (rows, p.inputs), np.uint8)
            binding.bind_ortvalue_input(f"{p.name}.in", _in_place(given))
            result = np.zeros((rows, p.outputs), np.float32)
            binding.bind_ortvalue_output(f"{p.name}.out", _in_place(result))
        return binding


def _in_place(array: npt.NDArray[Any]) -> Any:
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def _model(layer: list[Product]) -> onnx.ModelProto:
    """All products side by side, with a scale for every column as in this project's packages."""
    random = np.random.default_rng(0)
    weights, nodes, inputs, outputs = [], [], [], []
    weights.append(numpy_helper.from_array(np.array(1, np.float32), "one"))
    weights.append(numpy_helper.from_array(np.array(128, np.uint8), "middle"))
    for p in layer:
        values = random.integers(-127, 128, (p.inputs, p.outputs), np.int8)
        scales = random.random(p.outputs, np.float32)
        weights.append(numpy_helper.from_array(values, f"{p.name}.weight"))
        weights.append(numpy_helper.from_array(scales, f"{p.name}.scale"))
        names = [f"{p.name}.in", f"{p.name}.weight", "one", f"{p.name}.scale", "middle"]
        nodes.append(
            helper.make_node(
                "MatMulIntegerToFloat", names, [f"{p.name}.out"], domain="com.microsoft"
            )
        )
        inputs.append(
            helper.make_tensor_value_info(names[0], TensorProto.UINT8, ["rows", p.inputs])
        )
        outputs.append(
            helper.make_tensor_value_info(f"{p.name}.out", TensorProto.FLOAT, ["rows", p.outputs])
        )
    graph = helper.make_graph(nodes, "layer", inputs, outputs, weights)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)
