"""What a precision has to provide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from harrier_edge.spec import Precision
from harrier_export.checkpoint import Float32, Tensor
from harrier_export.graph import GraphBuilder


@dataclass(frozen=True)
class Rows:
    """A value (batch, sequence, n) whose rows may still be owed a factor (batch, sequence, 1).

    What follows a product often does not care for it, a norm above all; who does, settles it.
    """

    value: str
    scale: str | None = None

    def settled(self, graph: GraphBuilder) -> str:
        """The value with its factor paid."""
        return graph.node("Mul", self.value, self.scale) if self.scale else self.value


@dataclass(frozen=True)
class TokenRows:
    """Where one token of each text stands among rows (batch, sequence, n)."""

    gather: str  # (batch, 1, 1) positions, for GatherND with batch_dims=1
    scatter: str  # (batch, 1, 2) text and position, for ScatterND


Last = Callable[[], TokenRows]  # written into the graph when first asked for


class LinearFormat(Protocol):
    """How linear layers are written."""

    @property
    def folded(self) -> bool:
        """Whether weights are expanded in the graph, for ONNX Runtime to do so when it loads it."""

    @property
    def description(self) -> str:
        """For the manifest."""

    def write(
        self, graph: GraphBuilder, x: Rows, weights: Mapping[str, Tensor], last: Last | None
    ) -> list[Rows]:
        """The products of `x` (batch, sequence, in) with several weights (out, in), (…, out) each.

        The weights that share an input come together, so that a format which prepares its input
        does so once. The rows `last` are those of which the vectors are made; none are told where
        they need be no finer than the others.
        """


class EmbeddingFormat(Protocol):
    """How the embedding table is written."""

    @property
    def exact(self) -> bool:
        """Whether rows come back as they were."""

    @property
    def measured(self) -> bool:
        """Whether sensitivity is to be measured, which takes time."""

    @property
    def description(self) -> str:
        """For the manifest."""

    def write(
        self,
        graph: GraphBuilder,
        ids: str,
        table: Tensor,
        scale: float,
        sensitivity: Callable[[], Float32],
    ) -> str:
        """The rows of `table` (vocabulary, hidden) at `ids` (batch, sequence), times `scale`.

        An error e (hidden,) of a row costs e @ `sensitivity()` (hidden, hidden) @ e.
        """


@dataclass(frozen=True)
class Floor:
    """The cosines to the reference below which an export is refused."""

    mean_cosine: float = 0.0
    min_cosine: float = 0.0


@dataclass(frozen=True)
class PrecisionFormat:
    """A precision: how each layer and the embedding table are written, and its floor.

    The first `early_layers` layers have a finer format, since what they round goes through all
    the others.
    """

    name: str
    linear: LinearFormat
    early_linear: LinearFormat
    early_layers: int
    embedding: EmbeddingFormat
    floor: Floor
    calibrated: bool = False  # whether its weights are rounded with what calibration knows
    smoothed: bool = False  # whether its channels are scaled by what calibration knows

    def linear_of(self, layer: int) -> LinearFormat:
        """The format of one layer's linear weights."""
        return self.early_linear if layer < self.early_layers else self.linear

    @property
    def folded(self) -> bool:
        """Whether some layer's weights are expanded in the graph."""
        return self.linear.folded or (self.early_layers > 0 and self.early_linear.folded)

    @property
    def linear_description(self) -> str:
        """For the manifest."""
        if not self.early_layers:
            return self.linear.description
        return (
            f"{self.linear.description}; in the first {self.early_layers} layers "
            f"{self.early_linear.description}"
        )

    def recorded(self, *, calibrated: bool | None = None) -> Precision:
        """For the manifest; `calibrated` as there."""
        return Precision(
            name=self.name,
            linear=self.linear_description,
            embedding=self.embedding.description,
            calibrated=calibrated,
        )
