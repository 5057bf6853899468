"""Any sentence-transformers model becomes a package whose vectors are its own."""

from __future__ import annotations

import csv
import io
import json
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from scipy.stats import spearmanr
from standins.hub import fake_hub
from standins.minilm import minilm
from standins.sentence_models import MODELS, sentence_model

from harrier_edge import Embedder, Index
from harrier_edge.cli import main
from harrier_edge.errors import CheckpointError, UnsupportedModelError, UsageError
from harrier_export import ExportOptions, export, export_via_optimum
from harrier_export.parity import row_cosines

FP32 = ExportOptions(precision="fp32")
TEXTS = ["", "a falcon", "a falcon in the sky", "an owl at night in the old barn", "owl " * 40]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT with mean pooling, a dense layer, prompts and a limit of 32 tokens."""
    return sentence_model(tmp_path_factory.mktemp("models") / "bert", "bert")


@pytest.fixture(scope="module")
def package(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The BERT as a package in float32."""
    return export_via_optimum(bert, tmp_path_factory.mktemp("packages") / "bert", FP32).folder


def vectors_of(folder: Path, texts: list[str], how: str = "encode", **options: Any) -> Any:
    """What sentence-transformers gives."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    return getattr(model, how)(texts, show_progress_bar=False, **options)


@pytest.mark.parametrize("kind", sorted(MODELS.keys() - {"bert"}))
def test_every_kind_of_model_keeps_its_vectors(kind: str, tmp_path: Path) -> None:
    """Encoders and decoders, each with its own pooling, at lengths that were not traced."""
    folder = sentence_model(tmp_path / kind, kind)
    embedder = Embedder(export_via_optimum(folder, tmp_path / "package", FP32).folder)
    seen, wanted = embedder.encode(TEXTS), vectors_of(folder, TEXTS)
    assert row_cosines(seen, wanted).min() > 0.99999
    assert row_cosines(wanted[1:], wanted[:-1]).max() < 0.9999, "the texts must differ"
    parity = embedder.manifest.parity
    assert parity is not None
    assert parity.min_cosine > 0.9999
    assert parity.reference.startswith("sentence-transformers ")


def test_queries_and_documents_have_the_models_prompts(bert: Path, package: Path) -> None:
    """As sentence-transformers' own encode_query and encode_document put them."""
    embedder = Embedder(package)
    for how in ("encode_query", "encode_document", "encode"):
        seen = getattr(embedder, how)(TEXTS[1:4])
        assert row_cosines(seen, vectors_of(bert, TEXTS[1:4], how)).min() > 0.99999
    query, document = embedder.encode_query("a falcon"), embedder.encode_document("a falcon")
    assert query @ document < 0.9999
    assert embedder.max_tokens == 32


