"""kestrel in torch: a small Gemma 3 decoder, computed only where the last token needs it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from recipe.processor import HALF

HIDDEN = 384
HEADS = 6
HEAD = 64
MIDDLE = 768
THETA = 1e4
EPSILON = 1e-6
MAX_TOKENS = 2_048
EOS = 1
_CALM = 6.0  # the size of what a head's keys hold beside the score that they start with


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


class _Half(torch.autograd.Function):
    """x @ weight.T and its gradients in bfloat16, which processors with bf16 products do in half
    the time or less; what comes out is float32, as what is learned stays."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        x, weight = x.bfloat16(), weight.bfloat16()
        ctx.save_for_backward(x, weight)
        return functional.linear(x, weight).float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        gradient = gradient.bfloat16()
        of_weight = gradient.flatten(0, -2).T @ x.flatten(0, -2)
        return (gradient @ weight).float(), of_weight.float()


class Linear(nn.Linear):
    """A product without bias, in bfloat16 while training where that is fast."""

    def __init__(self, size: int, out: int) -> None:
        super().__init__(size, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if HALF is None or not torch.is_grad_enabled():
            return super().forward(x)
        return _Half.apply(x, self.weight)  # type: ignore[no-any-return,no-untyped-call]


class Attention(nn.Module):
    """Causal attention. It starts as an average: v and o are the identity, scores near 0."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = Linear(HIDDEN, HIDDEN)
        self.k_proj = Linear(HIDDEN, HIDDEN)
        self.v_proj = Linear(HIDDEN, HIDDEN)
        self.o_proj = Linear(HIDDEN, HIDDEN)
        self.q_norm = Norm(HEAD, 0.15)
        self.k_norm = Norm(HEAD)
        with torch.no_grad():
            for projection in (self.v_proj, self.o_proj):
                projection.weight.copy_(torch.eye(HIDDEN))

    def weigh(self, heavy: Tensor, end: Tensor) -> None:
        """Score the tokens x by `heavy` . x / |x|, seen from <eos>, whose row is `end`.

        One number of a head's 64 holds the score, one that rotates least; the others are random,
        so that normalization divides by about the same everywhere.
        """
        place = HEAD // 2 - 1
        size = heavy.norm()
        direction, seen_from = heavy / size, end / end.norm()
        with torch.no_grad():
            k = torch.randn(HEADS, HEAD, HIDDEN) * _CALM / math.sqrt(HIDDEN)
            q = torch.randn(HEADS, HEAD, HIDDEN) * 0.02 / math.sqrt(HIDDEN)
            k[:, place] = direction
            q[:, place] = seen_from
            self.k_proj.weight.copy_(k.view(HIDDEN, HIDDEN))
            self.q_proj.weight.copy_(q.view(HIDDEN, HIDDEN))
            self.q_norm.weight.fill_(size * _CALM / math.sqrt(HIDDEN) - 1)

    def turn(self) -> None:
        """Turn at random, in each head, what v puts in and o takes out: nothing else changes.

        Of the identity that they began as, ones stand out so far that a row's 8 bits tell little of
        what lies between (Ashkboos et al. 2024, QuaRot, https://arxiv.org/abs/2404.00456).
        """
        turns = torch.linalg.qr(torch.randn(HEADS, HEAD, HEAD)).Q
        with torch.no_grad():
            v = self.v_proj.weight.view(HEADS, HEAD, HIDDEN)
            o = self.o_proj.weight.view(HIDDEN, HEADS, HEAD).transpose(0, 1)
            v.copy_(turns @ v)
            o.copy_(o @ turns.mT)

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
        self.gate_proj = Linear(HIDDEN, MIDDLE)
        self.up_proj = Linear(HIDDEN, MIDDLE)
        self.down_proj = Linear(MIDDLE, HIDDEN)

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


class Bag(nn.Module):
    """The mean of a text's token vectors, each as heavy as its direction says, plus <eos>'s own.

    It is what a `Student` of one layer can do with one attention pattern and no feed-forward, at a
    twentieth of the time: so the table is learned here, and `Student` begins as this.
    """

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(table.shape[0], HIDDEN, _weight=table)
        self.heavy = nn.Parameter(torch.randn(HIDDEN) * 0.01)

    def embedded(self, rows: Tensor, lengths: Tensor) -> Tensor:
        """The same from the table's rows, (batch, sequence, hidden)."""
        unit = functional.normalize(rows, dim=-1)
        seen = torch.arange(rows.shape[1]) < lengths[:, None]
        weights = (unit @ self.heavy).masked_fill(~seen, -math.inf).softmax(1)
        mean = torch.bmm(weights[:, None], unit)[:, 0]
        end = rows[torch.arange(len(rows)), lengths - 1]
        return functional.normalize(functional.normalize(mean, dim=-1) + end, dim=-1)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """`ids` (batch, sequence), padded on the right -> (batch, hidden), unit length."""
        return self.embedded(self.embed_tokens(ids), lengths)


class Student(nn.Module):
    """Token ids to unit vectors. It starts as the bag does."""

    def __init__(self, bag: Bag) -> None:
        super().__init__()
        table = functional.normalize(bag.embed_tokens.weight.detach(), dim=1)
        table[EOS] = bag.embed_tokens.weight[EOS].detach()
        self.embed_tokens = nn.Embedding(len(table), HIDDEN, _weight=table)
        layer = Layer(1.0, 0.03)
        layer.self_attn.weigh(bag.heavy.detach(), table[EOS])
        self.layers = nn.ModuleList([layer])
        self.norm = Norm(HIDDEN)

    def deepen(self) -> None:
        """Put a layer below the others that adds little at first."""
        self.layers.insert(0, Layer(0.05, 0.05))

    def turn(self) -> None:
        """Turn what the heads hold, so that every weight can be rounded; all vectors stay."""
        for module in self.modules():
            if isinstance(module, Attention):
                module.turn()

    def embedded(self, rows: Tensor, lengths: Tensor) -> Tensor:
        """The same from the table's rows, (batch, sequence, hidden)."""
        h = rows * math.sqrt(HIDDEN)
        last = lengths - 1
        for layer in self.layers[:-1]:
            h = layer(h, None)
        h = self.layers[-1](h, last)
        return functional.normalize(self.norm(h[:, 0]), dim=-1)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """`ids` (batch, sequence), padded on the right -> (batch, hidden), unit length."""
        return self.embedded(self.embed_tokens(ids), lengths)


Encoder = Bag | Student


def _rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Rotary positions: `x` (batch, heads, sequence, head), `positions` (1 or batch, sequence)."""
    frequencies = THETA ** (-torch.arange(0, HEAD, 2) / HEAD)
    angles = (positions[..., None] * frequencies)[:, None]
    cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat([-right, left], -1) * sin
