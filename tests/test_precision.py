"""Weights in 8 or 4 bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from safetensors.numpy import save_file

from harrier_edge.errors import UsageError
from harrier_export.checkpoint import Float32, read_header
from harrier_export.graph import FLOAT, INT64, GraphBuilder
from harrier_export.precision import precision_format
from harrier_export.precision.blocks import BlockEmbedding, refine
from harrier_export.precision.codes import Quantized, dequantize, quantize
from harrier_export.precision.formats import Rows, TokenRows
from harrier_export.precision.tokens import TokenLinear
from harrier_export.rounding import feedback
from harrier_export.weights import WeightFiles, WeightPlan


def expand(q: Quantized, bits: int, columns: int) -> npt.NDArray[np.float32]:
    """What the stored integers stand for: (rows, columns)."""
    codes = q.packed
    if bits == 4:
        codes = np.stack([codes & 15, codes >> 4], -1).reshape(*codes.shape[:2], -1)
    values = (codes.astype(np.float32) - q.zeros[..., None]) * q.scales[..., None]
    return values.reshape(len(values), -1)[:, :columns]


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("block_size", [16, 32])
def test_no_weight_is_further_off_than_half_a_step(
    bits: int, asymmetric: bool, block_size: int
) -> None:
    """Rounding is to the nearest code, but for what 4 bits clip to round the rest finer."""
    rows = np.random.default_rng(0).standard_normal((8, 96)).astype(np.float32)
    rows[0] += 3  # one row far from zero
    rows[1] = 0
    q = quantize(rows, bits, block_size, asymmetric)
    error = np.abs(expand(q, bits, 96) - rows).reshape(8, -1, block_size)
    step = np.abs(q.scales)[..., None]
    assert (error[1] == 0).all()
    if bits == 8:
        assert (error <= step * 0.5001).all()
    else:
        assert (error <= step * 0.5001).mean() > 0.9
    assert np.isfinite(q.scales).all()


def test_a_zero_point_helps_blocks_far_from_zero() -> None:
    """Asymmetric blocks spend their codes where the weights are."""
    rows = np.random.default_rng(1).uniform(2, 3, (4, 64)).astype(np.float32)
    errors = [np.abs(expand(quantize(rows, 4, 32, a), 4, 64) - rows).mean() for a in (False, True)]
    assert errors[1] < errors[0]


def test_a_finer_block_errs_less() -> None:
    """The reason for small blocks."""
    rows = np.random.default_rng(2).standard_normal((16, 256)).astype(np.float32)
    errors = [
        np.square(expand(quantize(rows, 4, size, True), 4, 256) - rows).mean()
        for size in (16, 64, 256)
    ]
    assert errors == sorted(errors)


@pytest.mark.parametrize("asymmetric", [False, True])
def test_codes_that_know_their_inputs_lose_less(tmp_path: Path, asymmetric: bool) -> None:
    """With the same scales, the product of correlated inputs errs less; a short block is kept."""
    random = np.random.default_rng(4)
    hidden = random.standard_normal((2000, 8)) @ random.standard_normal((8, 72))
    x = (hidden + 0.1 * random.standard_normal((2000, 72))).astype(np.float32)
    rows = random.standard_normal((16, 72)).astype(np.float32)
    plain = quantize(rows, 4, 32, asymmetric)
    known = refine(plain, rows, 4, 32, feedback(x.T @ x, tmp_path / "factor"))
    errors = [np.square(x @ (expand(q, 4, 72) - rows).T).mean() for q in (plain, known)]
    assert errors[1] < 0.5 * errors[0]
    assert known.packed.shape == plain.packed.shape
    assert np.array_equal(expand(known, 4, 96)[:, 72:], np.zeros((16, 24)))


@pytest.mark.parametrize("bits", [8, 4])
def test_a_short_last_block_is_filled(bits: int) -> None:
    """Columns need not be a multiple of the block."""
    rows = np.random.default_rng(3).standard_normal((3, 40)).astype(np.float32)
    q = quantize(rows, bits, 32, False)
    assert q.packed.shape == (3, 2, 32 * bits // 8)
    assert np.abs(expand(q, bits, 40) - rows).max() < (0.02 if bits == 8 else 0.35)


def test_early_layers_are_written_finer() -> None:
    """How many, follows the precision and a limit in bytes."""

    def early(name: str, layer_parameters: int) -> int:
        form = precision_format(name, layers=18, layer_parameters=layer_parameters)
        return sum(form.linear_of(i) is not form.linear for i in range(18))

    assert early("fp32", 10**6) == 0
    assert early("int4", 10**6) == 6
    assert early("int4", 5 * 10**8) == 4
    assert early("int8-block", 10**6) == 8
    assert early("int8-block", 16 * 10**6) == 4
    assert early("int8-block", 10**9) == 0
    assert early("int8", 10**9) == 2


def test_a_large_table_that_is_most_of_the_model_is_in_directions() -> None:
    """Of int8 and int4, unless told otherwise; calibration has to tell which."""

    def table(parameters: int, name: str = "int8", **options: Any) -> str:
        options |= {"layer_parameters": 6 * 10**6, "table_parameters": parameters}
        return precision_format(name, layers=18, **options).embedding.description

    assert "directions" in table(160 * 10**6)
    assert "directions" not in table(107 * 10**6)  # of 215
    assert "directions" not in table(160 * 10**6, calibrate=False)
    assert "directions" not in table(160 * 10**6, embedding="int8")
    assert "10% in 8 bit" in table(160 * 10**6, "int4")
    assert "directions" not in table(20 * 10**6)


Finer = Literal["no", "the last", "every"]


def multiplied(
    folder: Path, x: Float32, weights: Float32, finer: Finer, last: npt.NDArray[np.float32] | None
) -> Float32:
    """The product in 8 bits of `x` (texts, tokens, in) and `weights` (out, in), by ONNX Runtime.

    `last` has the number of each text's last token, where that is told.
    """
    texts, tokens, _ = x.shape
    save_file({"w": weights}, folder / "w.safetensors")
    with WeightFiles(folder / "model.onnx_data") as files:
        graph = GraphBuilder(files)

        def rows() -> TokenRows:
            assert last is not None
            at = graph.constant(last[:, None, None], np.int64)
            to = graph.constant(np.stack([np.arange(texts), last], -1)[:, None], np.int64)
            return TokenRows(at, to)

        (product,) = TokenLinear(finer).write(
            graph,
            Rows(graph.input("x", FLOAT, list(x.shape))),
            {"w": read_header(folder / "w.safetensors")["w"]},
            None if last is None else rows,
        )
        graph.output(product.settled(graph), "y", FLOAT, [texts, tokens, len(weights)])
        graph.save(folder / "model.onnx")
    (seen,) = onnxruntime.InferenceSession(str(folder / "model.onnx")).run(None, {"x": x})
    made: Float32 = seen
    return made


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("tokens", [1, 6, 70])  # there are kernels for few rows and for many
def test_no_sum_of_products_is_cut(tmp_path: Path, tokens: int, sign: int) -> None:
    """Of the largest integers there are, as x86 without VNNI cuts those of signed weights."""
    codes = np.full((32, 64), 127, np.float32)
    codes[16:, ::2] = -127
    x = np.full((1, tokens, 64), sign, np.float32)
    seen = multiplied(tmp_path, x, codes, "no", None)
    np.testing.assert_allclose(seen, x @ codes.T, rtol=1e-6)


@pytest.mark.parametrize(
    ("finer", "told"), [("the last", True), ("the last", False), ("every", True)]
)
def test_the_last_token_is_rounded_finest(tmp_path: Path, finer: Finer, told: bool) -> None:
    """Each text's own, if told; with both terms a product is nearly that of float activations."""
    random = np.random.default_rng(5)
    x = random.standard_normal((3, 6, 64)).astype(np.float32)
    last = np.array([5, 2, 0])
    codes = random.integers(-127, 128, (32, 64)).astype(np.float32)
    codes[:, 0] = 127  # so that these weights need no rounding
    seen = multiplied(tmp_path, x, codes, finer, last if told else None)
    wanted = x @ codes.T
    errors = np.abs(seen - wanted).max(-1) / np.abs(wanted).max(-1)
    finest = np.zeros((3, 6), bool)
    finest[np.arange(3), last] = told
    finest |= finer == "every"
    assert errors[finest].max(initial=0) < 1e-4
    assert finer == "every" or errors[~finest].min() > 5e-4


