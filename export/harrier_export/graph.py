"""A small builder of ONNX graphs that streams weights to external data as they are made."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]

INT32, INT64, FLOAT = TensorProto.INT32, TensorProto.INT64, TensorProto.FLOAT  # element types

MICROSOFT = (
    "com.microsoft"  # https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
)
OPSET = 21
IR_VERSION = 10
_ALIGNMENT = 4096  # a page, so that every weight can be mapped by itself
INLINE_BYTES = 1024  # smaller constants stay in the graph


class GraphBuilder:
    """Adds nodes and weights; values are known by name, as in ONNX itself."""

    def __init__(self, data: Path) -> None:
        """Weights go to the new file `data`, which stands beside the graph."""
        self._data_name = data.name
        self._data = data.open("xb")
        self._digest = hashlib.sha256()
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
        return self.stream(name, values.dtype, values.shape, [values])

    def stream(
        self, name: str, dtype: npt.DTypeLike, shape: Sequence[int], blocks: Iterable[Array]
    ) -> str:
        """A weight that arrives in `blocks`, which follow one another in C order.

        What several nodes share is written once.
        """
        if name in self._initializers:
            return name
        dtype = np.dtype(dtype)
        self._pad(-self._data.tell() % _ALIGNMENT)
        offset = self._data.tell()
        for block in blocks:
            little_endian = np.ascontiguousarray(block, dtype.newbyteorder("<"))
            self._write(little_endian.data)
        length = self._data.tell() - offset
        if length != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{name}: {length} bytes written for {dtype} {list(shape)}")
        proto = TensorProto(
            name=name,
            data_type=helper.np_dtype_to_tensor_dtype(dtype),
            dims=shape,
            data_location=TensorProto.EXTERNAL,
        )
        for key, value in (("location", self._data_name), ("offset", offset), ("length", length)):
            proto.external_data.add(key=key, value=str(value))
        self._initializers[name] = proto
        return name

    def save(self, path: Path) -> str:
        """Close the data file, write the graph to `path`, return the sha256 of the data file."""
        self.close()
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
        return self._digest.hexdigest()

    def close(self) -> None:
        """Close the data file."""
        self._data.close()

    def _unique(self, name: str) -> str:
        count = self._names.get(name, 0)
        self._names[name] = count + 1
        return name if count == 0 else f"{name}_{count}"

    def _pad(self, count: int) -> None:
        self._write(bytes(count))

    def _write(self, data: Any) -> None:
        self._data.write(data)
        self._digest.update(data)
