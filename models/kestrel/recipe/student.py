"""kestrel in torch: a small Gemma 3 decoder, computed only where the last token needs it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

HIDDEN = 384
HEADS = 6
HEAD = 64
MIDDLE = 768
THETA = 1e4
EPSILON = 1e-6
MAX_TOKENS = 2_048


def config(vocabulary: int, layers: int) -> dict[str, Any]:
    """config.json of `gemma3_text`."""
    return {
        "architectures": ["Gemma3TextModel"],
        "model_type": "gemma3_text",
        "hidden_size": HIDDEN,
        "intermediate_size": MIDDLE,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "head_dim": HEAD,
        "query_pre_attn_scalar": HEAD,
        "vocab_size": vocabulary,
        "max_position_embeddings": MAX_TOKENS,
        "rms_norm_eps": EPSILON,
        "rope_theta": THETA,
        "rope_local_base_freq": THETA,
        "sliding_window": MAX_TOKENS,
        "layer_types": ["full_attention"] * layers,
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "use_bidirectional_attention": False,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
    }


class Norm(nn.Module):
    """RMS norm times 1 + weight, as Gemma has it."""

    def __init__(self, size: int, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((size,), scale - 1))

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, x.shape[-1:], 1 + self.weight, EPSILON)


class Attention(nn.Module):
    """Causal attention. It starts as an average: v and o are the identity, scores near 0."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.k_proj = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.v_proj = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.o_proj = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.q_norm = Norm(HEAD, 0.15)
        self.k_norm = Norm(HEAD)
        with torch.no_grad():
            for projection in (self.v_proj, self.o_proj):
                projection.weight.copy_(torch.eye(HIDDEN))

    def forward(self, x: Tensor, last: Tensor | None) -> Tensor:
        """`x` (batch, sequence, hidden). With `last`, only what is at those places comes out."""
        batch, length, _ = x.shape
        positions = torch.arange(length)
        k = _rotate(self.k_norm(self._heads(self.k_proj(x))), positions[None])
        v = self._heads(self.v_proj(x))
        if last is None:
            q = _rotate(self.q_norm(self._heads(self.q_proj(x))), positions[None])
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            ends = x[torch.arange(batch), last][:, None]
            q = _rotate(self.q_norm(self._heads(self.q_proj(ends))), last[:, None])
            seen = (positions[None] <= last[:, None])[:, None, None]
            y = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        y = y.transpose(1, 2).reshape(batch, -1, HIDDEN)
        return self.o_proj(y)  # type: ignore[no-any-return]

    @staticmethod
    def _heads(x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], HEADS, HEAD).transpose(1, 2)


class FeedForward(nn.Module):
    """GeGLU."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(HIDDEN, MIDDLE, bias=False)
        self.up_proj = nn.Linear(HIDDEN, MIDDLE, bias=False)
        self.down_proj = nn.Linear(MIDDLE, HIDDEN, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = functional.gelu(self.gate_proj(x), approximate="tanh")
        return self.down_proj(gate * self.up_proj(x))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """One layer; `attention` and `middle` are what its two blocks add at first."""

    def __init__(self, attention: float, middle: float) -> None:
        super().__init__()
        self.input_layernorm = Norm(HIDDEN)
        self.self_attn = Attention()
        self.post_attention_layernorm = Norm(HIDDEN, attention)
        self.pre_feedforward_layernorm = Norm(HIDDEN)
        self.mlp = FeedForward()
        self.post_feedforward_layernorm = Norm(HIDDEN, middle)

    def forward(self, h: Tensor, last: Tensor | None) -> Tensor:
        x = self.self_attn(self.input_layernorm(h), last)
        if last is not None:
            h = h[torch.arange(h.shape[0]), last][:, None]
        h = h + self.post_attention_layernorm(x)
        x = self.mlp(self.pre_feedforward_layernorm(h))
        return h + self.post_feedforward_layernorm(x)  # type: ignore[no-any-return]


class Student(nn.Module):
    """Token ids to unit vectors. It starts as the mean of the rows of `table`."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(table.shape[0], HIDDEN, _weight=table)
        self.layers = nn.ModuleList([Layer(1.0, 0.1)])
        self.norm = Norm(HIDDEN)

    def deepen(self) -> None:
        """Put a layer below the others that adds little at first."""
        self.layers.insert(0, Layer(0.1, 0.1))

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """`ids` (batch, sequence), padded on the right -> (batch, hidden), unit length."""
        h = self.embed_tokens(ids) * math.sqrt(HIDDEN)
        last = lengths - 1
        for layer in self.layers[:-1]:
            h = layer(h, None)
        h = self.layers[-1](h, last)
        return functional.normalize(self.norm(h[:, 0]), dim=-1)


def _rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Rotary positions: `x` (batch, heads, sequence, head), `positions` (1 or batch, sequence)."""
    frequencies = THETA ** (-torch.arange(0, HEAD, 2) / HEAD)
    angles = (positions[..., None] * frequencies)[:, None]
    cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat([-right, left], -1) * sin