def embedded(folder: Path, table: Float32, sensitivity: Float32, bits: int) -> Float32:
    """All rows of a table that was written in blocks, times 2, as ONNX Runtime reads them."""
    save_file({"table": table}, folder / "table.safetensors")
    tensor = read_header(folder / "table.safetensors")["table"]
    with WeightFiles(folder / "model.onnx_data") as weights:
        graph = GraphBuilder(weights)
        ids = graph.input("ids", INT64, ["n"])
        rows = BlockEmbedding(bits, 32).write(
            graph, ids, tensor, 2.0, lambda: np.diag(np.square(sensitivity))
        )
        graph.output(rows, "rows", FLOAT, ["n", table.shape[1]])
        graph.save(folder / "model.onnx")
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    (seen,) = session.run(None, {"ids": np.arange(len(table))})
    for file in ("model.onnx", "model.onnx_data"):
        (folder / file).unlink()
    read: Float32 = seen
    return read


@pytest.mark.parametrize("bits", [4, 8])
def test_a_large_column_does_not_cost_the_others(tmp_path: Path, bits: int) -> None:
    """Columns are balanced by what an error in them weighs, unless the table is on a grid."""
    random = np.random.default_rng(6)
    table = random.standard_normal((500, 384)).astype(np.float32)
    table[:, 7::32] *= 50
    sensitivity = np.ones(384, np.float32)
    sensitivity[7::32] = 0.02
    grid = dequantize(quantize(table, bits, 32, asymmetric=False), bits)

    def error(read: Float32) -> float:
        return float(np.square((read - 2 * table) * sensitivity).sum())

    assert error(embedded(tmp_path, table, sensitivity, bits)) < 0.1 * error(2 * grid)
    np.testing.assert_allclose(embedded(tmp_path, grid, sensitivity, bits), 2 * grid, rtol=2e-3)


def test_half_a_scale_is_enough_for_a_table(tmp_path: Path) -> None:
    """Two bytes a block of 32 codes, and nine tenths of the error are that of the codes."""
    table = np.random.default_rng(7).standard_normal((500, 384)).astype(np.float32)
    save_file({"table": table}, tmp_path / "table.safetensors")
    plan = WeightPlan("model.onnx_data")
    graph = GraphBuilder(plan)
    tensor = read_header(tmp_path / "table.safetensors")["table"]
    ones = np.ones(384, np.float32)
    BlockEmbedding(8, 32).write(graph, "ids", tensor, 1.0, lambda: np.diag(ones))
    assert plan.nbytes < 500 * 12 * (32 + 2) + 2 * 4096  # each tensor begins a page
    exact = dequantize(quantize(table, 8, 32, asymmetric=False), 8)
    lost = np.square(embedded(tmp_path, table, ones, 8) / 2 - table).sum()
    assert np.square(exact - table).sum() > 0.9 * lost


def test_unknown_precisions_are_named() -> None:
    """With those that there are."""
    with pytest.raises(UsageError, match=r"'q4' is unknown; wanted fp32, int8, int8-block, int4"):
        precision_format("q4", layers=1, layer_parameters=1)
