"""The embedding table in directions of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from safetensors.numpy import save_file

from harrier_edge.errors import UsageError
from harrier_edge.session import Session
from harrier_export import ExportOptions, export
from harrier_export.checkpoint import Float32, read_header
from harrier_export.graph import FLOAT, INT64, GraphBuilder
from harrier_export.precision import precision_format
from harrier_export.precision.directions import DirectionsEmbedding
from harrier_export.precision.formats import EmbeddingFormat
from harrier_export.weights import WeightFiles, WeightPlan

HIDDEN = 128


def write(folder: Path, form: EmbeddingFormat, table: Float32, sensitivity: Float32) -> Path:
    """A graph that gives rows, times 2, and their coordinates; its weights lie beside it."""
    save_file({"table": table}, folder / "table.safetensors")
    tensor = read_header(folder / "table.safetensors")["table"]
    with WeightFiles(folder / "model.onnx_data") as weights:
        graph = GraphBuilder(weights)
        ids = graph.input("ids", INT64, [1, "n"])
        rows = form.write(graph, ids, tensor, 2.0, lambda: sensitivity)
        for name, value in (("rows", rows), ("coordinates", "embedding.coordinates")):
            graph.output(value, name, FLOAT, [1, "n", table.shape[1]])
        graph.save(folder / "model.onnx")
    return folder / "model.onnx"


def run(model: Path, output: str, count: int) -> Float32:
    """What ONNX Runtime gives for the first `count` rows."""
    session = onnxruntime.InferenceSession(str(model))
    result: Float32 = session.run([output], {"ids": np.arange(count)[None]})[0][0]
    return result


def read(
    folder: Path, form: EmbeddingFormat, table: Float32, sensitivity: Float32
) -> tuple[Float32, int]:
    """All rows, times 2, as ONNX Runtime reads them, and the bytes that they take."""
    seen = run(write(folder, form, table, sensitivity), "rows", len(table))
    data = folder / "model.onnx_data"
    size = data.stat().st_size
    data.unlink()
    return seen, size


def unpacked(packed: npt.NDArray[np.uint8], bits: int) -> Float32:
    """Codes of 2 or 4 bits around 0, the earlier ones from the low bits of each byte."""
    codes = packed[..., None] >> np.arange(0, 8, bits) & (2**bits - 1)
    around: Float32 = codes.reshape(len(packed), -1).astype(np.float32) - 2 ** (bits - 1)
    return around


def case() -> tuple[Float32, Float32]:
    """A table, and a sensitivity that a sixteenth of all directions, none of them a column, has."""
    random = np.random.default_rng(8)
    table = random.standard_normal((3000, HIDDEN)).astype(np.float32) + np.float32(0.3)
    axes = np.linalg.qr(random.standard_normal((HIDDEN, HIDDEN)))[0]
    costs = np.full(HIDDEN, 0.01)
    costs[: HIDDEN // 16] = 100
    return table, ((axes * costs) @ axes.T).astype(np.float32)


def cost(seen: Float32, table: Float32, sensitivity: Float32) -> float:
    """What the errors of all rows cost together."""
    error = seen - 2 * table
    return float(np.einsum("ni,ij,nj->", error, sensitivity, error))


@pytest.mark.parametrize(("eight", "six", "off"), [(1.0, 0.0, 0.01), (0.0, 1.0, 0.06), (0, 0, 0.2)])
def test_every_number_of_bits_is_read_as_it_was_written(
    tmp_path: Path, eight: float, six: float, off: float
) -> None:
    """Relative error, with nothing known about which direction weighs more."""
    table, _ = case()
    seen, _ = read(tmp_path, DirectionsEmbedding(eight, six), table, np.eye(HIDDEN, dtype="f4"))
    lost = np.square(seen - 2 * table).sum() / np.square(2 * table).sum()
    assert lost < off**2
    assert lost > (off / 8) ** 2  # and no finer than the bits allow


def test_six_bits_are_read_by_operators_of_every_onnx_runtime(tmp_path: Path) -> None:
    """GatherBlockQuantized has no 2 bits before 1.27; what is in its place gives the same bits."""
    table, sensitivity = case()
    model = write(tmp_path, DirectionsEmbedding(0.25, 0.5), table, sensitivity)
    graph = onnx.load(model).graph
    gathered = [node for node in graph.node if node.op_type == "GatherBlockQuantized"]
    assert {a.i for node in gathered for a in node.attribute if a.name == "bits"} == {4, 8}
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    scales = stored["table.6bit.scales"].astype(np.float32)
    high, low = (unpacked(stored[f"table.6bit.{bits}"], bits) for bits in (4, 2))
    steps = np.repeat(scales, high.shape[1] // scales.shape[1], axis=1)
    halves = [(codes * steps).astype(np.float16).astype(np.float32) for codes in (high, low)]
    seen = run(model, "coordinates", len(table))
    six = slice(HIDDEN // 4, HIDDEN // 4 + HIDDEN // 2)
    assert np.array_equal(seen[:, six], 4 * halves[0] + halves[1])


def test_bits_go_to_the_directions_that_weigh_most(tmp_path: Path) -> None:
    """A quarter of them in 8 bits beats 4 bits for all 20 times, and 6 bits for all."""
    table, sensitivity = case()
    mixed, mixed_size = read(tmp_path, DirectionsEmbedding(0.25, 0), table, sensitivity)
    six, six_size = read(tmp_path, DirectionsEmbedding(0, 1), table, sensitivity)
    four, _ = read(tmp_path, DirectionsEmbedding(0, 0), table, sensitivity)
    assert cost(mixed, table, sensitivity) * 20 < cost(four, table, sensitivity)
    assert cost(mixed, table, sensitivity) < cost(six, table, sensitivity)
    assert mixed_size < six_size


def test_where_weights_lie_is_known_before_anything_is_measured(tmp_path: Path) -> None:
    """The plan of an export asks for no sensitivity, and has the size that is written."""
    table, sensitivity = case()
    form = DirectionsEmbedding(0.25, 0.25)
    _, size = read(tmp_path, form, table, sensitivity)
    plan = WeightPlan("model.onnx_data")
    graph = GraphBuilder(plan)
    tensor = read_header(tmp_path / "table.safetensors")["table"]
    form.write(graph, graph.input("ids", INT64, [1, "n"]), tensor, 2.0, pytest.fail)
    assert plan.nbytes == size


def test_a_table_smaller_than_its_width_is_written(tmp_path: Path) -> None:
    """Fewer rows than columns leave some directions without any spread."""
    table, sensitivity = case()
    seen, _ = read(tmp_path, DirectionsEmbedding(1, 0), table[:20], sensitivity)
    np.testing.assert_allclose(seen, 2 * table[:20], atol=0.3)


def test_a_text_has_the_same_bits_in_any_company(tiny_gemma: Path, tmp_path: Path) -> None:
    """The product that turns coordinates back is in float32, and knows nothing of other texts."""
    options = ExportOptions(precision="int8", embedding="int6", verify=False)
    result = export(tiny_gemma, tmp_path / "package", options)
    assert "directions" in result.manifest.precision.embedding
    session = Session(result.folder / "model.onnx", dimension=64, pad_token=0)
    random = np.random.default_rng(9)
    lengths = (0, 1, 2, 5, 17, 40, 120)
    texts = [[2, *random.integers(3, 200, length).tolist(), 1] for length in lengths]
    alone = np.concatenate([session.run([text]) for text in texts])
    assert np.array_equal(session.run(texts), alone)
    assert np.array_equal(session.run(texts[::-1])[::-1], alone)


def test_what_calibration_is_for_is_said(tmp_path: Path) -> None:
    """Directions need a measured sensitivity."""
    with pytest.raises(UsageError, match="needs calibration"):
        precision_format("int4", layers=1, layer_parameters=1, embedding="int6", calibrate=False)
    form = precision_format("int4", layers=1, layer_parameters=1, embedding="int6")
    assert "6 bit" in form.embedding.description
