"""What a quantized layer should know of its inputs, learned from real text.

The decoder runs in float32, one layer at a time: the states of all texts go through a layer before
the next one is read, so that memory holds one layer's weights and the states, never the model.
From what enters each product come the smoothing of its channels (`smoothing`) and the second
moments by which its weights are rounded (`rounding`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from harrier_edge.session import token_batches
from harrier_export.architectures import Architecture
from harrier_export.architectures.decoder import Decoder, DecoderBuilder
from harrier_export.checkpoint import Checkpoint, Float32, HeldTensor, Tensor, held
from harrier_export.graph import FLOAT, GraphBuilder
from harrier_export.precision import float_format
from harrier_export.precision.float32 import FloatLinear
from harrier_export.precision.formats import Last, Rows
from harrier_export.rounding import Feedback, feedback
from harrier_export.smoothing import smooth
from harrier_export.weights import WeightFiles

# How much a text's last two tokens count in the statistics, for each of its first 64 tokens; all
# others count 1 each. The vector is the last token's state: what it loses is lost.
LAST_SHARES = (1.0, 0.5)
BEGINNINGS = 5  # texts that each text's first tokens make, so that many last tokens are seen
SMOOTHING_TOKENS = 1536  # of each product's inputs; more change nothing that is measurable


@dataclass(frozen=True)
class _Batch:
    """Texts of like length: right-padded ids and mask, and how much statistics count a token."""

    ids: npt.NDArray[np.int64]
    mask: npt.NDArray[np.int64]
    weight: Float32


def calibration_bytes(decoder: Decoder, texts: Sequence[Sequence[int]]) -> int:
    """About the memory that calibrating on `texts` (token ids) takes at most.

    A layer's weights three times in float32, in numpy and in ONNX Runtime as they are and as it
    multiplies them; all that enters its products; and the second moments of the widest product's
    inputs, in float32, and three times in float64 while they are inverted.
    """
    d = decoder
    tokens = sum(map(len, (*texts, *_beginnings(texts))))
    inputs = 2 * d.hidden_size + d.heads * d.head_dim + d.intermediate_size
    states = 4 * tokens * (2 * d.hidden_size + inputs)
    widest = max(d.hidden_size, d.heads * d.head_dim, d.intermediate_size)
    return 12 * d.layer_parameters + states + 28 * widest**2


class Calibration:
    """Goes through a decoder's layers in their order and changes their tensors."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        decoder: Decoder,
        architecture: Architecture,
        texts: Sequence[Sequence[int]],
        on_layer: Callable[[int, int], object] = lambda done, total: None,
        *,
        smoothed: bool = True,
    ) -> None:
        """`texts` are token ids; `on_layer` is told how many layers are done, of how many.

        `smoothed` scales channels too, for precisions in which all of a row share a scale.
        """
        self._smoothed = smoothed
        self._checkpoint = checkpoint
        self._decoder = decoder
        self._architecture = architecture
        self._on_layer = on_layer
        texts = [*texts, *_beginnings(texts)]
        # Whether every text begins with the same token, whose keys and values never change then.
        self._has_first = {text[0] for text in texts} == {decoder.bos_token}
        self._batches = [
            self._batch([texts[row] for row in rows])
            for rows in token_batches([len(text) for text in texts])
        ]
        self._states: list[Float32] = []
        self._layer = -1
        self._adjusted: dict[str, HeldTensor] = {}
        self._first_token: dict[str, Float32] = {}

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
        if not self._states:
            self._states = self._embed()
        self._layer += 1
        prefix = f"layers.{self._layer}"
        with tempfile.TemporaryDirectory() as folder:
            run = _LayerRun(Path(folder), self)
            seen: dict[str, _Inputs] = {}
            for at, batch in enumerate(self._batches):
                state, inputs = run(batch, self._states[at])
                self._states[at] = state
                for name, x in inputs.items():
                    seen.setdefault(name, _Inputs()).add(x, batch.weight)
            del run
        self._adjusted = self._adjust_layer(prefix, seen)
        self._on_layer(self._layer + 1, len(self._decoder.layers))

    def _embed(self) -> list[Float32]:
        """The states before the first layer; the table is read in blocks, never as a whole."""
        d = self._decoder
        table = self._checkpoint.tensor("embed_tokens.weight", d.vocab_size, d.hidden_size)
        states = [np.empty((*b.ids.shape, d.hidden_size), np.float32) for b in self._batches]
        for block in table.blocks():
            rows = table.rows(block)
            for batch, state in zip(self._batches, states, strict=True):
                here = (batch.ids >= block.start) & (batch.ids < block.stop)
                state[here] = rows[batch.ids[here] - block.start]
        for state in states:
            state *= np.float32(self._architecture.embedding_scale(d))
        return states

    def _adjust_layer(self, prefix: str, seen: Mapping[str, _Inputs]) -> dict[str, HeldTensor]:
        """Smooth what enters each product of a layer, then learn how to round its weights."""
        d = self._decoder
        a, m = f"{prefix}.self_attn", f"{prefix}.mlp"
        kv, wide = d.kv_heads * d.head_dim, d.intermediate_size
        sizes = {"q": d.heads * d.head_dim, "k": kv, "v": kv}
        values = {
            **{
                f"{a}.{n}_proj": self._read(f"{a}.{n}_proj", s, d.hidden_size)
                for n, s in sizes.items()
            },
            f"{a}.o_proj": self._read(f"{a}.o_proj", d.hidden_size, sizes["q"]),
            f"{m}.gate_proj": self._read(f"{m}.gate_proj", wide, d.hidden_size),
            f"{m}.up_proj": self._read(f"{m}.up_proj", wide, d.hidden_size),
            f"{m}.down_proj": self._read(f"{m}.down_proj", d.hidden_size, wide),
        }
        # Query heads that share a value head share its channels.
        channels = np.arange(kv).reshape(d.kv_heads, d.head_dim)
        shared = np.repeat(channels, d.heads // d.kv_heads, axis=0).ravel()
        before_attention, before_mlp = (f"{prefix}.{n}" for n in self._architecture.norms_before)
        groups: list[tuple[list[str], str, npt.NDArray[np.int64]]] = [
            ([f"{a}.{n}_proj" for n in sizes], before_attention, np.arange(d.hidden_size)),
            ([f"{a}.o_proj"], f"{a}.v_proj", shared),
            ([f"{m}.gate_proj", f"{m}.up_proj"], before_mlp, np.arange(d.hidden_size)),
            ([f"{m}.down_proj"], f"{m}.up_proj", np.arange(wide)),
        ]
        known: dict[str, Feedback] = {}
        first = seen[f"{a}.q_proj"].first
        for names, source, tied in groups:
            inputs = seen[names[0]]
            s = np.ones(len(tied), np.float32)
            if self._smoothed:
                s = smooth(inputs.some(), [values[name] for name in names], tied)
            what = feedback(inputs.moments / np.outer(s, s))
            for name in names:
                values[name] = values[name] * s
                known[name] = what
            if f"{a}.k_proj" in names:
                first = first / s
            each = np.empty(int(tied.max()) + 1, np.float32)
            each[tied] = s
            if source in values:
                values[source] = values[source] / each[:, None]
            else:
                offset = np.float32(self._architecture.norm_offset)
                values[source] = (self._read(source, d.hidden_size) + offset) / each - offset
        if self._has_first:
            self._first_token = {n: values[n] @ first for n in (f"{a}.k_proj", f"{a}.v_proj")}
        adjusted = {}
        for name, value in values.items():
            tensor = self._checkpoint.tensor(f"{name}.weight", *value.shape)
            adjusted[tensor.name] = held(tensor.name, value, known.get(name))
        return adjusted

    def _read(self, name: str, *shape: int) -> Float32:
        return self._checkpoint.tensor(f"{name}.weight", *shape).array()

    def layer_graph(self, graph: GraphBuilder, taps: FloatLinear) -> None:
        """Write the current layer in float32, with what enters its products as outputs."""
        form = float_format(taps)
        builder = DecoderBuilder(
            graph, self._checkpoint, self._decoder, form, self._architecture.norm_offset
        )
        shape: list[str | int] = ["batch", "sequence", self._decoder.hidden_size]
        state = Rows(graph.input("state", FLOAT, shape))
        state = self._architecture.layer(builder, state, self._layer)
        graph.output(state.settled(graph), "next_state", FLOAT, shape)


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


class _LayerRun:
    """One float32 layer in ONNX Runtime."""

    def __init__(self, folder: Path, calibration: Calibration) -> None:
        taps = _Taps()
        with WeightFiles(folder / "layer.onnx_data") as weights:
            graph = GraphBuilder(weights)
            calibration.layer_graph(graph, taps)
            graph.save(folder / "layer.onnx")
        self._names = taps.names
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; the rest is about how the graph is optimized
        self._session = onnxruntime.InferenceSession(str(folder / "layer.onnx"), options)

    def __call__(self, batch: _Batch, state: Float32) -> tuple[Float32, dict[str, Float32]]:
        """The next state, and weight name -> input."""
        feeds = {"input_ids": batch.ids, "attention_mask": batch.mask, "state": state}
        following, *inputs = self._session.run(["next_state", *self._names], feeds)
        return following, dict(zip(self._names, inputs, strict=True))


class _Inputs:
    """What entered one product: its second moments, and some of it."""

    def __init__(self) -> None:
        self.moments: npt.NDArray[Any] = np.zeros((), np.float32)
        self._rows: list[Float32] = []
        self._weights: list[Float32] = []

    def add(self, x: Float32, weight: Float32) -> None:
        """Take in a batch (texts, tokens, in) whose tokens count as `weight` (texts, tokens)."""
        self.first: Float32 = x[0, 0]
        rows, weights = x[weight > 0], weight[weight > 0]
        self.moments = self.moments + (rows * weights[:, None]).T @ rows
        self._rows.append(rows)
        self._weights.append(weights)

    def some(self) -> Float32:
        """Rows as likely as they are heavy, always the same: (SMOOTHING_TOKENS, in)."""
        rows, weights = np.concatenate(self._rows), np.concatenate(self._weights)
        ends = np.cumsum(weights, dtype=np.float64)
        places = (np.arange(SMOOTHING_TOKENS) + 0.5) / SMOOTHING_TOKENS * ends[-1]
        chosen: Float32 = rows[np.minimum(np.searchsorted(ends, places), len(rows) - 1)]
        return chosen


def _beginnings(texts: Sequence[Sequence[int]]) -> list[list[int]]:
    """The first tokens of each text, from two to sixty, as texts of their own."""
    cut = (
        (text, 2 + (7 * row + 11 * nth) % (12 * (nth + 1)))
        for row, text in enumerate(texts)
        for nth in range(BEGINNINGS)
    )
    return [[*text[:n], text[-1]] for text, n in cut if n < len(text) - 1]
