"""8-bit activations with a scale for each token, 8-bit weights with a scale for each output.

The integers are multiplied exactly (MatMulIntegerToFloat), so a text's vector cannot depend on
what else is in its batch. On CPUs with 8-bit dot products no other product is as fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harrier_export.checkpoint import Float32, Tensor
from harrier_export.graph import MICROSOFT, GraphBuilder
from harrier_export.precision.formats import Rows
from harrier_export.rounding import round_with_feedback

_TOP = 127  # the largest magnitude of a symmetric 8-bit integer
_ZERO = 128  # activations are unsigned: ONNX Runtime's kernels for signed ones are ten times slower
_FINER = 254  # how much finer a second term is, which takes what the first left: half a step


@dataclass(frozen=True)
class TokenLinear:
    """One 8-bit term for every activation and every weight."""

    description: str = "8 bit, activations by token, weights by output"

    def write(self, graph: GraphBuilder, x: Rows, weights: Mapping[str, Tensor]) -> list[Rows]:
        """See LinearFormat."""
        rows = _TokenRows(graph, x, weights)
        codes = rows.quantize(x.value, rows.scale)
        products = []
        for name, tensor in weights.items():
            step, first = _rounded(tensor)
            product = _product(
                graph,
                codes,
                graph.weight(f"{name}.weight", first.T),
                graph.weight(f"{name}.scales", step),
                name,
            )
            products.append(Rows(product, rows.owed))
        return products


@dataclass(frozen=True)
class DoubleTokenLinear:
    """Two 8-bit terms for every activation, nearly 16 bits: two products with the same weights."""

    description: str = "8 bit, activations twice by token, weights by output"

    def write(self, graph: GraphBuilder, x: Rows, weights: Mapping[str, Tensor]) -> list[Rows]:
        """See LinearFormat."""
        rows = _TokenRows(graph, x, weights)
        coarse = rows.quantize(x.value, rows.scale)
        rest = graph.node("Sub", x.value, rows.expand(coarse))
        finer = graph.node("Mul", rows.scale, graph.constant(1 / _FINER, np.float32))
        fine = rows.quantize(rest, finer)
        products = []
        for name, tensor in weights.items():
            step, first = _rounded(tensor)
            weight = graph.weight(f"{name}.weight", first.T)
            small = graph.weight(f"{name}.scales.finer", (step / _FINER).astype(np.float32))
            product = graph.node(
                "Add",
                _product(graph, coarse, weight, graph.weight(f"{name}.scales", step), name),
                _product(graph, fine, weight, small, name),
                name=f"{name}.sum",
            )
            products.append(Rows(product, rows.owed))
        return products


class _TokenRows:
    """The scale of each row of a product's input, and rounding by it."""

    def __init__(self, graph: GraphBuilder, x: Rows, weights: Mapping[str, Tensor]) -> None:
        self._graph = graph
        _, self._width = next(iter(weights.values())).shape
        axis = graph.constant([-1], np.int64)
        largest = graph.node(
            "Max",
            graph.node("ReduceMax", x.value, axis),
            graph.node("Neg", graph.node("ReduceMin", x.value, axis)),
            graph.constant(1e-30, np.float32),  # a row of zeros stays one
        )
        self.scale = graph.node("Mul", largest, graph.constant(1 / _TOP, np.float32))
        self.owed = graph.node("Mul", self.scale, x.scale) if x.scale else self.scale
        zero = graph.constant([_ZERO], np.uint8)
        self._zeros = graph.node("Expand", zero, graph.node("Shape", self.scale))

    def quantize(self, x: str, scale: str) -> str:
        """Every row of `x` in steps of its `scale`, as uint8 around 128."""
        return self._rounding("QuantizeLinear", x, scale)

    def expand(self, codes: str) -> str:
        """The values that codes stand for."""
        return self._rounding("DequantizeLinear", codes, self.scale)

    def _rounding(self, op: str, x: str, scale: str) -> str:
        return self._graph.node(op, x, scale, self._zeros, axis=-1, block_size=self._width)


def _product(graph: GraphBuilder, codes: str, weight: str, scales: str, name: str) -> str:
    return graph.node(
        "MatMulIntegerToFloat",
        codes,
        weight,
        graph.constant(1, np.float32),  # the rows' own scales are owed
        scales,
        graph.constant(_ZERO, np.uint8),
        domain=MICROSOFT,
        name=f"{name}.matmul",
    )


def _rounded(tensor: Tensor) -> tuple[Float32, npt.NDArray[np.int8]]:
    """The step of each output (out,) and the integers (out, in), rounded with what is known."""
    rows = tensor.array()
    step = np.maximum(np.abs(rows).max(1), np.float32(1e-30)) / np.float32(_TOP)
    if tensor.feedback is not None:
        rows = round_with_feedback(
            rows, tensor.feedback, lambda _, column: _nearest(column[:, None], step)[:, 0] * step
        )
    return step, _nearest(rows, step)


def _nearest(rows: Float32, step: Float32) -> npt.NDArray[np.int8]:
    codes: npt.NDArray[np.int8] = np.rint(rows / step[:, None]).clip(-_TOP, _TOP).astype(np.int8)
    return codes
