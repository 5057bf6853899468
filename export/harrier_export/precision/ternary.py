"""Ternary weights with 8-bit activations, as BitNet trains them: integers, multiplied exactly.

A weight w is stored as q = round(w / mean|w|) cut to -1..1, and a row x of activations, normed by
the layer itself, is rounded to round(x * 127 / max|x|): https://arxiv.org/abs/2402.17764 and
https://github.com/microsoft/unilm/blob/master/bitnet. Every sum of products is an integer below
2^24, so that float32 holds it whole and all three forms give the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from harrier_edge.errors import UnsupportedModelError
from harrier_export.checkpoint import Float32, Tensor
from harrier_export.graph import GraphBuilder
from harrier_export.precision.codes import pack as pack_bits
from harrier_export.precision.codes import unpacked_fours
from harrier_export.precision.formats import Last, Rows
from harrier_export.precision.tokens import ZERO, integer_product
from harrier_export.weights import Weight

Codes = npt.NDArray[np.int8]

_TOP = 127
_LEAST = 1e-5  # of a largest magnitude or a mean, as in the published formula
_A_BYTE = 4  # codes
_MOST_INPUTS = 2**24 // _TOP


@dataclass(frozen=True)
class TernaryLinear:
    """A product of integers, whose weights are `stored` in float32, in 8 bits or in 2.

    Those of 2 bits are expanded to 8 when the graph is loaded, which ONNX Runtime does by itself
    where all is constant: its own product with 2-bit weights, MatMulNBits, takes many times as long
    as that of 8-bit integers.
    """

    stored: Literal["fp32", "int8", "ternary"]

    @property
    def folded(self) -> bool:
        """See LinearFormat."""
        return self.stored == "ternary"

    @property
    def description(self) -> str:
        """For the manifest."""
        form = {"fp32": "in float32", "int8": "in 8 bit", "ternary": "in 2 bit"}[self.stored]
        return f"ternary {form}, activations in 8 bit by token"

    def write(
        self, graph: GraphBuilder, x: Rows, weights: Mapping[str, Tensor], last: Last | None
    ) -> list[Rows]:
        """See LinearFormat."""
        value = x.settled(graph)
        axis = graph.constant([-1], np.int64)
        largest = graph.node(
            "Max",
            graph.node("ReduceMax", value, axis),
            graph.node("Neg", graph.node("ReduceMin", value, axis)),
            graph.constant(_LEAST, np.float32),
        )
        scale = graph.node("Div", graph.constant(_TOP, np.float32), largest)
        scaled = graph.node("Mul", value, scale)
        owed = graph.node("Div", largest, graph.constant(_TOP, np.float32))
        if self.stored == "fp32":
            rounded = graph.node("Round", scaled)
            multiply = self._float_product
        else:
            one, zero = graph.constant(1, np.float32), graph.constant(ZERO, np.uint8)
            rounded = graph.node("QuantizeLinear", scaled, one, zero)
            multiply = self._integer_product
        products = []
        for name, tensor in weights.items():
            outputs, inputs = tensor.shape
            if inputs > _MOST_INPUTS or outputs % _A_BYTE:
                raise UnsupportedModelError(
                    f"{name} is {[outputs, inputs]}; wanted a multiple of {_A_BYTE} outputs and at "
                    f"most {_MOST_INPUTS} inputs."
                )
            products.append(Rows(multiply(graph, rounded, name, tensor), owed))
        return products

    def _float_product(self, graph: GraphBuilder, x: str, name: str, tensor: Tensor) -> str:
        weight, mean = self._weights(graph, name, tensor)
        sums = graph.node("MatMul", x, weight, name=f"{name}.matmul")
        return graph.node("Mul", sums, mean, name=f"{name}.scaled")

    def _integer_product(self, graph: GraphBuilder, x: str, name: str, tensor: Tensor) -> str:
        weight, mean = self._weights(graph, name, tensor)
        if self.stored == "ternary":
            weight = _expanded(graph, weight, tensor.shape[::-1])
        return integer_product(graph, x, weight, mean, name, signed=True)

    def _weights(self, graph: GraphBuilder, name: str, tensor: Tensor) -> list[str]:
        """The codes (in, out) as they are stored, and their mean magnitude (1,)."""
        outputs, inputs = tensor.shape
        width = outputs // _A_BYTE if self.stored == "ternary" else outputs
        dtype = {"fp32": np.float32, "int8": np.int8, "ternary": np.uint8}[self.stored]

        def rounded() -> list[npt.NDArray[Any]]:
            mean, codes = ternary(tensor.array())
            stored = pack(codes.T) if self.stored == "ternary" else codes.T.astype(dtype)
            return [stored, mean[None]]

        group = [
            Weight(f"{name}.weight", dtype, (inputs, width)),
            Weight(f"{name}.mean", np.float32, (1,)),
        ]
        return graph.weights(group, [rounded])


def ternary(rows: Float32) -> tuple[Float32, Codes]:
    """The mean magnitude (), and the codes -1, 0 and 1 of weights (out, in): (out, in)."""
    mean = np.maximum(np.abs(rows).mean(dtype=np.float64), _LEAST).astype(np.float32)
    codes: Codes = np.rint(rows * (np.float32(1) / mean)).clip(-1, 1).astype(np.int8)
    return mean, codes


def pack(codes: Codes) -> npt.NDArray[np.uint8]:
    """Four codes of a row a byte, the first in the lowest bits: (in, out) to (in, out / 4)."""
    return pack_bits((codes + 1).astype(np.uint8), 8 // _A_BYTE)


def _expanded(graph: GraphBuilder, packed: str, shape: tuple[int, ...]) -> str:
    """What `pack` packed."""
    codes = unpacked_fours(graph, packed, zero=1)
    flat = graph.constant(shape, np.int64)
    return graph.node("Reshape", codes, flat, name=f"{packed}.expanded")
