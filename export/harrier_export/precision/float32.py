"""Weights as they are, in float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from harrier_export.checkpoint import Float32, Tensor
from harrier_export.graph import GraphBuilder
from harrier_export.precision.formats import Last, Rows
from harrier_export.weights import Weight


@dataclass(frozen=True)
class FloatLinear:
    """MatMul with the transposed weight."""

    description: str = "float32"
    folded: bool = False

    def write(
        self, graph: GraphBuilder, x: Rows, weights: Mapping[str, Tensor], last: Last | None
    ) -> list[Rows]:
        """See LinearFormat."""
        value = x.settled(graph)
        products = []
        for name, tensor in weights.items():
            weight = _transposed(graph, f"{name}.weight", tensor)
            products.append(Rows(graph.node("MatMul", value, weight, name=f"{name}.matmul")))
        return products


@dataclass(frozen=True)
class FloatEmbedding:
    """Gather, with the scale multiplied into the table."""

    description: str = "float32"
    exact: bool = True
    measured: bool = False

    def write(
        self,
        graph: GraphBuilder,
        ids: str,
        table: Tensor,
        scale: float,
        sensitivity: Callable[[], Float32],
    ) -> str:
        """See EmbeddingFormat."""
        weight = Weight(table.name, np.float32, table.shape)
        tasks = (partial(_scaled, table, rows, scale) for rows in table.blocks())
        return graph.node("Gather", *graph.weights([weight], tasks), ids, name="embedding")


def _transposed(graph: GraphBuilder, name: str, tensor: Tensor) -> str:
    weight = Weight(name, np.float32, tensor.shape[::-1])
    return graph.weights([weight], [lambda: [tensor.array().T]])[0]


def _scaled(table: Tensor, rows: slice, scale: float) -> list[Float32]:
    return [table.rows(rows) * np.float32(scale)]
