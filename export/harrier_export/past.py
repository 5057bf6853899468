"""`query.onnx`: the graph once more, over the same weights, given what a beginning left behind.

Queries begin alike, with their instruction. What its tokens leave in each layer for those behind
them, their keys and values, is the same whatever follows, so that it need be computed only once.

Inputs are `input_ids` (1, n) int64 and `past` (2 * layers, 1, kv_heads, m, head_dim) float32: of
each layer the keys, then the values, of the m tokens before, which may be none. Outputs are
`sentence_embedding` and `present`, in the form of `past`, of all m + n tokens.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from harrier_edge.package import MODEL, QUERY
from harrier_export.architectures.decoder import Decoder
from harrier_export.rewriting import Rewriter, replace_input

ATTENTION = "GroupQueryAttention"
_PAST_KEY, _PAST_VALUE = 3, 4  # places among its inputs


def write_query_graph(folder: Path, decoder: Decoder) -> None:
    """Write `query.onnx` beside the `model.onnx` in `folder`, which was built for `decoder`."""
    model = onnx.load(folder / MODEL, load_external_data=False)
    _Past(model.graph, decoder).add()
    (folder / QUERY).write_bytes(model.SerializeToString())


class _Past(Rewriter):
    """Rewrites one graph. Values that `DecoderBuilder` names are known by these names."""

    def __init__(self, graph: onnx.GraphProto, decoder: Decoder) -> None:
        super().__init__(graph)
        self._pairs = 2 * len(decoder.layers)
        self._heads = (decoder.kv_heads, decoder.head_dim)
        self._presents: list[str] = []

    def add(self) -> None:
        """Give the graph its past."""
        graph = self.graph
        for node in list(graph.node):
            self._rewrite(node)
        self.node("Concat", self._presents, "present", axis=0)
        del graph.node[:], graph.input[:]
        graph.node.extend(self.nodes)
        ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "n"])
        graph.input.extend([ids, self._pair_info("past", "m")])
        graph.output.append(self._pair_info("present", "m + n"))

    def _rewrite(self, node: onnx.NodeProto) -> None:
        """Append `node`, changed where it has to do with how many tokens there are."""
        (name, *_) = node.output
        if name == "lengths":  # there is one text, without padding
            self.nodes.append(helper.make_node("Identity", ["width"], [name]))
            return
        if name == "seqlens_k":
            node.input[0] = self.node("Add", ["last_index", "past.width"], "last_of_all")
        elif name == "narrow" or (node.op_type == "Range" and node.input[1] == "width.scalar"):
            replace_input(node, "width.scalar", "width.of_all")
        elif name == "total_length":
            node.input[0] = "width.of_all"
        elif node.op_type == "If":
            self._attend(node)
            return
        if name == "begins":  # the first token of a text is not that of what follows a past
            node.name = node.output[0] = "begins.anywhere"
        self.nodes.append(node)
        if name == "begins":
            self.node("And", ["begins.anywhere", "past.none"], "begins")
        elif name == "width.scalar":
            self.node("Shape", ["past"], "past.width", start=3, end=4)
            self.node("Squeeze", ["past.width"], "past.scalar")
            self.node("Add", ["width.scalar", "past.scalar"], "width.of_all")
            self.node("Equal", ["past.scalar", self.constant("past.zero", 0)], "past.none")

    def _attend(self, node: onnx.NodeProto) -> None:
        """Put a layer's past before its attention, and take what it leaves."""
        pair = len(self._presents)
        pasts = [
            self.node("Gather", ["past", self.constant(f"past.index.{i}", i)], f"past.{i}", axis=0)
            for i in (pair, pair + 1)
        ]
        for branch in node.attribute:
            (attention,) = (n for n in branch.g.node if n.op_type == ATTENTION)
            attention.input[_PAST_KEY], attention.input[_PAST_VALUE] = pasts
            for present in attention.output[1:]:
                value = helper.make_tensor_value_info(present, TensorProto.FLOAT, None)
                branch.g.output.append(value)
        self.nodes.append(node)
        axis = self.constant("present.axis", [0])
        for i in (pair, pair + 1):
            node.output.append(f"present.{i}")
            row = self.node("Unsqueeze", [f"present.{i}", axis], f"present.{i}.row")
            self._presents.append(row)

    def _pair_info(self, name: str, tokens: str) -> onnx.ValueInfoProto:
        heads, size = self._heads
        shape: list[str | int | None] = [self._pairs, 1, heads, tokens, size]
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
