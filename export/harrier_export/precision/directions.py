"""An embedding table in directions of its own: most bits where an error weighs most.

Transform coding (Goyal 2001, https://doi.org/10.1109/79.952802): rows are turned to directions in
which their coordinates have nothing to do with each other and an error costs the same in each. Then
few directions hold most of what matters. At run time the coordinates of a text's tokens are
gathered, and one product with a small matrix turns them back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from harrier_edge.errors import UsageError
from harrier_export.checkpoint import Float32, Tensor
from harrier_export.graph import FLOAT, MICROSOFT, GraphBuilder
from harrier_export.precision.codes import pack, quantize, unpacked_fours
from harrier_export.weights import Task, Weight

_PLANES = {8: (8,), 6: (4, 2), 4: (4,)}  # bits of a coordinate -> bits that are stored together
_SAMPLED_ROWS = 2**16  # from which directions are chosen
_DAMPING = 0.001  # of the mean: no direction costs nothing
_SIZE = 16.0  # root mean square of the coordinates, so that steps are no tiny float16 numbers


@dataclass(frozen=True)
class Directions:
    """There and back again: coordinates are (rows - mean) @ `forward`, all float32."""

    mean: Float32  # (hidden,)
    forward: Float32  # (hidden, hidden), the directions that weigh most first
    back: Float32  # its inverse


def choose_directions(table: Tensor, sensitivity: Float32) -> Directions:
    """Directions for the rows of `table` (vocabulary, hidden), from a part of them.

    An error e (hidden,) of a row costs e @ `sensitivity` @ e. With S its root, they are those of
    the principal components of rows @ S. There all errors cost the same, and each coordinate is
    divided by the root of its own size: the largest of a block sets the step for all of it, so
    that neither equal coordinates nor those as they are lose least.
    """
    rows = np.concatenate(list(_some_rows(table))).astype(np.float64)
    mean = rows.mean(0)
    rows -= mean
    covariance = rows.T @ rows / len(rows)
    del rows
    costs, axes = np.linalg.eigh(sensitivity.astype(np.float64))
    costs = np.sqrt(np.maximum(costs, 0) + _DAMPING * max(float(costs.mean()), 1e-30))
    root, inverse = (axes * costs) @ axes.T, (axes / costs) @ axes.T
    spread, turn = np.linalg.eigh(root @ covariance @ root)
    spread, turn = np.maximum(spread[::-1], spread[-1] * 1e-9 + 1e-30), turn[:, ::-1]
    sizes = np.sqrt(spread)
    divisor = np.sqrt(sizes) * np.sqrt(sizes.mean()) / _SIZE
    return Directions(
        mean.astype(np.float32),
        (root @ turn / divisor).astype(np.float32),
        ((turn * divisor).T @ inverse).astype(np.float32),
    )


def _some_rows(table: Tensor) -> Iterator[Float32]:
    """About `_SAMPLED_ROWS` rows from all over the table."""
    blocks = table.blocks()
    per_block = blocks[0].stop - blocks[0].start
    for block in blocks:
        share = max(1, round(per_block * _SAMPLED_ROWS / max(table.shape[0], _SAMPLED_ROWS)))
        yield table.rows(slice(block.start, min(block.stop, block.start + share)))


@dataclass(frozen=True)
class DirectionsEmbedding:
    """GatherBlockQuantized for the coordinates, MatMul for the way back.

    The first directions have 8 bits, the next 6 and the others 4. ONNX Runtime has no 6 bits: they
    are 4 bits and the 2 below them, of the same step, as coordinates of their own. Before 1.27 it
    has no 2 bits either: their codes are looked up.
    """

    eight: float  # the share of the directions in 8 bits
    six: float  # and in 6 bits
    exact: bool = False
    measured: bool = True

    @property
    def description(self) -> str:
        """For the manifest."""
        shares = ((self.eight, 8), (self.six, 6), (1 - self.eight - self.six, 4))
        told = ", ".join(f"{share:.0%} in {bits} bit" for share, bits in shares if share > 1e-6)
        return f"coordinates in the directions in which an error weighs most, {told}"

    def write(
        self,
        graph: GraphBuilder,
        ids: str,
        table: Tensor,
        scale: float,
        sensitivity: Callable[[], Float32],
    ) -> str:
        """See EmbeddingFormat. Raises UsageError where rows are no whole number of blocks."""
        count, hidden = table.shape
        block_size = _block_size(hidden)
        parts = self._parts(hidden, block_size)
        directions = cache(lambda: choose_directions(table, sensitivity()))
        group = []
        for bits, part in parts:
            width = part.stop - part.start
            for plane in _PLANES[bits]:
                codes = _codes(table, bits, plane)
                group.append(Weight(codes, np.uint8, (count, width * plane // 8)))
            group.append(Weight(_scales(table, bits), np.float16, (count, width // block_size)))

        def stored(chosen: Directions, block: slice) -> list[npt.NDArray[Any]]:
            coordinates = np.asarray((table.rows(block) - chosen.mean) @ chosen.forward, np.float32)
            return [
                array
                for bits, part in parts
                for array in _stored(coordinates[:, part], bits, block_size)
            ]

        def tasks() -> Iterator[Task]:
            chosen = directions()  # once, before any thread asks for it
            for block in table.blocks():
                yield partial(stored, chosen, block)

        def turning_back() -> list[npt.NDArray[Any]]:
            chosen = directions()
            return [chosen.back * np.float32(scale), chosen.mean * np.float32(scale)]

        graph.weights(group, tasks())
        back, mean = graph.weights(
            [
                Weight(f"{table.name}.back", np.float32, (hidden, hidden)),
                Weight(f"{table.name}.mean", np.float32, (hidden,)),
            ],
            [turning_back],
        )
        read = [_read(graph, ids, table, bits, block_size) for bits, _ in parts]
        joined = graph.node("Concat", *read, axis=-1, name="embedding.coordinates")
        turned = graph.node("MatMul", joined, back, name="embedding.turned")
        return graph.node("Add", turned, mean, name="embedding")

    def _parts(self, hidden: int, block_size: int) -> list[tuple[int, slice]]:
        """Bits, and which directions have them, in whole blocks."""
        ends = [self.eight, self.eight + self.six, 1.0]
        places = [0, *(round(end * hidden / block_size) * block_size for end in ends)]
        spans = zip((8, 6, 4), places, places[1:], strict=False)
        return [(bits, slice(start, end)) for bits, start, end in spans if start < end]


def _stored(coordinates: Float32, bits: int, block_size: int) -> list[npt.NDArray[Any]]:
    """The planes of codes of coordinates (rows, n), each (rows, bytes), and their scales."""
    if bits != 6:
        q = quantize(coordinates, bits, block_size, asymmetric=False)
        return [q.packed.reshape(len(coordinates), -1), q.scales.astype(np.float16)]
    blocks = coordinates.reshape(len(coordinates), -1, block_size)
    # The planes' zero points are 8 and 2, so that codes reach from -34 to 29.
    scales = np.maximum(blocks.max(-1) / 29, -blocks.min(-1) / 34) + np.float32(1e-12)
    codes = np.rint(blocks / scales[..., None]).clip(-34, 29).astype(np.int8) + 34
    planes = [pack(codes.astype(np.uint8) >> 2, 4), pack(codes.astype(np.uint8) & 3, 2)]
    return [*(plane.reshape(len(blocks), -1) for plane in planes), scales.astype(np.float16)]


def _block_size(hidden: int) -> int:
    """The number of coordinates that share a step."""
    for size in (64, 32, 16):
        if hidden % size == 0 and hidden >= 4 * size:
            return size
    raise UsageError(
        f"the embedding table has {hidden} columns; wanted a multiple of 16, 64 at least. "
        "Choose --embedding fp32, or --no-calibrate."
    )


def _codes(table: Tensor, bits: int, plane: int) -> str:
    return f"{table.name}.{bits}bit.{plane}"


def _scales(table: Tensor, bits: int) -> str:
    return f"{table.name}.{bits}bit.scales"


def _read(graph: GraphBuilder, ids: str, table: Tensor, bits: int, block_size: int) -> str:
    """The coordinates of `bits` at `ids` (batch, sequence), from their planes: (…, width)."""
    scales = _scales(table, bits)
    plane, *lower = _PLANES[bits]
    high = _gather(graph, ids, _codes(table, bits, plane), scales, plane, block_size)
    if not lower:
        return high
    low = _look_up(graph, ids, _codes(table, bits, *lower), scales, block_size)
    scaled = graph.node("Mul", high, graph.constant(2 ** lower[0], np.float32))
    return graph.node("Add", scaled, low)


def _gather(
    graph: GraphBuilder, ids: str, codes: str, scales: str, bits: int, block_size: int
) -> str:
    half = graph.node(
        "GatherBlockQuantized",
        codes,
        ids,
        scales,
        domain=MICROSOFT,
        bits=bits,
        block_size=block_size,
        gather_axis=0,
        quantize_axis=1,
        name=f"{codes}.rows",
    )
    return graph.node("Cast", half, to=FLOAT, name=f"{codes}.float")


def _look_up(graph: GraphBuilder, ids: str, codes: str, scales: str, block_size: int) -> str:
    """What `_gather` would read of 2 bits, by operators that every ONNX Runtime has.

    The codes are so short that float16, to which GatherBlockQuantized rounds, holds their products
    with the scale as they are.
    """
    rows = graph.node("Gather", codes, ids, name=f"{codes}.rows")
    fours = unpacked_fours(graph, rows, zero=2)
    by_block = graph.constant([0, 0, -1, block_size], np.int64)
    units = graph.node("Cast", graph.node("Reshape", fours, by_block), to=FLOAT)
    steps = graph.node("Cast", graph.node("Gather", scales, ids), to=FLOAT)
    steps = graph.node("Unsqueeze", steps, graph.constant([3], np.int64))
    joined = graph.constant([0, 0, -1], np.int64)
    return graph.node("Reshape", graph.node("Mul", units, steps), joined, name=f"{codes}.float")
