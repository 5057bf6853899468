"""One layer of a decoder in float32, which shows what enters its products."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from harrier_edge.releases import given
from harrier_export.checkpoint import Float32, Tensor
from harrier_export.graph import FLOAT, GraphBuilder
from harrier_export.precision.float32 import FloatLinear
from harrier_export.precision.formats import Last, Rows
from harrier_export.weights import WeightFiles


@dataclass(frozen=True)
class _Taps(FloatLinear):
    """float32 products that show their input as a graph output, named like the first weight."""

    names: list[str] = field(default_factory=list)

    def write(
        self, graph: GraphBuilder, x: Rows, weights: Mapping[str, Tensor], last: Last | None
    ) -> list[Rows]:
        """See LinearFormat."""
        name = next(iter(weights))
        (width,) = {tensor.shape[1] for tensor in weights.values()}
        graph.output(x.settled(graph), name, FLOAT, ["batch", "sequence", width])
        self.names.append(name)
        return super().write(graph, x, weights, last)


class TappedLayer:
    """One float32 layer in ONNX Runtime."""

    def __init__(self, folder: Path, write: Callable[[GraphBuilder, FloatLinear], None]) -> None:
        """`write` puts the layer's graph into `folder`, from "state" to "next_state"."""
        taps = _Taps()
        with WeightFiles(folder / "layer.onnx_data") as weights:
            graph = GraphBuilder(weights)
            write(graph, taps)
            graph.save(folder / "layer.onnx")
        self._names = taps.names
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; the rest is about how the graph is optimized
        # Threads that spin between two runs take the cores from numpy, which works there.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        layer = given(folder / "layer.onnx", options)
        self._session = onnxruntime.InferenceSession(layer, options)

    def __call__(
        self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64], state: Float32
    ) -> tuple[Float32, dict[str, Float32]]:
        """The next state, and weight name -> input, of right-padded texts."""
        feeds = {"input_ids": ids, "attention_mask": mask, "state": state}
        following, *inputs = self._session.run(["next_state", *self._names], feeds)
        return following, dict(zip(self._names, inputs, strict=True))

    def probe(self, texts: Sequence[Sequence[int]], state: Float32) -> Float32:
        """The next state of texts (token ids) of one length."""
        ids = np.array(texts, np.int64)
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "state": state}
        following: Float32 = self._session.run(["next_state"], feeds)[0]
        return following
