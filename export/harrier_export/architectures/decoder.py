"""The parts that Harrier's decoders are made of, as ONNX nodes.

The graph takes right-padded batches: attention gets each text's own length, so that padding is
never seen. GroupQueryAttention and its fellows are ONNX Runtime's own operators:
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from harrier_edge.session import TILED_TOKENS
from harrier_export.checkpoint import Checkpoint, Float32, Tensor
from harrier_export.graph import FLOAT, INT32, INT64, MICROSOFT, GraphBuilder
from harrier_export.precision import PrecisionFormat, Rows
from harrier_export.precision.formats import TokenRows

_UNSEEN = 0.1  # how much norms tell of an embedding's sensitivity, for each measured part


@dataclass(frozen=True)
class Rope:
    """Rotary positions (Su et al. 2021, https://arxiv.org/abs/2104.09864).

    The angle of position p in dimension pair i is p / factor * theta^(-2i / head_dim); a factor
    above 1 is linear scaling.
    """

    theta: float
    factor: float = 1.0


@dataclass(frozen=True)
class Attention:
    """How one layer attends: with which positions, and how many tokens back, itself included."""

    rope: Rope
    window: int | None = None


@dataclass(frozen=True)
class Decoder:
    """The numbers of one decoder."""

    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    max_positions: int
    norm_eps: float
    attention_scale: float
    layers: tuple[Attention, ...]
    final_token: int  # the embedding is taken at this token, which ends every input
    pad_token: int
    bos_token: int | None = None
    normed_inputs: bool = False  # whether every linear layer has a norm of its own, as in BitNet

    @property
    def layer_parameters(self) -> int:
        """The number of weights in one layer's linear maps."""
        attention = 2 * (self.heads + self.kv_heads) * self.head_dim
        return self.hidden_size * (attention + 3 * self.intermediate_size)


class Calibrated(Protocol):
    """What calibration gives to a builder; see `harrier_export.calibrate.Calibration`."""

    def adjust(self, tensor: Tensor) -> Tensor:
        """A tensor as it should be quantized."""

    def sensitivity(self) -> Float32:
        """What an error e (hidden,) in a token's embedding costs: e @ this (hidden, hidden) @ e."""

    def first_token(self, name: str) -> Float32 | None:
        """What the weight `name` makes of the token that begins every text, if there is one."""


class DecoderBuilder:
    """Writes one decoder's nodes: values in and out are (batch, sequence, …)."""

    def __init__(
        self,
        graph: GraphBuilder,
        checkpoint: Checkpoint,
        decoder: Decoder,
        precision: PrecisionFormat,
        norm_offset: float = 0.0,
        calibration: Calibrated | None = None,
    ) -> None:
        """`norm_offset` is added to every norm's weight."""
        self.graph = graph
        self.checkpoint = checkpoint
        self.calibration = calibration
        self.decoder = decoder
        self.precision = precision
        self.norm_offset = norm_offset
        self._linear_format = precision.linear
        self._ropes: dict[Rope, tuple[str, str]] = {}
        self._texts: str | None = None
        self._begins: tuple[TokenRows, str] | None = None
        self._ends: str | None = None
        self._reduced = False
        self._lasts: dict[bool, TokenRows] = {}
        self.only_ends = False  # whether nothing follows for which all tokens are needed

        g = graph
        self._ids = g.input("input_ids", INT64, ["batch", "sequence"])
        mask = g.input("attention_mask", INT64, ["batch", "sequence"])
        lengths = g.node("ReduceSum", mask, g.constant([1], np.int64), keepdims=0, name="lengths")
        self._last = g.node("Sub", lengths, g.constant(1, np.int64), name="last_index")
        self._seqlens_k = g.node("Cast", self._last, to=INT32, name="seqlens_k")
        width = g.node("Shape", self._ids, start=1, end=2, name="width")
        self._width = g.node("Squeeze", width, name="width.scalar")
        self._total = g.node("Cast", self._width, to=INT32, name="total_length")
        tiled = g.constant(TILED_TOKENS, np.int64)
        self._narrow = g.node("LessOrEqual", self._width, tiled, name="narrow")

    def embed(self, scale: float = 1.0) -> Rows:
        """Token embeddings times `scale`: (batch, sequence, hidden).

        The final token's is exact, whatever the table's precision: the vector begins from it.
        """
        g, d = self.graph, self.decoder
        table = self.checkpoint.tensor("embed_tokens.weight", d.vocab_size, d.hidden_size)
        value = self.precision.embedding.write(g, self._ids, table, scale, self._sensitivity)
        if self.precision.embedding.exact:
            return Rows(value)
        row = slice(d.final_token, d.final_token + 1)
        exact = table.rows(row)[0] * np.float32(scale)
        last = self._last_rows()
        final = self._is_token(last, d.final_token, "final")
        return Rows(self._put(value, last, final, exact, table.name))

    def _sensitivity(self) -> Float32:
        """What an error e (hidden,) in an embedding costs: e @ this (hidden, hidden) @ e.

        The mean square of the weights of the norms through which layers read their input. Where it
        is to be measured, what calibration measured, and this in directions of which it saw little.
        Both have a mean diagonal of 1.
        """
        d = self.decoder
        names = [f"layers.{i}.input_layernorm.weight" for i in range(len(d.layers))]
        norms = [self.checkpoint.tensor(name, d.hidden_size).array() for name in names]
        weights = np.square(np.stack(norms) + np.float32(self.norm_offset)).mean(0)
        sensitivity: Float32 = np.diag(weights / np.float32(max(weights.mean(), 1e-30)))
        if self.calibration and self.precision.embedding.measured:
            sensitivity = self.calibration.sensitivity() + np.float32(_UNSEEN) * sensitivity
        return sensitivity

    def layer(self, index: int) -> str:
        """Begin a layer, in the format that the precision gives it; returns its tensors' prefix."""
        self._linear_format = self.precision.linear_of(index)
        return f"layers.{index}"

    def norm(
        self, x: Rows, name: str, size: int | None = None, offset: float | None = None
    ) -> Rows:
        """RMSNorm over the last axis (Zhang & Sennrich 2019, https://arxiv.org/abs/1910.07467).

        It undoes any factor of a row, so one that is owed need not be paid. `offset` takes the
        place of `norm_offset`.
        """
        weight = self._tensor(f"{name}.weight", size or self.decoder.hidden_size)
        added = self.norm_offset if offset is None else offset
        scale = self.graph.weight(f"{name}.weight", weight.array() + np.float32(added))
        normed = self.graph.node(
            "SimplifiedLayerNormalization",
            x.value,
            scale,
            axis=-1,
            epsilon=self.decoder.norm_eps,
            stash_type=1,
            name=name,
        )
        return Rows(normed)

    def attention(self, x: Rows, name: str, kind: Attention) -> Rows:
        """Grouped causal self-attention with normalized queries and keys.

        The last token's queries, keys and values need be no finer than the others': the stand-in's
        mean cosine to float32 is 0.99902 either way on the parity texts, and 0.99932 instead of
        0.99936 on 131 others.
        """
        g, d = self.graph, self.decoder
        query_size, kv_size = d.heads * d.head_dim, d.kv_heads * d.head_dim
        query, key, value = self._linear(
            x,
            d.hidden_size,
            {
                f"{name}.q_proj": query_size,
                f"{name}.k_proj": kv_size,
                f"{name}.v_proj": kv_size,
            },
            last_finer=False,
        )
        mixed = self._attend(
            self._norm_heads(query, f"{name}.q_norm", d.heads),
            self._norm_heads(self._pin(key, f"{name}.k_proj"), f"{name}.k_norm", d.kv_heads),
            self._pin(Rows(value.settled(g)), f"{name}.v_proj").value,
            kind,
            f"{name}.attention",
        )
        x = self.needed(Rows(mixed))
        return self._linear(x, query_size, {f"{name}.o_proj": d.hidden_size})[0]

    def _attend(self, query: str, key: str, value: str, kind: Attention, name: str) -> str:
        """What each token takes from those before it: (batch, sequence, heads * head_dim).

        ONNX Runtime has two kernels: one that holds all scores of a text, and one that goes
        through them in tiles, which is faster and smaller from TILED_TOKENS on.
        """
        g, d = self.graph, self.decoder
        rope = self._rotary(kind.rope)

        def attend(*, tiled: bool) -> str:
            # A sink that weighs nothing leaves the result alone, but the tiled kernel has none.
            sink = [] if tiled else ["", "", g.constant([-1e30] * d.heads, np.float32)]
            return g.nodes(
                "GroupQueryAttention",
                query,
                key,
                value,
                "",  # no past
                "",
                self._seqlens_k,
                self._total,
                *rope,
                *sink,
                outputs=3,
                domain=MICROSOFT,
                num_heads=d.heads,
                kv_num_heads=d.kv_heads,
                scale=d.attention_scale,
                do_rotary=1,
                local_window_size=kind.window or -1,
                name=name,
            )[0]

        return g.either(
            self._narrow, lambda: attend(tiled=False), lambda: attend(tiled=True), f"{name}.mixed"
        )

    def needed(self, x: Rows) -> Rows:
        """`x` once its tokens have met in attention: in the last layer, the last of each text.

        The last two, in truth (batch, 2, n): products of a single row take other ways through
        their kernels than products of many, and a text alone must have the bits it has in a batch.
        """
        if not self.only_ends:
            return x
        self._reduced = True
        g = self.graph
        if self._ends is None:
            before = g.node("Sub", self._last, g.constant(1, np.int64))
            pair = [g.node("Max", before, g.constant(0, np.int64)), self._last]
            axis = g.constant([1], np.int64)
            pair = [g.node("Unsqueeze", index, axis) for index in pair]
            both = g.node("Concat", *pair, axis=1)
            self._ends = g.node("Unsqueeze", both, g.constant([2], np.int64), name="ends")
        return Rows(g.node("GatherND", x.settled(g), self._ends, batch_dims=1, name="at_ends"))

    def feed_forward(
        self, x: Rows, name: str, activation: str, domain: str, **attrs: object
    ) -> Rows:
        """down(activation(gate(x)) * up(x))  (Shazeer 2020, https://arxiv.org/abs/2002.05202)."""
        g, d = self.graph, self.decoder
        gate, up = self._linear(
            x,
            d.hidden_size,
            {f"{name}.gate_proj": d.intermediate_size, f"{name}.up_proj": d.intermediate_size},
        )
        active = g.node(
            activation, gate.settled(g), domain=domain, name=f"{name}.activation", **attrs
        )
        inner = Rows(g.node("Mul", active, up.value, name=f"{name}.inner"), up.scale)
        return self._linear(inner, d.intermediate_size, {f"{name}.down_proj": d.hidden_size})[0]

    def add(self, x: Rows, y: Rows) -> Rows:
        """x + y, the residual connection."""
        g = self.graph
        return Rows(g.node("Add", x.settled(g), y.settled(g), name="residual"))

    def pool(self, x: Rows) -> None:
        """The last token of each text, the final norm, unit length: the graph's output."""
        g = self.graph
        last = Rows(g.node("Gather", x.settled(g), g.constant(1, np.int64), axis=1, name="last"))
        state = self.norm(last, "norm").value
        embedding = g.node("LpNormalization", state, axis=-1, p=2, name="unit")
        g.output(
            embedding,
            "sentence_embedding",
            FLOAT,
            ["batch", self.decoder.hidden_size],
        )

    def _linear(
        self, x: Rows, inputs: int, outputs: dict[str, int], *, last_finer: bool = True
    ) -> list[Rows]:
        """Products of one input with several weights, tensor name -> output size.

        Without `last_finer`, the last tokens' rows are written like all others.
        """
        weights = [self._tensor(f"{name}.weight", size, inputs) for name, size in outputs.items()]
        by_name = dict(zip(outputs, weights, strict=True))
        last = self._last_rows if last_finer else None
        write = self._linear_format.write
        if not self.decoder.normed_inputs:
            return write(self.graph, x, by_name, last)
        x = Rows(x.settled(self.graph))  # its norm has an epsilon, and rounding follows
        products = []
        for name, tensor in by_name.items():
            normed = self.norm(x, f"{name}.norm", inputs, offset=0)
            products += write(self.graph, normed, {name: tensor}, last)
        return products

    def _last_rows(self) -> TokenRows:
        """Where each text's last token is, before and after only the last two are `needed`."""
        if self._reduced not in self._lasts:
            g, at = self.graph, self._last
            if self._reduced:
                one = g.constant(1, np.int64)
                at = g.node("Add", g.node("Mul", at, g.constant(0, np.int64)), one)
            self._lasts[self._reduced] = self._token_rows(at, "last_rows")
        return self._lasts[self._reduced]

    def _token_rows(self, at: str, name: str) -> TokenRows:
        """The rows of the tokens at the positions `at` (batch,), one in each text."""
        g = self.graph
        axes = g.constant([1, 2], np.int64)
        if self._texts is None:
            zero, step = g.constant(0, np.int64), g.constant(1, np.int64)
            batch = g.node("Squeeze", g.node("Shape", self._ids, start=0, end=1))
            texts = g.node("Range", zero, batch, step)
            self._texts = g.node("Unsqueeze", texts, axes, name="texts")
        gather = g.node("Unsqueeze", at, axes, name=name)
        scatter = g.node("Concat", self._texts, gather, axis=2, name=f"{name}.of_texts")
        return TokenRows(gather, scatter)

    def _is_token(self, rows: TokenRows, token: int | None, name: str) -> str:
        """Whether each of `rows` is that of `token`: (batch, 1, 1)."""
        g = self.graph
        ids = g.node("Unsqueeze", self._ids, g.constant([2], np.int64))
        seen = g.node("GatherND", ids, rows.gather, batch_dims=1)
        return g.node("Equal", seen, g.constant(token, np.int64), name=name)

    def _put(self, value: str, rows: TokenRows, where: str, exact: Float32, name: str) -> str:
        """`value` with `exact` (n,) in the place of those of its `rows` for which `where` holds."""
        g = self.graph
        seen = g.node("GatherND", value, rows.gather, batch_dims=1)
        put = g.node("Where", where, g.weight(f"{name}.exact", exact), seen)
        return g.node("ScatterND", value, rows.scatter, put, name=f"{name}.pinned")

    def _tensor(self, name: str, *shape: int) -> Tensor:
        tensor = self.checkpoint.tensor(name, *shape)
        return self.calibration.adjust(tensor) if self.calibration else tensor

    def _pin(self, x: Rows, name: str) -> Rows:
        """The keys or values `x` of a layer, exact for the token that begins every text.

        That token sees only itself, so that its keys and values are the same in all texts. Much
        attention rests on it (Xiao et al. 2024, https://arxiv.org/abs/2309.17453): pinned, it
        gives the others none of the error that quantized layers would add to it. What is owed to
        the row of that token is not paid: of keys, which are normed, any multiple is as good.
        """
        exact = self.calibration.first_token(name) if self.calibration else None
        if exact is None:
            return x
        if self._begins is None:
            at_start = self.graph.node("Sub", self._last, self._last)
            first = self._token_rows(at_start, "first_rows")
            self._begins = first, self._is_token(first, self.decoder.bos_token, "begins")
        first, begins = self._begins
        return Rows(self._put(x.value, first, begins, exact, name), x.scale)

    def _norm_heads(self, x: Rows, name: str, heads: int) -> str:
        """RMSNorm of each head by itself."""
        g, d = self.graph, self.decoder
        split = g.constant([0, 0, heads, d.head_dim], np.int64)
        merged = g.constant([0, 0, heads * d.head_dim], np.int64)
        by_head = Rows(g.node("Reshape", x.value, split, name=f"{name}.split"))
        normed = self.norm(by_head, name, d.head_dim).value
        return g.node("Reshape", normed, merged, name=f"{name}.merge")

    def _positions(self) -> str:
        """0, 1, … to the width of the batch."""
        g = self.graph
        return g.node("Range", g.constant(0, np.int64), self._width, g.constant(1, np.int64))

    def _rotary(self, rope: Rope) -> tuple[str, str]:
        """Cosines and sines (sequence, head_dim / 2), made in the graph once for each kind.

        Tables for 32,768 positions would cost 33 MB of package and memory; this costs a
        thousandth of the time of a pass.
        """
        if rope not in self._ropes:
            g, d = self.graph, self.decoder
            name = f"rope{len(self._ropes)}"
            # As transformers computes them, in float32, so that long texts agree to the last bit.
            exponents = np.arange(0, d.head_dim, 2, dtype=np.float32) / np.float32(d.head_dim)
            frequencies = 1 / np.float32(rope.theta) ** exponents / np.float32(rope.factor)
            column = g.node("Unsqueeze", self._positions(), g.constant([1], np.int64))
            angles = g.node(
                "Mul",
                g.node("Cast", column, to=FLOAT),
                g.constant(frequencies, np.float32),
                name=f"{name}.angles",
            )
            self._ropes[rope] = (
                g.node("Cos", angles, name=f"{name}.cos"),
                g.node("Sin", angles, name=f"{name}.sin"),
            )
        return self._ropes[rope]
