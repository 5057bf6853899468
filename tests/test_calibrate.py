"""harrier_export.calibrate: what is learned from real text changes nothing but the rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from standins.packages import Exported
from standins.random_checkpoint import random_checkpoint, tiny_gemma3, tiny_qwen3

from harrier_edge import Embedder
from harrier_edge.errors import UsageError
from harrier_edge.session import Session
from harrier_export import ExportOptions, export
from harrier_export import calibrate as calibration_of
from harrier_export.architectures import architecture_of
from harrier_export.architectures.decoder import DecoderBuilder
from harrier_export.calibrate import Calibration
from harrier_export.checkpoint import Checkpoint
from harrier_export.graph import GraphBuilder
from harrier_export.parity import row_cosines
from harrier_export.precision import float_format
from harrier_export.precision.float32 import FloatLinear
from harrier_export.texts import SEPARATOR, parity_texts
from harrier_export.weights import WeightFiles


def token_ids(first: int | None, lengths: list[int]) -> list[list[int]]:
    """Random texts of the tiny vocabulary; the token that begins texts stands inside some, too."""
    random = np.random.default_rng(0)
    start = [] if first is None else [first]
    return [[*start, *random.integers(2, 300, n).tolist(), 1] for n in lengths]


@pytest.mark.parametrize("config", [tiny_gemma3(), tiny_qwen3()], ids=["gemma3", "qwen3"])
def test_calibrated_tensors_are_the_same_function(
    tmp_path: Path, tiny_gemma: Path, config: dict[str, object]
) -> None:
    """In float32, smoothing and pinned keys and values leave every vector as it was."""
    folder = random_checkpoint(
        tmp_path / "model", config=config, tokenizer=tiny_gemma / "tokenizer.json"
    )
    plain = export(folder, tmp_path / "plain", ExportOptions(precision="fp32", verify=False)).folder
    checkpoint = Checkpoint(folder)
    architecture = architecture_of(checkpoint.config)
    decoder = architecture.read(checkpoint.config)
    first = decoder.bos_token
    calibration = Calibration(
        checkpoint,
        decoder,
        architecture,
        token_ids(first, [5, 60, 33, 90, 12]),
        tmp_path / "scratch",
    )
    with WeightFiles(tmp_path / "model.onnx_data") as weights:
        graph = GraphBuilder(weights)
        form = float_format(FloatLinear())
        builder = DecoderBuilder(
            graph, checkpoint, decoder, form, architecture.norm_offset, calibration
        )
        architecture.build(builder)
        graph.save(tmp_path / "model.onnx")
    texts = token_ids(first, [1, 7, 40, 200])
    texts.append(texts[2][1:])  # one that does not begin as texts do
    seen, wanted = (
        Session(
            place / "model.onnx", dimension=decoder.hidden_size, pad_token=decoder.pad_token
        ).run(texts)
        for place in (tmp_path, plain)
    )
    assert row_cosines(seen, wanted).min() > 0.99999
    pinned = b"k_proj.pinned" in (tmp_path / "model.onnx").read_bytes()
    assert pinned == (first is not None)


def test_an_int8_package_is_near_the_float_one(tiny_gemma: Path, tmp_path: Path) -> None:
    """And says in the progress and the manifest that and how it was calibrated."""
    stages = []
    folders = [
        export(
            tiny_gemma,
            tmp_path / precision,
            ExportOptions(precision=precision, verify=False),
            lambda stage, done, total: stages.append((stage, done, total)),
        )
        for precision in ("fp32", "int8")
    ]
    a, b = (Embedder(result.folder).encode(parity_texts()[::5]) for result in folders)
    assert row_cosines(a, b).min() > 0.995
    assert "activations by token" in folders[1].manifest.precision.linear
    assert all(done <= total for _, done, total in stages)
    last = [(done, total) for stage, done, total in stages if stage == "calibrate"][-1]
    assert last[0] == last[1] > 0


def test_the_final_token_is_exact_in_any_table(tiny_gemma: Path, tmp_path: Path) -> None:
    """Alone it has the vector that it has in float32, which no other token has."""
    sessions = []
    for embedding in ("fp32", "int4"):
        options = ExportOptions(precision="fp32", embedding=embedding, verify=False)
        folder = export(tiny_gemma, tmp_path / embedding, options).folder
        sessions.append(Session(folder / "model.onnx", dimension=64, pad_token=0))
    texts = [[1], [5]]  # the final token has the number 1
    same, other = row_cosines(*(session.run(texts) for session in sessions))
    assert same > 0.999999 > other


def test_calibrating_beyond_the_memory_is_refused(tiny_gemma: Path, tmp_path: Path) -> None:
    """Before it begins, with what would do; without calibration the same memory is enough."""
    options = ExportOptions(precision="int4", verify=False, memory_bytes=10**6)
    with pytest.raises(UsageError, match=r"GB of memory, 0\.0 GB may be used.* --no-calibrate"):
        export(tiny_gemma, tmp_path / "package", options)
    assert list(tmp_path.iterdir()) == []
    options = ExportOptions(precision="int4", verify=False, calibrate=False, memory_bytes=10**6)
    export(tiny_gemma, tmp_path / "package", options)


def test_what_enters_a_product_is_summed_up_in_any_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Second moments and the rows that are kept, of weighted tokens in batches."""
    random = np.random.default_rng(0)
    batches = [random.standard_normal((2, n, 40)).astype(np.float32) for n in (3, 30, 7)]
    weights = [random.integers(0, 3, x.shape[:2]).astype(np.float32) for x in batches]
    rows = np.concatenate([x[w > 0] for x, w in zip(batches, weights, strict=True)])
    counts = np.concatenate([w[w > 0] for w in weights])
    chosen = calibration_of._as_heavy(counts)
    assert len(chosen) == calibration_of.SMOOTHING_TOKENS
    assert np.allclose(np.bincount(chosen) / len(chosen), counts / counts.sum(), atol=1e-3)
    monkeypatch.setattr(calibration_of, "_PANEL", 16)
    inputs = calibration_of._Inputs(chosen)
    for x, w in zip(batches, weights, strict=True):
        inputs.add(x, w)
    assert np.array_equal(inputs.some(), rows[chosen])
    assert np.allclose(inputs.finished(), rows.T @ (rows * counts[:, None]), atol=1e-3)


