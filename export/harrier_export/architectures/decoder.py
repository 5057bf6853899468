"""The parts that Harrier's decoders are made of, as ONNX nodes.

The graph takes right-padded batches: attention gets each text's own length, so that padding is
never seen. GroupQueryAttention and its fellows are ONNX Runtime's own operators:
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harrier_export.checkpoint import Checkpoint
from harrier_export.graph import FLOAT, INT32, INT64, MICROSOFT, GraphBuilder
from harrier_export.precision import PrecisionFormat


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

    @property
    def layer_parameters(self) -> int:
        """The number of weights in one layer's linear maps."""
        attention = 2 * (self.heads + self.kv_heads) * self.head_dim
        return self.hidden_size * (attention + 3 * self.intermediate_size)


class DecoderBuilder:
    """Writes one decoder's nodes: values in and out are names of (batch, sequence, …) tensors."""

    def __init__(
        self,
        graph: GraphBuilder,
        checkpoint: Checkpoint,
        decoder: Decoder,
        precision: PrecisionFormat,
        norm_offset: float = 0.0,
    ) -> None:
        """`norm_offset` is added to every norm's weight."""
        self.graph = graph
        self.checkpoint = checkpoint
        self.decoder = decoder
        self.precision = precision
        self.norm_offset = norm_offset
        self._linear_format = precision.linear
        self._ropes: dict[Rope, tuple[str, str]] = {}

        g = graph
        self._ids = g.input("input_ids", INT64, ["batch", "sequence"])
        mask = g.input("attention_mask", INT64, ["batch", "sequence"])
        lengths = g.node("ReduceSum", mask, g.constant([1], np.int64), keepdims=0, name="lengths")
        self._last = g.node("Sub", lengths, g.constant(1, np.int64), name="last")
        self._seqlens_k = g.node("Cast", self._last, to=INT32, name="seqlens_k")
        width = g.node("Shape", self._ids, start=1, end=2, name="width")
        self._width = g.node("Squeeze", width, name="width.scalar")
        self._total = g.node("Cast", self._width, to=INT32, name="total_length")

    def embed(self, scale: float = 1.0) -> str:
        """Token embeddings times `scale`: (batch, sequence, hidden)."""
        d = self.decoder
        table = self.checkpoint.tensor("embed_tokens.weight", d.vocab_size, d.hidden_size)
        return self.precision.embedding.write(self.graph, self._ids, table, scale)

    def layer(self, index: int) -> str:
        """Begin a layer, in the format that the precision gives it; returns its tensors' prefix."""
        self._linear_format = self.precision.linear_of(index)
        return f"layers.{index}"

    def norm(self, x: str, name: str, size: int | None = None) -> str:
        """RMSNorm over the last axis (Zhang & Sennrich 2019, https://arxiv.org/abs/1910.07467)."""
        weight = self.checkpoint.tensor(f"{name}.weight", size or self.decoder.hidden_size)
        scale = self.graph.weight(f"{name}.weight", weight.array() + np.float32(self.norm_offset))
        return self.graph.node(
            "SimplifiedLayerNormalization",
            x,
            scale,
            axis=-1,
            epsilon=self.decoder.norm_eps,
            stash_type=1,
            name=name,
        )

    def attention(self, x: str, name: str, kind: Attention) -> str:
        """Grouped causal self-attention with normalized queries and keys."""
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
        )
        mixed = g.nodes(
            "GroupQueryAttention",
            self._norm_heads(query, f"{name}.q_norm", d.heads),
            self._norm_heads(key, f"{name}.k_norm", d.kv_heads),
            value,
            "",  # no past
            "",
            self._seqlens_k,
            self._total,
            *self._rotary(kind.rope),
            outputs=3,
            domain=MICROSOFT,
            num_heads=d.heads,
            kv_num_heads=d.kv_heads,
            scale=d.attention_scale,
            do_rotary=1,
            local_window_size=kind.window or -1,
            name=f"{name}.attention",
        )[0]
        return self._linear(mixed, query_size, {f"{name}.o_proj": d.hidden_size})[0]

    def feed_forward(self, x: str, name: str, activation: str, domain: str, **attrs: object) -> str:
        """down(activation(gate(x)) * up(x))  (Shazeer 2020, https://arxiv.org/abs/2002.05202)."""
        g, d = self.graph, self.decoder
        gate, up = self._linear(
            x,
            d.hidden_size,
            {f"{name}.gate_proj": d.intermediate_size, f"{name}.up_proj": d.intermediate_size},
        )
        gate = g.node(activation, gate, domain=domain, name=f"{name}.activation", **attrs)
        inner = g.node("Mul", gate, up, name=f"{name}.inner")
        return self._linear(inner, d.intermediate_size, {f"{name}.down_proj": d.hidden_size})[0]

    def add(self, x: str, y: str) -> str:
        """x + y, the residual connection."""
        return self.graph.node("Add", x, y, name="residual")

    def pool(self, x: str) -> None:
        """The last real token of each text, the final norm, unit length: the graph's output."""
        g = self.graph
        index = g.node("Unsqueeze", self._last, g.constant([1], np.int64), name="last.index")
        last = g.node("GatherND", x, index, batch_dims=1, name="last_token")
        embedding = g.node("LpNormalization", self.norm(last, "norm"), axis=-1, p=2, name="unit")
        g.output(
            embedding,
            "sentence_embedding",
            FLOAT,
            ["batch", self.decoder.hidden_size],
        )

    def _linear(self, x: str, inputs: int, outputs: dict[str, int]) -> list[str]:
        """Products of one input with several weights, tensor name -> output size."""
        weights = [
            self.checkpoint.tensor(f"{name}.weight", size, inputs) for name, size in outputs.items()
        ]
        return self._linear_format.write(self.graph, x, dict(zip(outputs, weights, strict=True)))

    def _norm_heads(self, x: str, name: str, heads: int) -> str:
        """RMSNorm of each head by itself."""
        g, d = self.graph, self.decoder
        split = g.constant([0, 0, heads, d.head_dim], np.int64)
        merged = g.constant([0, 0, heads * d.head_dim], np.int64)
        by_head = g.node("Reshape", x, split, name=f"{name}.split")
        return g.node("Reshape", self.norm(by_head, name, d.head_dim), merged, name=f"{name}.merge")

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
            positions = g.node(
                "Range", g.constant(0, np.int64), self._width, g.constant(1, np.int64)
            )
            column = g.node("Unsqueeze", positions, g.constant([1], np.int64))
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
