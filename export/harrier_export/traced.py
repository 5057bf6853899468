"""A graph that another exporter traced, written anew as a package's.

Products with a weight and the table of token embeddings take the precision that is asked for; all
other nodes stay as they were traced.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from harrier_edge.errors import UnsupportedModelError
from harrier_edge.session import INPUTS, OUTPUT
from harrier_export.checkpoint import Float32, Tensor, held
from harrier_export.graph import FLOAT, INLINE_BYTES, INT64, Array, GraphBuilder
from harrier_export.precision import PrecisionFormat, Rows
from harrier_export.precision.formats import TokenRows

TRACED_OPSET = 20  # the newest that torch traces to; what it writes means the same in graph.OPSET


def write_traced(
    graph: GraphBuilder,
    traced: Path,
    dimension: int,
    form: PrecisionFormat,
    on_weight: Callable[[int, int], object] = lambda done, total: None,
) -> None:
    """Write what the ONNX file `traced` computes to `graph`, its output scaled to unit length.

    `traced` takes input_ids and attention_mask and gives `sentence_embedding` (batch, dimension).
    `on_weight` is told how many bytes of its weights are read, of how many. Raises
    UnsupportedModelError where it takes other inputs.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load(traced, load_external_data=False))
    inputs = {value.name for value in model.graph.input}
    if inputs != INPUTS.keys():
        raise UnsupportedModelError(
            f"optimum traced a graph with inputs {sorted(inputs)}; wanted {sorted(INPUTS)}."
        )
    for name in INPUTS:
        graph.input(name, INT64, ["batch", "sequence"])
    pooled = _Rewriting(graph, model.graph, traced.parent, form, on_weight).run()
    unit = graph.node("LpNormalization", pooled, axis=-1, p=2, name="unit")
    graph.output(unit, OUTPUT, FLOAT, ["batch", dimension])


class _Rewriting:
    """One walk over a traced graph's nodes, in their order."""

    def __init__(
        self,
        graph: GraphBuilder,
        traced: onnx.GraphProto,
        folder: Path,
        form: PrecisionFormat,
        on_weight: Callable[[int, int], object],
    ) -> None:
        self._graph = graph
        self._traced = traced
        self._folder = folder  # of its external data
        self._form = form
        self._on_weight = on_weight
        self._weights = {tensor.name: tensor for tensor in traced.initializer}
        self._constants = {
            node.output[0]: numpy_helper.to_array(node.attribute[0].t).tolist()
            for node in traced.node
            if node.op_type == "Constant" and node.attribute[0].name == "value"
        }
        self._ranks = {
            value.name: len(value.type.tensor_type.shape.dim) for value in traced.value_info
        }
        self._read = 0  # bytes
        self._total = sum(map(_nbytes, traced.initializer))
        self._names: dict[str, str] = {}  # what stands for a value of the traced graph
        self._linears: defaultdict[str, list[onnx.NodeProto]] = defaultdict(list)

    def run(self) -> str:
        """Write all nodes; returns the name of what was traced as the output."""
        for node in self._traced.node:
            if self._is_linear(node):
                self._linears[node.input[0]].append(node)
        for node in self._traced.node:
            if node.output[0] in self._names:
                continue  # written with another that has the same input
            if self._is_linear(node):
                self._write_linears(node.input[0])
            elif node.op_type == "Gather" and self._is_table(node):
                table = self._tensor(node.input[0], rows_first=True)
                self._names[node.output[0]] = self._form.embedding.write(
                    self._graph, node.input[1], table, 1.0, partial(_alike, table.shape[1])
                )
            elif self._sums_tokens(node):
                self._sum_tokens(node)
            else:
                self._copy(node)
        return self._names[OUTPUT]

    def _is_linear(self, node: onnx.NodeProto) -> bool:
        """Whether a node multiplies with a weight (in, out)."""
        return node.op_type == "MatMul" and self._is_matrix(node.input[1])

    def _is_table(self, node: onnx.NodeProto) -> bool:
        """Whether a node takes rows by token id."""
        return node.input[1] == "input_ids" and self._is_matrix(node.input[0])

    def _is_matrix(self, name: str) -> bool:
        weight = self._weights.get(name)
        return weight is not None and len(weight.dims) == 2 and weight.data_type == FLOAT

    def _sums_tokens(self, node: onnx.NodeProto) -> bool:
        """Whether a node sums (batch, sequence, n) over the sequence, as mean pooling does."""
        return (
            node.op_type == "ReduceSum"
            and self._ranks.get(node.input[0]) == 3
            and self._ranks.get(node.output[0]) == 2
            and self._constants.get(node.input[1]) == [1]
        )

    def _sum_tokens(self, node: onnx.NodeProto) -> None:
        """Sum tokens by a product with ones, where a text has the same bits alone and in a batch.

        ONNX Runtime's sum over a middle axis adds in another order if the first has length 1.
        """
        g, x = self._graph, self._name(node.input[0])
        one = g.constant([1], np.int64)
        row = g.node("Concat", one, g.node("Shape", x, start=1, end=2), axis=0)
        ones = g.node("ConstantOfShape", row, value=numpy_helper.from_array(np.ones(1, np.float32)))
        self._names[node.output[0]] = g.node("Squeeze", g.node("MatMul", ones, x), one)

    def _write_linears(self, x: str) -> None:
        """Write all products of one value with weights."""
        nodes = self._linears[x]
        weights = {node.input[1]: self._tensor(node.input[1]) for node in nodes}
        products = self._form.linear.write(self._graph, Rows(self._name(x)), weights, _no_rows)
        by_weight = dict(zip(weights, products, strict=True))
        for node in nodes:
            self._names[node.output[0]] = by_weight[node.input[1]].settled(self._graph)

    def _tensor(self, name: str, *, rows_first: bool = False) -> Tensor:
        """A weight (out, in), which was traced as (in, out) if not `rows_first`."""
        values = self._array(name)
        values = values if rows_first else values.T
        return held(name, values)

    def _copy(self, node: onnx.NodeProto) -> None:
        """Take over a node, with the names that its inputs have now."""
        for part in _with_branches(node):
            for place, name in enumerate(part.input):
                part.input[place] = self._name(name)
        for place, name in enumerate(node.output):
            if name == OUTPUT:
                self._names[name] = node.output[place] = "traced_embedding"
        self._graph.adopt(node)

    def _name(self, name: str) -> str:
        """What stands for a value; a weight is written when it is first asked for."""
        if name in self._weights and name not in self._names:
            values = self._array(name)
            if values.nbytes <= INLINE_BYTES:
                self._names[name] = self._graph.constant(values, values.dtype)
            else:
                self._names[name] = self._graph.weight(name, values)
        return self._names.get(name, name)

    def _array(self, name: str) -> Array:
        values = numpy_helper.to_array(self._weights[name], str(self._folder))
        self._read += values.nbytes
        self._on_weight(self._read, self._total)
        return values


def _with_branches(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """A node and all that stand in its branches."""
    yield node
    for attribute in node.attribute:
        for branch in (attribute.g, *attribute.graphs):
            for inner in branch.node:
                yield from _with_branches(inner)


def _nbytes(weight: onnx.TensorProto) -> int:
    dtype: np.dtype[Any] = helper.tensor_dtype_to_np_dtype(weight.data_type)
    return int(math.prod(weight.dims)) * dtype.itemsize


def _no_rows() -> TokenRows:
    raise AssertionError("a traced graph does not tell where its texts end")


def _alike(columns: int) -> Float32:
    """No column of the table weighs more than another, as far as is known."""
    return np.eye(columns, dtype=np.float32)