def test_own_texts_are_taken(tiny_gemma: Path, exported: Exported, tmp_path: Path) -> None:
    """The same file gives the same bytes, another gives others."""
    own = tmp_path / "own.txt"
    own.write_text(f"\n{SEPARATOR}\n".join(f"text {i} of mine" * i for i in range(1, 9)), "utf-8")

    def data(name: str) -> bytes:
        options = ExportOptions(precision="int8", verify=False, calibration=own)
        folder = export(tiny_gemma, tmp_path / name, options).folder
        return (folder / "model.onnx_data").read_bytes()

    assert data("a") == data("b") != (exported(tiny_gemma, "int8") / "model.onnx_data").read_bytes()


def test_without_calibration_no_text_is_read(
    tiny_gemma: Path, exported: Exported, tmp_path: Path
) -> None:
    """The file of texts is not even opened, and the weights are other ones."""
    options = ExportOptions(
        precision="int4", verify=False, calibrate=False, calibration=tmp_path / "missing.txt"
    )
    folder = export(tiny_gemma, tmp_path / "package", options).folder
    data = [
        (each / "model.onnx_data").read_bytes() for each in (exported(tiny_gemma, "int4"), folder)
    ]
    assert data[0] != data[1]
    assert len(data[0]) >= len(data[1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"\xff\xfe\x00", "wanted UTF-8 texts"),
        (b"  \n%%\n\n", "holds no text"),
    ],
)
def test_texts_that_cannot_be_taken(
    tiny_gemma: Path, tmp_path: Path, content: bytes | None, message: str
) -> None:
    """A missing file, one in another encoding and one without text are told, by their name."""
    own = tmp_path / "own.txt"
    if content is not None:
        own.write_bytes(content)
    with pytest.raises(UsageError, match=rf"own\.txt: .*{message}"):
        export(
            tiny_gemma,
            tmp_path / "package",
            ExportOptions(precision="int8", verify=False, calibration=own),
        )
    assert not (tmp_path / "package").exists()
