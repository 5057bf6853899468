"""What a quantized layer should know of its inputs, learned from real text.

The decoder runs in float32, one layer at a time: the states of all texts go through a layer before
the next one is read. These states, the layer's graph, what is made of its weights and how they are
to be rounded are on the disk, so that memory is for what is worked on: it grows with the width of
the model, and neither with its depth nor with the texts.
From what enters each product come the smoothing of its channels (`smoothing`) and the second
moments by which its weights are rounded (`rounding`).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harrier_edge.session import token_batches
from harrier_export.architectures import Architecture
from harrier_export.architectures.decoder import Decoder, DecoderBuilder
from harrier_export.checkpoint import Checkpoint, Float32, Tensor, held
from harrier_export.graph import FLOAT, GraphBuilder
from harrier_export.precision import float_format
from harrier_export.precision.float32 import FloatLinear
from harrier_export.precision.formats import Rows
from harrier_export.rounding import feedback
from harrier_export.sensitivity import Run, choose_probes, measure_sensitivity
from harrier_export.smoothing import smooth
from harrier_export.taps import TappedLayer

# How much a text's last two tokens count in the statistics, for each of its first 64 tokens; all
# others count 1 each. The vector is the last token's state: what it loses is lost.
LAST_SHARES = (1.0, 0.5)
BEGINNINGS = 5  # texts that each text's first tokens make, so that many last tokens are seen
SMOOTHING_TOKENS = 1536  # of each product's inputs; more change nothing that is measurable
_BATCH_TOKENS = 1024  # that go through a layer at once, if they are of several texts
_PANEL = 4096  # columns of second moments that are added up at once
_BESIDE = 10**9  # bytes


@dataclass(frozen=True)
class _Batch:
    """Texts of like length: right-padded ids and mask, and how much statistics count a token."""

    ids: npt.NDArray[np.int64]
    mask: npt.NDArray[np.int64]
    weight: Float32


@dataclass(frozen=True)
class Room:
    """What calibrating takes at most, about, in bytes."""

    memory: int
    disk: int


def calibration_room(
    decoder: Decoder, texts: Sequence[Sequence[int]], *, smoothed: bool = True
) -> Room:
    """What calibrating a decoder on `texts` (token ids) takes.

    In memory that is a layer in the form in which ONNX Runtime multiplies, beside it mapped, and
    the second moments of all that enters its products; or, once these are known, those of the
    widest product once in float32 and once in float64, where they are inverted; or else a product's
    weights, five times, while its channels are smoothed; and all the while `_BESIDE` for
    what is rounded and written. On the disk it is the states, two layers, and twice
    what is known of how to round them.
    """
    d = decoder
    tokens = sum(map(len, (*texts, *_beginnings(texts))))
    widths = (d.hidden_size, d.hidden_size, d.heads * d.head_dim, d.intermediate_size)
    moments = 4 * sum(width**2 for width in widths)
    run = 8 * d.layer_parameters + moments
    inverted = 12 * max(widths) ** 2
    smoothing = 4 * 5 * 2 * d.hidden_size * d.intermediate_size if smoothed else 0
    return Room(
        memory=max(run, moments + max(inverted, smoothing)) + _BESIDE,
        disk=4 * tokens * d.hidden_size + 4 * 4 * d.layer_parameters + 2 * moments,
    )


class Calibration:
    """Goes through a decoder's layers in their order and changes their tensors."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        decoder: Decoder,
        architecture: Architecture,
        texts: Sequence[Sequence[int]],
        scratch: Path,
        on_layer: Callable[[int, int], object] = lambda done, total: None,
        *,
        smoothed: bool = True,
    ) -> None:
        """`texts` are token ids; `on_layer` is told how many layers are done, of how many.

        `scratch` is a folder for what is not held in memory. What `adjust` gave is mapped from
        there, and stays as it was although its file is removed when the next layer is begun.

        `smoothed` scales channels too, for precisions in which all of a row share a scale.
        """
        self._smoothed = smoothed
        self._checkpoint = checkpoint
        self._decoder = decoder
        self._architecture = architecture
        self._scratch = scratch
        self._on_layer = on_layer
        self._texts = texts
        texts = [*texts, *_beginnings(texts)]
        # Whether every text begins with the same token, whose keys and values never change then.
        self._has_first = {text[0] for text in texts} == {decoder.bos_token}
        self._batches = [
            self._batch([texts[row] for row in rows])
            for rows in token_batches([len(text) for text in texts], tokens=_BATCH_TOKENS)
        ]
        self._chosen = _as_heavy(np.concatenate([b.weight[b.weight > 0] for b in self._batches]))
        self._layer = -1
        self._adjusted: dict[str, Tensor] = {}
        self._first_token: dict[str, Float32] = {}

    def sensitivity(self) -> Float32:
        """What an error e (hidden,) in a token's embedding costs: e @ this (hidden, hidden) @ e."""
        d = self._decoder
        norm = self._checkpoint.tensor("norm.weight", d.hidden_size).array()
        weight = norm + np.float32(self._architecture.norm_offset)

        def layers() -> Iterator[Run]:
            for i in range(len(d.layers)):
                folder = self._scratch / f"probe-{i}"
                folder.mkdir(parents=True)
                yield TappedLayer(folder, partial(self._write_layer, i)).probe
                shutil.rmtree(folder, ignore_errors=True)

        def pool(states: Float32) -> Float32:
            rows = states * weight  # the norm's own factor is lost with the length
            vectors: Float32 = rows / np.sqrt(np.square(rows).sum(-1, keepdims=True))
            return vectors

        return measure_sensitivity(
            choose_probes(self._texts),
            lambda token: token == d.final_token or (self._has_first and token == d.bos_token),
            lambda ids: self._embedded(np.array(ids, np.int64)),
            layers(),
            pool,
        )

    def adjust(self, tensor: Tensor) -> Tensor:
        """`tensor` as it should be quantized. Layers must be asked for in their order."""
        _, found, rest = tensor.name.partition("layers.")
        if not found:
            return tensor
        layer = int(rest.partition(".")[0])
        while self._layer < layer:
            self._advance()
        return self._adjusted.get(tensor.name, tensor)

    def first_token(self, name: str) -> Float32 | None:
        """What the weight `name` (out, in) makes of the token that begins every text: (out,).

        None where texts begin with no token of their own.
        """
        return self._first_token.get(name)

    def _batch(self, texts: Sequence[Sequence[int]]) -> _Batch:
        width = max(map(len, texts))
        ids = np.full((len(texts), width), self._decoder.pad_token, np.int64)
        mask = np.zeros_like(ids)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = text
            mask[row, : len(text)] = 1
        weight = mask.astype(np.float32)
        for row, text in enumerate(texts):
            for back, share in enumerate(LAST_SHARES[: len(text)], 1):
                weight[row, len(text) - back] = share * min(len(text), 64)
        if self._has_first:
            weight[:, 0] = 0  # its keys and values are written into the graph
        return _Batch(ids, mask, weight)

    def _advance(self) -> None:
        """Run the next layer over all texts and adjust its tensors."""
        if self._layer < 0:
            self._embed()
        self._layer += 1
        folder = self._scratch / f"layer-{self._layer}"
        folder.mkdir(parents=True)
        shutil.rmtree(folder.with_name(f"layer-{self._layer - 1}"), ignore_errors=True)
        seen = self._run(folder / "run")
        self._adjusted = {}
        layer = _AdjustedLayer(self._checkpoint, f"layers.{self._layer}", folder)
        self._adjust_layer(layer, seen)
        self._adjusted = layer.tensors
        self._on_layer(self._layer + 1, len(self._decoder.layers))

    def _run(self, folder: Path) -> dict[str, _Inputs]:
        """Bring all states through the layer: what entered its products, by the first weight."""
        folder.mkdir()
        run = TappedLayer(folder, partial(self._write_layer, self._layer))
        seen: dict[str, _Inputs] = {}
        for at, batch in enumerate(self._batches):
            state, inputs = run(batch.ids, batch.mask, np.load(self._state(at)))
            np.save(self._state(at), state)
            for name, x in inputs.items():
                seen.setdefault(name, _Inputs(self._chosen)).add(x, batch.weight)
        del run
        shutil.rmtree(folder, ignore_errors=True)
        return seen

    def _state(self, at: int) -> Path:
        """The file of the states (texts, tokens, hidden) float32 of a batch."""
        return self._scratch / f"states-{at}.npy"

    def _embed(self) -> None:
        """Write the states before the first layer."""
        self._scratch.mkdir(parents=True, exist_ok=True)
        for at, batch in enumerate(self._batches):
            np.save(self._state(at), self._embedded(batch.ids))

    def _embedded(self, ids: npt.NDArray[np.int64]) -> Float32:
        """The states of ids (texts, tokens) before the first layer; only their rows are read."""
        d = self._decoder
        table = self._checkpoint.tensor("embed_tokens.weight", d.vocab_size, d.hidden_size)
        scale = np.float32(self._architecture.embedding_scale(d))
        known, which = np.unique(ids, return_inverse=True)
        rows = np.concatenate([table.rows(slice(i, i + 1)) for i in known]) * scale
        states: Float32 = rows[which.reshape(ids.shape)]
        return states

    def _adjust_layer(self, layer: _AdjustedLayer, seen: dict[str, _Inputs]) -> None:
        """Smooth what enters each product of a layer, then learn how to round its weights."""
        d = self._decoder
        a, m = f"{layer.prefix}.self_attn", f"{layer.prefix}.mlp"
        q, kv, wide = d.heads * d.head_dim, d.kv_heads * d.head_dim, d.intermediate_size
        shapes = {
            f"{a}.q_proj": (q, d.hidden_size),
            f"{a}.k_proj": (kv, d.hidden_size),
            f"{a}.v_proj": (kv, d.hidden_size),
            f"{a}.o_proj": (d.hidden_size, q),
            f"{m}.gate_proj": (wide, d.hidden_size),
            f"{m}.up_proj": (wide, d.hidden_size),
            f"{m}.down_proj": (d.hidden_size, wide),
        }
        # Query heads that share a value head share its channels.
        channels = np.arange(kv).reshape(d.kv_heads, d.head_dim)
        shared = np.repeat(channels, d.heads // d.kv_heads, axis=0).ravel()
        before_attention, before_mlp = (
            f"{layer.prefix}.{n}" for n in self._architecture.norms_before
        )
        groups: list[tuple[list[str], str, npt.NDArray[np.int64]]] = [
            (
                [f"{a}.q_proj", f"{a}.k_proj", f"{a}.v_proj"],
                before_attention,
                np.arange(d.hidden_size),
            ),
            ([f"{a}.o_proj"], f"{a}.v_proj", shared),
            ([f"{m}.gate_proj", f"{m}.up_proj"], before_mlp, np.arange(d.hidden_size)),
            ([f"{m}.down_proj"], f"{m}.up_proj", np.arange(wide)),
        ]
        first = seen[f"{a}.q_proj"].first
        for names, source, tied in groups:
            inputs = seen.pop(names[0])
            if self._smoothed:
                weights = {name: layer.read(name, *shapes[name]) for name in names}
                s = smooth(inputs.some(), list(weights.values()), tied)
                for name, weight in weights.items():
                    layer.put(name, weight * s)
                del weights
                each = np.empty(int(tied.max()) + 1, np.float32)
                each[tied] = s
                if source in shapes:
                    layer.put(source, layer.read(source, *shapes[source]) / each[:, None])
                else:
                    offset = np.float32(self._architecture.norm_offset)
                    norm = layer.read(source, d.hidden_size)
                    layer.put(source, (norm + offset) / each - offset)
                inputs.divide(s)
                if f"{a}.k_proj" in names:
                    first = first / s
            layer.round_by({name: shapes[name] for name in names}, inputs.finished())
        if self._has_first:
            self._first_token = {
                name: layer.read(name, *shapes[name]) @ first
                for name in (f"{a}.k_proj", f"{a}.v_proj")
            }

    def _write_layer(self, layer: int, graph: GraphBuilder, linear: FloatLinear) -> None:
        """Write a layer in float32 from "state" to "next_state", its products by `linear`."""
        form = float_format(linear)
        builder = DecoderBuilder(
            graph, self._checkpoint, self._decoder, form, self._architecture.norm_offset
        )
        shape: list[str | int] = ["batch", "sequence", self._decoder.hidden_size]
        state = Rows(graph.input("state", FLOAT, shape))
        state = self._architecture.layer(builder, state, layer)
        graph.output(state.settled(graph), "next_state", FLOAT, shape)


class _AdjustedLayer:
    """The tensors of one layer as they should be quantized; those that changed are files."""

    def __init__(self, checkpoint: Checkpoint, prefix: str, folder: Path) -> None:
        self.prefix = prefix
        self.tensors: dict[str, Tensor] = {}  # by the checkpoint's names
        self._checkpoint = checkpoint
        self._folder = folder
        self._written = 0

    def read(self, name: str, *shape: int) -> Float32:
        """The weight `name` as it is by now."""
        return self._tensor(name, shape).array()

    def put(self, name: str, values: Float32) -> None:
        """Change a weight."""
        before = self._tensor(name, values.shape)
        self._written += 1
        path = self._folder / f"weight-{self._written}"  # what it was before may be mapped
        values.tofile(path)
        mapped = np.memmap(path, np.float32, mode="r", shape=values.shape)
        self.tensors[before.name] = held(before.name, np.asarray(mapped), before.feedback)

    def round_by(self, shapes: Mapping[str, tuple[int, ...]], moments: Float32) -> None:
        """Have weights of one input rounded by its second moments."""
        known = feedback(moments, self._folder / f"{next(iter(shapes))}.feedback")
        for name, shape in shapes.items():
            tensor = self._tensor(name, shape)
            self.tensors[tensor.name] = replace(tensor, feedback=known)

    def _tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        tensor = self._checkpoint.tensor(f"{name}.weight", *shape)
        return self.tensors.get(tensor.name, tensor)


class _Inputs:
    """What entered one product: its second moments, and some of it."""

    def __init__(self, chosen: npt.NDArray[np.int64]) -> None:
        """`chosen` are the rows to be kept, ascending, counted over all batches."""
        self._chosen = chosen
        self._some: list[Float32] = []
        self._seen = 0
        self._moments: Float32 | None = None

    def add(self, x: Float32, weight: Float32) -> None:
        """Take in a batch (texts, tokens, in) whose tokens count as `weight` (texts, tokens)."""
        self.first: Float32 = x[0, 0].copy()
        rows, weights = x[weight > 0], weight[weight > 0]
        here = (self._chosen >= self._seen) & (self._chosen < self._seen + len(rows))
        self._some.append(rows[self._chosen[here] - self._seen])
        self._seen += len(rows)
        width = rows.shape[1]
        if self._moments is None:
            self._moments = np.zeros((width, width), np.float32)
        # Both factors are one matrix, of which numpy then makes but half the product.
        rows = rows * np.sqrt(weights)[:, None]
        for start in range(0, width, _PANEL):  # of the lower half; the other is its mirror
            end = min(start + _PANEL, width)
            self._moments[start:end, :end] += rows[:, start:end].T @ rows[:, :end]

    def some(self) -> Float32:
        """The rows that were chosen: (SMOOTHING_TOKENS, in)."""
        return np.concatenate(self._some)

    def divide(self, s: Float32) -> None:
        """Have the moments be those of inputs divided by `s` (in,)."""
        assert self._moments is not None
        self._moments /= s
        self._moments /= s[:, None]

    def finished(self) -> Float32:
        """The second moments (in, in)."""
        assert self._moments is not None
        for start in range(_PANEL, len(self._moments), _PANEL):
            end = start + _PANEL
            self._moments[:start, start:end] = self._moments[start:end, :start].T
        return self._moments


def _as_heavy(weights: Float32) -> npt.NDArray[np.int64]:
    """Places among `weights` (n,), as likely as these are heavy, always the same, ascending."""
    ends = np.cumsum(weights, dtype=np.float64)
    places = (np.arange(SMOOTHING_TOKENS) + 0.5) / SMOOTHING_TOKENS * ends[-1]
    chosen: npt.NDArray[np.int64] = np.minimum(np.searchsorted(ends, places), len(weights) - 1)
    return chosen


def _beginnings(texts: Sequence[Sequence[int]]) -> list[list[int]]:
    """The first tokens of each text, from two to sixty, as texts of their own."""
    cut = (
        (text, 2 + (7 * row + 11 * nth) % (12 * (nth + 1)))
        for row, text in enumerate(texts)
        for nth in range(BEGINNINGS)
    )
    return [[*text[:n], text[-1]] for text, n in cut if n < len(text) - 1]
