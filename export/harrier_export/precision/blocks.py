"""Weights in 8 or 4 bits, a scale for each block of a row: MatMulNBits, GatherBlockQuantized."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from harrier_edge.errors import UsageError
from harrier_export.checkpoint import Float32, Tensor
from harrier_export.graph import FLOAT, MICROSOFT, GraphBuilder
from harrier_export.precision.codes import Quantized, dequantize, pack, quantize
from harrier_export.precision.formats import Last, Rows
from harrier_export.rounding import Feedback, round_with_feedback
from harrier_export.weights import Weight

_SAMPLE = 32 * 2**20  # bytes in float32


def refine(q: Quantized, rows: Float32, bits: int, block_size: int, known: Feedback) -> Quantized:
    """The codes of `rows` (rows, columns) chosen anew, with the scales and zero points of `q`.

    What is known of the inputs lets the weights make up for each other's rounding.
    """
    top = 2**bits - 1

    def codes(column: Float32, block: int) -> Float32:
        scaled = column / q.scales[:, block] + q.zeros[:, block]
        rounded: Float32 = np.rint(scaled).clip(0, top)
        return rounded

    def nearest(j: int, column: Float32) -> Float32:
        block = j // block_size
        values: Float32 = (codes(column, block) - q.zeros[:, block]) * q.scales[:, block]
        return values

    values = round_with_feedback(rows, known, nearest)
    count, columns = rows.shape
    chosen = np.repeat(q.zeros, block_size, axis=1)  # a short last block is filled with 0
    for j in range(columns):
        chosen[:, j] = codes(values[:, j], j // block_size)
    return Quantized(pack(chosen.reshape(count, -1, block_size), bits), q.scales, q.zeros)


@dataclass(frozen=True)
class BlockLinear:
    """MatMulNBits, whose products run on 8-bit activations."""

    bits: int
    block_size: int
    asymmetric: bool
    folded: bool = False

    @property
    def description(self) -> str:
        """For the manifest."""
        kind = "asymmetric" if self.asymmetric else "symmetric"
        return f"MatMulNBits {self.bits} bit, block {self.block_size}, {kind}"

    def write(
        self, graph: GraphBuilder, x: Rows, weights: Mapping[str, Tensor], last: Last | None
    ) -> list[Rows]:
        """See LinearFormat."""
        value = x.settled(graph)
        return [Rows(self._product(graph, value, name, tensor)) for name, tensor in weights.items()]

    def _product(self, graph: GraphBuilder, x: str, name: str, tensor: Tensor) -> str:
        rows, columns = tensor.shape
        stored = _store(
            graph, f"{name}.weight", tensor, 1.0, self.bits, self.block_size, self.asymmetric
        )
        return graph.node(
            "MatMulNBits",
            x,
            *stored,
            domain=MICROSOFT,
            K=columns,
            N=rows,
            bits=self.bits,
            block_size=self.block_size,
            accuracy_level=4,  # without it, 8-bit weights are expanded at every call
            name=f"{name}.matmul",
        )


@dataclass(frozen=True)
class ExpandedLinear:
    """The same 8-bit weights, expanded to float32 when the graph is loaded: MatMul.

    MatMulNBits rounds activations too. Where that costs too much fidelity, this keeps them whole,
    for the memory and the time of a float32 layer but the disk space of an 8-bit one. ONNX
    Runtime folds the expansion, which has only constants, into one weight.
    """

    block_size: int
    folded: bool = True

    @property
    def description(self) -> str:
        """For the manifest."""
        return f"MatMul float32 from 8 bit, block {self.block_size}, symmetric"

    def write(
        self, graph: GraphBuilder, x: Rows, weights: Mapping[str, Tensor], last: Last | None
    ) -> list[Rows]:
        """See LinearFormat."""
        value = x.settled(graph)
        return [Rows(self._product(graph, value, name, tensor)) for name, tensor in weights.items()]

    def _product(self, graph: GraphBuilder, x: str, name: str, tensor: Tensor) -> str:
        rows, columns = tensor.shape
        codes, scales = _store(graph, f"{name}.weight", tensor, 1.0, 8, self.block_size, False)
        zero = graph.constant(128, np.float32)
        by_block = graph.constant([rows, -(-columns // self.block_size), 1], np.int64)
        padded = graph.constant([rows, -1], np.int64)
        values = graph.node("Sub", graph.node("Cast", codes, to=FLOAT), zero)
        values = graph.node("Mul", values, graph.node("Reshape", scales, by_block))
        values = graph.node("Reshape", values, padded)
        start, end, axis = (graph.constant([n], np.int64) for n in (0, columns, 1))
        values = graph.node("Slice", values, start, end, axis)
        transposed = graph.node("Transpose", values, perm=[1, 0], name=f"{name}.expanded")
        return graph.node("MatMul", x, transposed, name=f"{name}.matmul")


@dataclass(frozen=True)
class BlockEmbedding:
    """GatherBlockQuantized: only the rows that a text uses are ever expanded."""

    bits: int
    block_size: int
    exact: bool = False
    measured: bool = False

    @property
    def description(self) -> str:
        """For the manifest."""
        return f"GatherBlockQuantized {self.bits} bit, block {self.block_size}, symmetric"

    def write(
        self,
        graph: GraphBuilder,
        ids: str,
        table: Tensor,
        scale: float,
        sensitivity: Callable[[], Float32],
    ) -> str:
        """See EmbeddingFormat. Raises UsageError where rows are no whole number of blocks."""
        if table.shape[1] % self.block_size:
            raise UsageError(
                f"the embedding table has {table.shape[1]} columns, no multiple of the block size "
                f"{self.block_size}. Choose another --embedding-block-size, or --embedding fp32."
            )
        weighs = np.sqrt(np.diag(sensitivity()))
        divisor = self._divisor(table.rows(table.blocks(_SAMPLE)[0]), weighs)
        packed, scales = _store(
            graph,
            table.name,
            table,
            scale,
            self.bits,
            self.block_size,
            asymmetric=False,
            gathered=True,
            divisor=divisor,
        )
        rows = graph.node(
            "GatherBlockQuantized",
            packed,
            ids,
            scales,
            domain=MICROSOFT,
            bits=self.bits,
            block_size=self.block_size,
            gather_axis=0,
            quantize_axis=1,
            name="embedding.half",
        )
        rows = graph.node("Cast", rows, to=FLOAT, name="embedding")
        if divisor is None:
            return rows
        columns = graph.weight(f"{table.name}.columns", divisor)
        return graph.node("Mul", rows, columns, name="embedding.scaled")

    def _divisor(self, rows: Float32, sensitivity: Float32) -> Float32 | None:
        """What the columns are divided by before they are cut into blocks: (hidden,), or None.

        The largest value of a block sets the step for all of it. Columns that are large and weigh
        little are made smaller, so that the others get finer steps: to the root of the ratio, at
        which the sum of weighted errors is least where each column's error goes with its divisor.
        A table that has been in blocks before may lose less as it is. `rows` (count, hidden), of
        the tokens met most, tell which is better.
        """
        size = np.sqrt(np.square(rows).mean(0)) + np.float32(1e-12)
        balanced: Float32 = np.sqrt(size / (sensitivity + np.float32(1e-12)))

        def error(divisor: Float32) -> float:
            q = quantize(rows / divisor, self.bits, self.block_size, asymmetric=False)
            lost = (dequantize(q, self.bits)[:, : rows.shape[1]] * divisor - rows) * sensitivity
            return float(np.square(lost).sum())

        return balanced if error(balanced) < error(np.ones_like(size)) else None


def _store(
    graph: GraphBuilder,
    name: str,
    tensor: Tensor,
    scale: float,
    bits: int,
    block_size: int,
    asymmetric: bool,
    gathered: bool = False,
    divisor: Float32 | None = None,
) -> list[str]:
    """A tensor's codes, its scales and, if asymmetric, its zero points, as weights.

    Its columns are divided by `divisor` first. What is `gathered` by rows has its codes flat, and
    its scales in half precision, as MatMulNBits cannot have them beside float32 activations.
    """
    rows, columns = tensor.shape
    blocks = -(-columns // block_size)
    width = block_size * bits // 8
    precise = np.float16 if gathered else np.float32
    group = [
        Weight(name, np.uint8, (rows, blocks * width) if gathered else (rows, blocks, width)),
        Weight(f"{name}.scales", precise, (rows, blocks)),
    ]
    if asymmetric:
        group.append(Weight(f"{name}.zeros", np.uint8, (rows, -(-blocks * bits // 8))))

    def stored(block: slice) -> list[npt.NDArray[Any]]:
        values = tensor.rows(block)
        if divisor is not None:
            values = values / divisor
        q = quantize(values, bits, block_size, asymmetric)
        if tensor.feedback is not None:
            q = refine(q, values, bits, block_size, tensor.feedback)
        scales = (q.scales * np.float32(scale)).astype(precise)
        return [q.packed, scales, pack(q.zeros, bits)][: len(group)]

    return graph.weights(group, (partial(stored, block) for block in tensor.blocks()))
