"""ONNX exports of others become packages, trusted with nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from standins.foreign import add_dynamic, foreign_export
from standins.gemma3_270m import gemma3_270m
from standins.hub import FakeHub, fake_hub

from harrier_edge import Embedder
from harrier_edge.cli import main
from harrier_edge.errors import CheckpointError, HarrierError, PackageError, UsageError
from harrier_edge.package import find_package, pulled_packages
from harrier_edge.spec import FileRecord, OnnxSource
from harrier_export import ExportOptions, adopt, export
from harrier_export.parity import row_cosines

NAME = "owner/tiny-ONNX"
PUBLISHED = "onnx-community/harrier-oss-v1-270m-ONNX"
COMMIT = "c" * 40
TEXTS = ["a falcon", "an owl in the old barn at night", "", "the sky", "a raptor", "owl " * 30]


@pytest.fixture(scope="module")
def foreign(tiny_gemma: Path, tiny_package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Gemma in float32, in 4 bits and quantized on the way, as others publish it."""
    folder = tmp_path_factory.mktemp("foreign")
    options = ExportOptions(precision="int4", calibrate=False, verify=False)
    small = export(tiny_gemma, folder / "int4", options).folder
    packages = {"fp32": tiny_package, "q4": small}
    target = foreign_export(folder / "tiny-ONNX", tiny_gemma, packages)
    add_dynamic(target)
    return target


