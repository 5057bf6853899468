"""What older releases of ONNX Runtime compute otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from harrier_edge import releases
from harrier_edge.embedder import Embedder
from harrier_edge.runtime import open_graph

HEADS, WIDTH, WINDOW = 2, 16, 16


def attention(path: Path) -> Path:
    """A graph of one GroupQueryAttention with a window."""
    shapes = {"q": HEADS * WIDTH, "k": WIDTH, "v": WIDTH, "seen": HEADS * WIDTH}
    values = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, "tokens", size])
        for name, size in shapes.items()
    }
    lengths = [
        helper.make_tensor_value_info("last", TensorProto.INT32, [1]),
        helper.make_tensor_value_info("total", TensorProto.INT32, []),
    ]
    node = helper.make_node(
        "GroupQueryAttention",
        ["q", "k", "v", "", "", "last", "total"],
        ["seen", "keys", "values"],
        domain="com.microsoft",
        num_heads=HEADS,
        kv_num_heads=1,
        local_window_size=WINDOW,
    )
    *given, seen = values.values()
    graph = helper.make_graph([node], "attention", [*given, *lengths], [seen])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    save(helper.make_model(graph, ir_version=10, opset_imports=opsets), path)
    return path


@pytest.mark.parametrize("tokens", [15, 16, 17, 40])
def test_a_window_holds_the_tokens_that_it_says(tokens: int, tmp_path: Path) -> None:
    """With this release: softmax over the last WINDOW keys, the token's own among them."""
    random = np.random.default_rng(tokens)
    q, k, v = (random.standard_normal((1, tokens, n), np.float32) for n in (HEADS * WIDTH, 16, 16))
    session = open_graph(
        attention(tmp_path / "a.onnx"), threads=1, providers=["CPUExecutionProvider"]
    )
    last, total = np.array([tokens - 1], np.int32), np.array(tokens, np.int32)
    (seen,) = session.run(["seen"], {"q": q, "k": k, "v": v, "last": last, "total": total})
    row, column = np.indices((tokens, tokens))
    is_seen = (column <= row) & (row - column < WINDOW)
    for head in range(HEADS):
        part = slice(head * WIDTH, (head + 1) * WIDTH)
        scores = np.where(is_seen, q[0, :, part] @ k[0].T / WIDTH**0.5, -np.inf)
        shares = np.exp(scores - scores.max(1, keepdims=True))
        wanted = shares / shares.sum(1, keepdims=True) @ v[0]
        assert np.abs(seen[0, :, part] - wanted).max() < 1e-5


def test_other_windows_change_long_texts_only(
    tiny_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package whose weights lie in other files loads with them; its windows have 16 tokens."""
    texts = ["one", "a long text " * 20]
    plain = Embedder(tiny_package).encode(texts)
    monkeypatch.setattr(releases, "EXACT_WINDOWS", not releases.EXACT_WINDOWS)
    other = Embedder(tiny_package).encode(texts)
    assert np.array_equal(other[0], plain[0])
    assert not np.allclose(other[1], plain[1], atol=1e-3)
