"""8-bit activations with a scale for each token, 8-bit weights with a scale for each output.

The integers are multiplied exactly (MatMulIntegerToFloat), so a text's vector cannot depend on
what else is in its batch. On CPUs with 8-bit dot products no other product is as fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt

from harrier_export.checkpoint import Float32, Tensor
from harrier_export.graph import MICROSOFT, Array, GraphBuilder
from harrier_export.precision.formats import Last, Rows, TokenRows
from harrier_export.rounding import round_with_feedback
from harrier_export.weights import Weight

_TOP = 127  # the largest magnitude of a symmetric 8-bit integer
# Both factors are unsigned, around this. Of activations, because ONNX Runtime's kernels for signed
# ones are ten times slower; of weights, because x86 without VNNI adds the products of unsigned and
# signed 8-bit integers in pairs that are cut at 16 bits. With VNNI, both take the same instruction.
ZERO = 128
_FINER = 254  # how much finer a second term is, which takes what the first left: half a step


@dataclass(frozen=True)
class TokenLinear:
    """One 8-bit term for every activation, and a second, finer one where it pays: nearly 16 bits.

    A vector is the state of its text's last token. What is rounded there is lost, while what is
    rounded elsewhere is averaged over all that the last token attends to: on the Gemma-3-270M
    stand-in, rounding the last token alone costs seven times as much as rounding all others. So
    the last token of each text has both terms by itself, in a decoder, where it pays.
    """

    finer: Literal["no", "the last", "every"] = "the last"  # which tokens have both terms
    folded: bool = False

    @property
    def description(self) -> str:
        """For the manifest."""
        twice = f", those of {self.finer} token twice" if self.finer != "no" else ""
        return f"8 bit, activations by token{twice}, weights by output"

    def write(
        self, graph: GraphBuilder, x: Rows, weights: Mapping[str, Tensor], last: Last | None
    ) -> list[Rows]:
        """See LinearFormat."""
        rows = _QuantizedRows.of(graph, x.value, next(iter(weights.values())).shape[1])
        owed = graph.node("Mul", rows.scale, x.scale) if x.scale else rows.scale
        finer = None
        if self.finer == "every":
            finer = rows.finer()
        elif self.finer == "the last" and last:
            finer = rows.at(last()).finer()
        products = []
        for name, tensor in weights.items():
            weight, *steps = _weights(graph, name, tensor, finer=finer is not None)
            product = integer_product(graph, rows.codes, weight, steps[0], name)
            if finer:
                second = integer_product(graph, finer, weight, steps[1], name)
                if self.finer == "every" or not last:
                    product = graph.node("Add", product, second, name=f"{name}.sum")
                else:
                    to = last().scatter
                    product = graph.node(
                        "ScatterND", product, to, second, reduction="add", name=f"{name}.sum"
                    )
            products.append(Rows(product, owed))
        return products


@dataclass(frozen=True)
class _QuantizedRows:
    """Rows of a product's input, `codes` in steps of each row's `scale`, as uint8 around 128."""

    graph: GraphBuilder
    x: str
    width: int
    scale: str
    zeros: str
    codes: str

    @classmethod
    def of(cls, graph: GraphBuilder, x: str, width: int) -> _QuantizedRows:
        """Round every row of `x` (…, width) by its own largest magnitude."""
        axis = graph.constant([-1], np.int64)
        largest = graph.node(
            "Max",
            graph.node("ReduceMax", x, axis),
            graph.node("Neg", graph.node("ReduceMin", x, axis)),
            graph.constant(1e-30, np.float32),  # a row of zeros stays one
        )
        scale = graph.node("Mul", largest, graph.constant(1 / _TOP, np.float32))
        zero = graph.constant([ZERO], np.uint8)
        zeros = graph.node("Expand", zero, graph.node("Shape", scale))
        codes = graph.node("QuantizeLinear", x, scale, zeros, axis=-1, block_size=width)
        return cls(graph, x, width, scale, zeros, codes)

    def at(self, last: TokenRows) -> _QuantizedRows:
        """The last row of each text."""

        def gather(value: str) -> str:
            return self.graph.node("GatherND", value, last.gather, batch_dims=1)

        x, scale, zeros, codes = map(gather, (self.x, self.scale, self.zeros, self.codes))
        return _QuantizedRows(self.graph, x, self.width, scale, zeros, codes)

    def finer(self) -> str:
        """What the codes have left of the rows, in finer steps."""
        g = self.graph
        seen = g.node(
            "DequantizeLinear", self.codes, self.scale, self.zeros, axis=-1, block_size=self.width
        )
        rest = g.node("Sub", self.x, seen)
        scale = g.node("Mul", self.scale, g.constant(1 / _FINER, np.float32))
        return g.node("QuantizeLinear", rest, scale, self.zeros, axis=-1, block_size=self.width)


def _weights(graph: GraphBuilder, name: str, tensor: Tensor, *, finer: bool) -> list[str]:
    """The integers (in, out), the step of each output (out,), and if `finer` that of the rest."""
    outputs, inputs = tensor.shape
    group = [
        Weight(f"{name}.weight", np.uint8, (inputs, outputs)),
        Weight(f"{name}.scales", np.float32, (outputs,)),
    ]
    if finer:
        group.append(Weight(f"{name}.scales.finer", np.float32, (outputs,)))

    def rounded() -> list[Array]:
        step, codes = _rounded(tensor)
        unsigned = codes.T.view(np.uint8) ^ np.uint8(ZERO)
        made: list[Array] = [unsigned, step, step / np.float32(_FINER)]
        return made[: len(group)]

    return graph.weights(group, [rounded])


def integer_product(
    graph: GraphBuilder, codes: str, weight: str, step: str, name: str, *, signed: bool = False
) -> str:
    """Rows of uint8 codes around 128 times weights (in, out), in steps of `step`.

    The weights are uint8 around 128 too, or int8 if `signed`, which is for small ones.
    """
    zero = graph.constant(ZERO, np.uint8)
    return graph.node(
        "MatMulIntegerToFloat",
        codes,
        weight,
        graph.constant(1, np.float32),  # the rows' own scales are owed
        step,
        zero,
        *([] if signed else [zero]),
        domain=MICROSOFT,
        name=f"{name}.matmul",
    )


def _rounded(tensor: Tensor) -> tuple[Float32, npt.NDArray[np.int8]]:
    """The step of each output (out,) and the integers (out, in), rounded with what is known."""
    steps = np.empty(tensor.shape[0], np.float32)
    codes = np.empty(tensor.shape, np.int8)
    for block in tensor.blocks():
        rows = tensor.rows(block)
        step = steps[block] = _step(rows)
        if tensor.feedback is not None:
            rows = round_with_feedback(rows, tensor.feedback, partial(_representable, step))
        codes[block] = _nearest(rows, step)
    return steps, codes


def _representable(step: Float32, channel: int, column: Float32) -> Float32:
    """What is nearest to the weights `column` (out,) of one channel, in steps of each output."""
    values: Float32 = _nearest(column[:, None], step)[:, 0] * step
    return values


def _step(rows: Float32) -> Float32:
    step: Float32 = np.maximum(np.abs(rows).max(1), np.float32(1e-30)) / np.float32(_TOP)
    return step


def _nearest(rows: Float32, step: Float32) -> npt.NDArray[np.int8]:
    codes: npt.NDArray[np.int8] = np.rint(rows / step[:, None]).clip(-_TOP, _TOP).astype(np.int8)
    return codes
