"""A small builder of ONNX graphs, whose weights are external data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from harrier_export.weights import Place, Task, Weight, Weights

Array = npt.NDArray[Any]

INT32, INT64, FLOAT = TensorProto.INT32, TensorProto.INT64, TensorProto.FLOAT  # element types

MICROSOFT = (
    "com.microsoft"  # https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
)
OPSET = 21
IR_VERSION = 10
INLINE_BYTES = 1024  # smaller constants stay in the graph


class GraphBuilder:
    """Adds nodes and weights; values are known by name, as in ONNX itself."""

    def __init__(self, weights: Weights) -> None:
        """`weights` takes those that are too large for the graph itself."""
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._names: dict[str, int] = {}

    def input(self, name: str, dtype: int, shape: Sequence[str | int]) -> str:
        """Declare a graph input."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, value: str, name: str, dtype: int, shape: Sequence[str | int]) -> None:
        """Make `value` the graph output `name`."""
        self._nodes.append(helper.make_node("Identity", [value], [name], name=name))
        self._outputs.append(helper.make_tensor_value_info(name, dtype, shape))

    def node(
        self, op: str, *inputs: str, name: str | None = None, domain: str = "", **attributes: Any
    ) -> str:
        """Add a node with one output and return that output's name."""
        return self.nodes(op, *inputs, outputs=1, name=name, domain=domain, **attributes)[0]

    def nodes(
        self,
        op: str,
        *inputs: str,
        outputs: int,
        name: str | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> list[str]:
        """Add a node with several outputs and return their names."""
        name = self._unique(name or op)
        results = [name] if outputs == 1 else [f"{name}.{i}" for i in range(outputs)]
        self._nodes.append(
            helper.make_node(op, inputs, results, name=name, domain=domain, **attributes)
        )
        return results

    def adopt(self, node: onnx.NodeProto) -> None:
        """Add a node that another exporter made, under its own names."""
        self._nodes.append(node)

    def either(
        self, condition: str, then: Callable[[], str], otherwise: Callable[[], str], name: str
    ) -> str:
        """What `then` writes where the scalar `condition` holds, else what `otherwise` writes.

        Only one of the two runs. Both give a float value.
        """
        branches = {
            "then_branch": self._branch(then, f"{name}.then"),
            "else_branch": self._branch(otherwise, f"{name}.else"),
        }
        return self.node("If", condition, name=name, **branches)

    def _branch(self, write: Callable[[], str], name: str) -> onnx.GraphProto:
        outer, self._nodes = self._nodes, []
        try:
            result = helper.make_tensor_value_info(write(), FLOAT, None)
            return helper.make_graph(self._nodes, self._unique(name), [], [result])
        finally:
            self._nodes = outer

    def constant(self, values: Any, dtype: npt.DTypeLike) -> str:
        """A small constant, shared by all who ask for the same one."""
        array = np.asarray(values, dtype)
        name = f"constant.{array.dtype}.{list(array.shape)}.{array.tobytes().hex()}"
        if array.nbytes > INLINE_BYTES:
            raise ValueError(f"{array.nbytes} bytes are too many for an inline constant")
        if name not in self._initializers:
            short = self._unique("constant")
            self._initializers[name] = numpy_helper.from_array(array, short)
        return self._initializers[name].name

    def weight(self, name: str, values: Array) -> str:
        """A weight that is in memory."""
        return self.weights([Weight(name, values.dtype, values.shape)], [lambda: [values]])[0]

    def weights(self, group: Sequence[Weight], tasks: Iterable[Task]) -> list[str]:
        """Weights that `tasks` make together, as much of each a task as follows the last one.

        What several nodes share is written once.
        """
        names = [weight.name for weight in group]
        if names[0] not in self._initializers:
            for weight, place in zip(group, self._weights.add(group, tasks), strict=True):
                self._initializers[weight.name] = _external(weight, place)
        return names

    def save(self, path: Path) -> None:
        """Write the graph to `path`, beside which its weights lie."""
        graph = helper.make_graph(
            self._nodes, path.stem, self._inputs, self._outputs, list(self._initializers.values())
        )
        model = helper.make_model(
            graph,
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)],
            producer_name="harrier-edge",
        )
        path.write_bytes(model.SerializeToString())

    def _unique(self, name: str) -> str:
        count = self._names.get(name, 0)
        self._names[name] = count + 1
        return name if count == 0 else f"{name}_{count}"


def _external(weight: Weight, place: Place) -> TensorProto:
    proto = TensorProto(
        name=weight.name,
        data_type=helper.np_dtype_to_tensor_dtype(np.dtype(weight.dtype)),
        dims=weight.shape,
        data_location=TensorProto.EXTERNAL,
    )
    where = {"location": place.file, "offset": place.offset, "length": place.length}
    for key, value in where.items():
        proto.external_data.add(key=key, value=str(value))
    return proto
