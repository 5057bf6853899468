"""`layer-00.onnx` and so on: the graph once more, over the same weights, a layer at a time.

One pass over a long text takes memory for what every layer makes of all its tokens. Layer by layer
and piece by piece it takes the tokens' states, and one layer's keys and values. So all pieces of a
text go through one of these graphs before the first goes through the next.

Inputs of each:

- `input_ids` (1, n) int64: the tokens of the piece.
- `hidden` (1, n, hidden) float32: what the layer before made of them; the first layer has none.
- `start` () int64: how many tokens of the text come before the piece.
- `kept` () int64: of how many of them the keys and values are given, those right before the piece.
- `past_key`, `past_value` (1, kv_heads, m, head_dim) float32: `kept` rows, then room for n or more.
- `is_end` () bool: whether the piece is the text's last.

Outputs are `next` (1, n, hidden), the `hidden` of the next layer, or of the last layer
`sentence_embedding`; and `present_key` and `present_value` (1, kv_heads, m, head_dim), which are
`past_key` and `past_value` with the piece's own rows, and may lie where they lie.

Layers that see only a window of tokens are given all that is kept as well: attention sums up in
tiles, whose bits are those of one pass only if the tiles begin where its tiles do.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from harrier_edge.package import MODEL, layer_file
from harrier_export.architectures.decoder import Decoder
from harrier_export.graph import MICROSOFT
from harrier_export.rewriting import Rewriter, needed_nodes, replace_input, used_initializers

_QUERY, _KEY, _PAST_KEY, _PAST_VALUE, _COSINES, _SINES = 0, 1, 3, 4, 7, 8  # attention's inputs
_ADDED = 2  # ScatterND's input of what is put or added


def write_layer_graphs(folder: Path, decoder: Decoder) -> None:
    """Write a graph for each layer of the `model.onnx` in `folder`, built for `decoder`."""
    whole = onnx.load(folder / MODEL, load_external_data=False)
    count = len(decoder.layers)
    norms = {node.name: node for node in whole.graph.node}
    states = [norms[f"layers.{i}.input_layernorm"].input[0] for i in range(count)]
    for i in range(count):
        model = onnx.ModelProto()
        model.CopyFrom(whole)
        given = states[i] if i else None
        wanted = states[i + 1] if i + 1 < count else model.graph.output[0].name
        _Layer(model.graph, decoder, given, wanted).write()
        (folder / layer_file(i)).write_bytes(model.SerializeToString())


class _Layer(Rewriter):
    """Cuts one layer out of a graph. Values are known by the names that `DecoderBuilder` gives."""

    def __init__(
        self, graph: onnx.GraphProto, decoder: Decoder, given: str | None, wanted: str
    ) -> None:
        super().__init__(graph)
        self._decoder = decoder
        self._given = given
        self._wanted = wanted

    def write(self) -> None:
        """Leave only the layer in the graph."""
        graph, d = self.graph, self._decoder
        is_last = self._wanted == graph.output[0].name
        given = [self._given] if self._given else []
        self._node_of_position()
        for node in needed_nodes(graph.node, [self._wanted], given):
            self._rewrite(node)
        output = self._wanted
        if not is_last:
            output = self.node("Identity", [self._wanted], "next")
        outputs = [output, "present_key", "present_value"]
        nodes = needed_nodes(self.nodes, outputs, given)
        if self._given:
            for node in nodes:
                replace_input(node, self._given, "hidden")
        del graph.node[:], graph.input[:]
        graph.node.extend(nodes)
        initializers = used_initializers(graph)
        del graph.initializer[:]
        graph.initializer.extend(initializers)
        kept = (1, d.kv_heads, "m", d.head_dim)
        graph.input.extend(
            [
                _info("input_ids", TensorProto.INT64, [1, "n"]),
                *([_info("hidden", TensorProto.FLOAT, [1, "n", d.hidden_size])] if given else []),
                _info("start", TensorProto.INT64, []),
                _info("kept", TensorProto.INT64, []),
                _info("past_key", TensorProto.FLOAT, kept),
                _info("past_value", TensorProto.FLOAT, kept),
                _info("is_end", TensorProto.BOOL, []),
            ]
        )
        if not is_last:
            del graph.output[:]
            graph.output.append(_info("next", TensorProto.FLOAT, [1, "n", d.hidden_size]))
        graph.output.extend(
            _info(name, TensorProto.FLOAT, kept) for name in ("present_key", "present_value")
        )

    def _node_of_position(self) -> None:
        """What follows from where the piece stands, for the nodes that care."""
        self.node("Equal", ["start", self.constant("start.zero", 0)], "is_beginning")
        self.node("Cast", ["is_end"], "is_end.float", to=TensorProto.FLOAT)

    def _rewrite(self, node: onnx.NodeProto) -> None:
        """Append `node`, changed where a piece is no whole text."""
        name = node.output[0]
        if node.op_type == "If":
            self._attend(node)
            return
        if name == "lengths":  # there is one text, without padding
            self.node("Identity", ["width"], name)
            return
        if name == "seqlens_k":
            node.input[0] = self.node("Add", ["last_index", "kept"], "last_kept")
        elif name == "total_length":
            node.input[0] = self.node("Add", ["width.scalar", "kept"], "width.kept")
        elif node.op_type == "Range" and node.input[1] == "width.scalar":
            node.input[0], node.input[1] = "start", "stop"
        elif node.op_type == "ScatterND" and _adds(node):
            # What makes a text's last token finer is not for the last of every piece.
            finer = f"{name}.at_end"
            self.node("Mul", [node.input[_ADDED], "is_end.float"], finer)
            node.input[_ADDED] = finer
        elif name in ("begins", "final"):  # a text's first and last token are not a piece's
            node.name = node.output[0] = f"{name}.of_piece"
            self.nodes.append(node)
            where = {"begins": "is_beginning", "final": "is_end"}[name]
            self.node("And", [f"{name}.of_piece", where], name)
            return
        self.nodes.append(node)
        if name == "width.scalar":
            self.node("Add", ["start", "width.scalar"], "stop")

    def _attend(self, node: onnx.NodeProto) -> None:
        """Put the kernel for long texts in place of the choice, and give it what is kept.

        Positions are written by operators of their own, since attention takes them from the first
        token that is kept on.
        """
        d = self._decoder
        (branch,) = (a.g for a in node.attribute if a.name == "else_branch")
        (attention,) = branch.node
        tables = [attention.input[_COSINES], attention.input[_SINES]]
        at = self.constant("rows.from", [0])
        for place, heads in ((_QUERY, d.heads), (_KEY, d.kv_heads)):
            turned = f"{attention.input[place]}.turned"
            inputs = [attention.input[place], at, *tables]
            self.node("RotaryEmbedding", inputs, turned, domain=MICROSOFT, num_heads=heads)
            attention.input[place] = turned
        del attention.input[_COSINES:]
        attention.input[_PAST_KEY], attention.input[_PAST_VALUE] = "past_key", "past_value"
        (rotary,) = (a for a in attention.attribute if a.name == "do_rotary")
        rotary.i = 0
        attention.output[:] = [node.output[0], "present_key", "present_value"]
        self.nodes.append(attention)


def _adds(scatter: onnx.NodeProto) -> bool:
    return any(a.name == "reduction" and a.s == b"add" for a in scatter.attribute)


def _info(name: str, dtype: int, shape: Sequence[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)