def test_an_index_embeds_with_the_document_prompt(package: Path, tmp_path: Path) -> None:
    """What is stored is what encode_document gives."""
    (tmp_path / "a.txt").write_text("a falcon in the sky")
    embedder = Embedder(package)
    with Index.open(tmp_path / "index.sqlite", model=embedder) as index:
        index.add(tmp_path / "a.txt")
        (hit,) = index.search("falcon", mode="vector")
    cosine = embedder.encode_query("falcon") @ embedder.encode_document("a falcon in the sky")
    assert hit.score == pytest.approx(float(cosine), abs=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_vector_does_not_depend_on_its_company(
    bert: Path, tmp_path: Path, precision: str
) -> None:
    """Bit for bit, alone or among texts of any length, on one thread or two."""
    options = ExportOptions(precision=precision, verify=False)
    package = export_via_optimum(bert, tmp_path / "package", options).folder
    embedder = Embedder(package, threads=2)
    texts = [" ".join(["owl", "falcon", "sky"][: 1 + n % 3] * (n // 3 + 1)) for n in range(30)]
    together = embedder.encode(texts)
    alone = np.stack([embedder.encode(text) for text in texts])
    assert np.array_equal(together, alone)
    assert np.array_equal(embedder.encode(texts[::-1])[::-1], alone)
    assert np.array_equal(Embedder(package, threads=1).encode(texts), alone)


def test_the_graph_has_the_form_of_every_package(package: Path) -> None:
    """The two inputs, without token types, and a vector of unit length."""
    model = onnx.load(package / "model.onnx", load_external_data=False)
    assert [value.name for value in model.graph.input] == ["input_ids", "attention_mask"]
    assert [value.name for value in model.graph.output] == ["sentence_embedding"]
    vectors = Embedder(package).encode(TEXTS)
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-6


def test_int8_rounds_products_and_table(bert: Path, package: Path, tmp_path: Path) -> None:
    """Every linear layer is an integer product, and the file is smaller, tiny as the model is."""
    small = export_via_optimum(bert, tmp_path / "int8", ExportOptions(precision="int8"))
    assert small.manifest.parity is not None
    assert small.manifest.parity.min_cosine > 0.999
    graph = onnx.load(small.folder / "model.onnx", load_external_data=False).graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("MatMulIntegerToFloat") == 2 * 2 * 6
    assert "GatherBlockQuantized" in kinds
    sizes = [(path / "model.onnx_data").stat().st_size for path in (small.folder, package)]
    assert sizes[0] < 0.75 * sizes[1]


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    """Change a JSON file in place."""
    value = json.loads(path.read_text("utf-8"))
    change(value)
    path.write_text(json.dumps(value), "utf-8")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("modules.json", lambda m: m.pop(1), "has no Pooling"),
        ("1_Pooling/config.json", lambda c: c.update(include_prompt=False), "include_prompt"),
        (
            "config_sentence_transformers.json",
            lambda c: c.update(similarity_fn_name="dot"),
            "compares vectors by dot",
        ),
        (
            "config_sentence_transformers.json",
            lambda c: c.update(truncate_dim=8),
            "8 dimensions",
        ),
    ],
    ids=str,
)
def test_what_a_package_cannot_hold_is_refused(
    tmp_path: Path, file: str, change: Callable[[Any], object], message: str
) -> None:
    """With the reason, and nothing left behind."""
    folder = sentence_model(tmp_path / "model", "bert")
    edit_json(folder / "modules.json", lambda m: m.pop())  # without Normalize
    edit_json(folder / file, change)
    with pytest.raises(UnsupportedModelError, match=message):
        export_via_optimum(folder, tmp_path / "package", FP32)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_plain_checkpoint_is_refused(tiny_gemma: Path, bert: Path, tmp_path: Path) -> None:
    """Each exporter names what it wants, and the native one names the other."""
    with pytest.raises(CheckpointError, match=r"has no modules.json"):
        export_via_optimum(tmp_path, tmp_path / "package", FP32)
    with pytest.raises(UnsupportedModelError, match="--via optimum"):
        export(bert, tmp_path / "package", FP32)
    with pytest.raises(UsageError, match="int4"):
        export_via_optimum(bert, tmp_path / "package", ExportOptions(precision="int4"))
    with pytest.raises(UsageError, match="--block-size"):
        export_via_optimum(bert, tmp_path / "package", ExportOptions(block_size=32))


def test_the_command_exports(
    bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`harrier-edge export --via optimum` writes the package and tells its parity."""
    target = tmp_path / "package"
    arguments = ["export", str(bert), "-o", str(target), "--via", "optimum", "--precision", "fp32"]
    assert main(arguments) == 0
    assert "to sentence-transformers" in capsys.readouterr().out
    assert (target / "manifest.toml").exists()


def test_pull_takes_such_a_model_from_the_hub(
    bert: Path, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pull --via optimum` downloads its modules and gives the vectors that `export` gives."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with fake_hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.add("owner/bert", bert)
        command = ["pull", "owner/bert", "--revision", "c" * 40, "--via", "optimum", "-q"]
        assert main([*command, "--precision", "fp32", "--no-verify"]) == 0
    assert np.array_equal(Embedder("owner/bert").encode(TEXTS), Embedder(package).encode(TEXTS))
    assert main(["pull", "harrier-270m", "--via", "optimum"]) == 2


@pytest.mark.large
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_minilm_reaches_its_known_figure(shared: Path, tmp_path: Path, precision: str) -> None:
    """STS-B's test, Spearman 0.820: what all-MiniLM-L6-v2 is known for."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folder = minilm()
    package = export_via_optimum(folder, tmp_path / "minilm", ExportOptions(precision=precision))
    with tarfile.open(shared / "eval" / "stsb.tar.gz") as archive:
        file = archive.extractfile("stsb/test.tsv")
        assert file is not None
        text = io.StringIO(file.read().decode("utf-8"))
    rows = list(csv.DictReader(text, delimiter="\t", quoting=csv.QUOTE_NONE))
    sentences = [row[name] for name in ("sentence1", "sentence2") for row in rows]
    vectors = Embedder(package.folder).encode_document(sentences)
    cosines = (vectors[: len(rows)] * vectors[len(rows) :]).sum(1)
    figure = spearmanr(cosines, [float(row["score"]) for row in rows]).statistic
    assert len(rows) == 1379
    assert round(float(figure), 3) == 0.820
