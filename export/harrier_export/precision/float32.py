"""Weights as they are, in float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from harrier_export.checkpoint import Float32, Tensor
from harrier_export.graph import GraphBuilder
from harrier_export.precision.formats import Last, Rows


@dataclass(frozen=True)
class FloatLinear:
    """MatMul with the transposed weight."""

    description: str = "float32"

    def write(
        self, graph: GraphBuilder, x: Rows, weights: Mapping[str, Tensor], last: Last
    ) -> list[Rows]:
        """See LinearFormat."""
        value = x.settled(graph)
        products = []
        for name, tensor in weights.items():
            weight = graph.weight(f"{name}.weight", tensor.array().T)
            products.append(Rows(graph.node("MatMul", value, weight, name=f"{name}.matmul")))
        return products


@dataclass(frozen=True)
class FloatEmbedding:
    """Gather, with the scale multiplied into the table."""

    description: str = "float32"
    exact: bool = True

    def write(
        self,
        graph: GraphBuilder,
        ids: str,
        table: Tensor,
        scale: float,
        sensitivity: Callable[[], Float32],
    ) -> str:
        """See EmbeddingFormat."""
        rows = (block * np.float32(scale) for block in table.blocks())
        return graph.node(
            "Gather", graph.stream(table.name, np.float32, table.shape, rows), ids, name="embedding"
        )
