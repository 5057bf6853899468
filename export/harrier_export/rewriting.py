"""What passes over a finished graph share: new nodes, small constants, inputs renamed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper


class Rewriter:
    """New nodes for one graph, in the order in which they run."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.nodes: list[onnx.NodeProto] = []

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Append a node of one output, whose name it has, and return that name."""
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: int | list[int]) -> str:
        """The int64 constant `name`, which the graph gets if it has none of this name."""
        if name not in {tensor.name for tensor in self.graph.initializer}:
            tensor = numpy_helper.from_array(np.array(value, np.int64), name)
            self.graph.initializer.append(tensor)
        return name


def replace_input(node: onnx.NodeProto, old: str, new: str) -> None:
    """Let `node` read `new` wherever it reads `old`."""
    for place, name in enumerate(node.input):
        if name == old:
            node.input[place] = new


def needed_nodes(
    nodes: Iterable[onnx.NodeProto], outputs: Iterable[str], given: Iterable[str]
) -> list[onnx.NodeProto]:
    """Of `nodes`, in their order, those that make `outputs` out of the values `given`."""
    given, wanted = set(given), set(outputs)
    found = []
    for node in reversed(list(nodes)):
        if wanted - given & set(node.output):
            found.append(node)
            wanted.update(_reads(node))
    return found[::-1]


def used_initializers(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    """The initializers of `graph` that one of its nodes reads."""
    read = {name for node in graph.node for name in _reads(node)}
    return [tensor for tensor in graph.initializer if tensor.name in read]


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """The values that a node reads, those that its branches take from outside included."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _reads(inner)