@pytest.fixture
def server(foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that has it."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with fake_hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.add(NAME, foreign)
        yield server


def test_a_folder_is_adopted(
    foreign: Path, tiny_embedder: Embedder, capsys: pytest.CaptureFixture[str]
) -> None:
    """By default in float32, with the bits of its graph, and the final token put right."""
    assert main(["pull", "--from", str(foreign)]) == 0
    assert "tiny-ONNX in fp32" in capsys.readouterr().out
    embedder = Embedder("tiny-ONNX")
    assert np.array_equal(embedder.encode(TEXTS), tiny_embedder.encode(TEXTS))
    manifest = embedder.manifest
    assert (manifest.padding, manifest.batching, manifest.vocab_size) == (True, True, 384)
    assert manifest.sample is not None
    assert manifest.tokens == tiny_embedder.manifest.tokens
    assert set(manifest.files) > {"model.onnx", "model.onnx_data", "tokenizer.json"}
    assert main(["pull", "--from", str(foreign)]) == 0, "it is there"


def test_a_precision_is_pulled_alone(server: FakeHub, tiny_embedder: Embedder) -> None:
    """Of several only its files come; a table of blocks is taken as it is."""
    assert main(["pull", NAME, "--revision", COMMIT, "--precision", "q4", "-q"]) == 0
    assert server.asked("GET", "model_q4.onnx_data")
    assert not server.asked("GET", "model.onnx")
    graph = onnx.load(find_package(NAME) / "model.onnx", load_external_data=False).graph
    assert {"GatherBlockQuantized", "MatMulNBits"} <= {node.op_type for node in graph.node}
    embedder = Embedder(NAME)
    assert embedder.precision == "q4"
    assert 0.7 < row_cosines(embedder.encode(TEXTS), tiny_embedder.encode(TEXTS)).mean() < 0.9999
    asked = len(server.requests)
    assert main(["pull", NAME, "--revision", COMMIT, "--precision", "q4", "-q"]) == 0
    assert len(server.requests) == asked, "what is there is not asked for"


def test_a_vector_that_would_depend_on_its_company_has_none(foreign: Path, tmp_path: Path) -> None:
    """It is measured, recorded and heeded: the same bits alone and among others."""
    manifest = adopt(foreign, tmp_path / "package", "quantized").manifest
    assert (manifest.padding, manifest.batching) == (False, False)
    embedder = Embedder(tmp_path / "package", threads=2)
    together = embedder.encode(TEXTS)
    alone = np.stack([embedder.encode(text) for text in TEXTS])
    assert np.array_equal(together, alone)
    assert row_cosines(alone[1:], alone[:-1]).max() < 0.999, "the texts must differ"


def test_the_published_one_is_held_to_its_hashes(
    server: FakeHub, foreign: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without --revision, by its name alone; a file of another size is refused unseen."""
    server.add(PUBLISHED, foreign, "d59c919d0159aea2c19ed7d04288fcdd048d0f9c")
    assert main(["pull", PUBLISHED]) == 1
    assert "has size" in (told := capsys.readouterr().err)
    assert "when this revision was pinned" in told
    assert not server.asked("GET", "/cdn/")


def move_weights(graph: onnx.GraphProto) -> None:
    """Let a weight lie elsewhere."""
    weight = next(one for one in graph.initializer if one.external_data)
    next(entry for entry in weight.external_data if entry.key == "location").value = "../weights"


def bring_operator(graph: onnx.GraphProto) -> None:
    """Use an operator of the maker's own."""
    graph.node[0].domain = "com.example"


def forget_unit(graph: onnx.GraphProto) -> None:
    """Leave the normalization out."""
    (unit,) = (node for node in graph.node if node.op_type == "LpNormalization")
    unit.op_type = "Identity"
    del unit.attribute[:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (move_weights, "lies in '../weights'"),
        (bring_operator, "'com.example'"),
        (forget_unit, "its vectors have length"),
    ],
)
def test_a_graph_that_cannot_be_trusted_is_refused(
    foreign: Path, tmp_path: Path, change: Callable[[onnx.GraphProto], None], message: str
) -> None:
    """Before it is run, or by what it gives; nothing is left."""
    own = Path(shutil.copytree(foreign, tmp_path / "own"))
    model = onnx.load(own / "onnx" / "model.onnx", load_external_data=False)
    change(model.graph)
    (own / "onnx" / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(HarrierError, match=message):
        adopt(own, tmp_path / "package")
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


def test_what_is_not_there_is_named(
    foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A precision, weights, and bytes other than were published."""
    with pytest.raises(UsageError, match="'int8'; it has fp32, q4, quantized"):
        adopt(foreign, tmp_path / "package", "int8")
    files = {"onnx/model.onnx": FileRecord(sha256="0" * 64)}
    origin = OnnxSource(repository=NAME, revision=COMMIT, files=files)
    with pytest.raises(CheckpointError, match=r"model.onnx: its sha256 is .* has 0000"):
        adopt(foreign, tmp_path / "package", origin=origin)
    own = Path(shutil.copytree(foreign, tmp_path / "own"))
    (own / "onnx" / "model.onnx_data").unlink()
    with pytest.raises(PackageError, match=r"lies in 'model\.onnx_data'"):
        adopt(own, tmp_path / "package")
    assert main(["pull", "--from", str(own), "--precision", "int8"]) == 2
    assert "it has fp32, q4, quantized" in capsys.readouterr().err
    assert pulled_packages() == []


def test_what_the_folder_says_is_taken(foreign: Path, tmp_path: Path) -> None:
    """Its prompt for queries before its default, and the limit of its tokenizer."""
    own = Path(shutil.copytree(foreign, tmp_path / "own"))
    told = {"prompts": {"any": "Any: ", "query": "Q: "}, "default_prompt_name": "any"}
    (own / "config_sentence_transformers.json").write_text(json.dumps(told), "utf-8")
    (own / "tokenizer_config.json").write_text('{"model_max_length": 99}', "utf-8")
    manifest = adopt(own, tmp_path / "package").manifest
    assert (manifest.query_prompt, manifest.document_prompt) == ("query", "")
    assert manifest.tokens.max_tokens == 99


@pytest.mark.large
def test_the_270m_is_adopted(tmp_path: Path) -> None:
    """In 4 bits with a quantized table, at full size: the bits of the graph that it was made of."""
    checkpoint = gemma3_270m()
    options = ExportOptions(precision="int4", calibrate=False, verify=False)
    package = export(checkpoint, tmp_path / "int4", options).folder
    foreign = foreign_export(tmp_path / "foreign", checkpoint, {"q4": package})
    manifest = adopt(foreign, tmp_path / "adopted").manifest
    assert manifest.precision.name == "q4"
    wanted = Embedder(package).encode(TEXTS)
    assert np.array_equal(Embedder(tmp_path / "adopted").encode(TEXTS), wanted)
    config: dict[str, Any] = json.loads((foreign / "config.json").read_text("utf-8"))
    assert manifest.dimension == config["hidden_size"] == 640
