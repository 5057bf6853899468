"""A checkpoint becomes a package, whole or not at all."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from standins.packages import Exported
from standins.random_checkpoint import random_checkpoint, tiny_gemma3
from tokenizers import Tokenizer

from harrier_edge import Embedder, catalog
from harrier_edge.errors import (
    CheckpointError,
    ExportError,
    FidelityError,
    HarrierError,
    PackageError,
    UsageError,
)
from harrier_edge.package import open_package
from harrier_edge.releases import EXACT_WINDOWS
from harrier_export import (
    ExportOptions,
    export,
    folder,
    manifest,
    package,
    parity,
    precision,
    reference,
)
from harrier_export.folder import whole_or_nothing
from harrier_export.precision import PRECISIONS, Floor
from harrier_export.tokenizer import write_tokenizer

FAST = ExportOptions(precision="fp32", verify=False)
AGAIN = replace(FAST, overwrite=True)


def test_a_package_says_what_it_is(tiny_package: Path, tiny_gemma: Path) -> None:
    """The manifest holds what the runtime needs, and every file's size and hash."""
    package = open_package(tiny_package)
    manifest = package.manifest
    assert (manifest.name, manifest.architecture) == ("tiny-gemma", "gemma3_text")
    assert (manifest.dimension, manifest.precision.name) == (64, "fp32")
    assert (manifest.tokens.bos, manifest.tokens.final, manifest.tokens.pad) == (2, 1, 0)
    assert manifest.tokens.max_tokens == 4096
    assert manifest.prompts == catalog.load("harrier-270m").prompts
    assert manifest.query_prompt == "web_search_query"
    assert manifest.versions.keys() == {"harrier-edge", "onnx", "onnxruntime", "numpy"}
    files = {path.name for path in tiny_package.iterdir()} - {"manifest.toml"}
    assert manifest.files.keys() == files
    assert (tiny_package / "config.json").read_bytes() == (tiny_gemma / "config.json").read_bytes()


def test_a_default_prompt_is_for_queries(tmp_path: Path, own_gemma: Path) -> None:
    """Where no prompt is called after them; documents have none."""
    config = own_gemma / "config_sentence_transformers.json"
    config.write_text('{"prompts": {"any": "Any: "}, "default_prompt_name": "any"}', "utf-8")
    embedder = Embedder(export(own_gemma, tmp_path / "package", FAST).folder)
    wanted = embedder.encode("Any: a falcon")
    assert np.array_equal(embedder.encode_query("a falcon"), wanted)
    assert np.array_equal(embedder.encode_document("a falcon"), embedder.encode("a falcon"))


def test_the_graph_has_the_plain_form(tiny_package: Path) -> None:
    """Two int64 inputs, one float32 output, in operators that ONNX's own checker accepts."""
    model = onnx.load(tiny_package / "model.onnx", load_external_data=False)
    described = {
        value.name: (
            value.type.tensor_type.elem_type,
            [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim],
        )
        for value in [*model.graph.input, *model.graph.output]
    }
    assert described == {
        "input_ids": (onnx.TensorProto.INT64, ["batch", "sequence"]),
        "attention_mask": (onnx.TensorProto.INT64, ["batch", "sequence"]),
        "sentence_embedding": (onnx.TensorProto.FLOAT, ["batch", 64]),
    }
    assert {node.domain for node in model.graph.node} <= {"", "com.microsoft"}


def test_plain_onnxruntime_gives_the_same_vectors(
    tiny_package: Path, tiny_embedder: Embedder
) -> None:
    """The package needs none of this project's code: a tokenizer and a session will do."""
    long = "the word in many words " * 3  # longer than a window
    texts = ["A falcon.", "", *([long] if EXACT_WINDOWS else [])]
    tokenizer = Tokenizer.from_file(str(tiny_package / "tokenizer.json"))
    tokenizer.enable_padding(pad_id=0)
    encoded = tokenizer.encode_batch(texts)
    session = onnxruntime.InferenceSession(str(tiny_package / "model.onnx"))
    (vectors,) = session.run(
        None,
        {
            "input_ids": np.array([e.ids for e in encoded]),
            "attention_mask": np.array([e.attention_mask for e in encoded]),
        },
    )
    assert np.array_equal(vectors, tiny_embedder.encode(texts))


@pytest.mark.parametrize("bits", PRECISIONS)
@pytest.mark.parametrize("checkpoint", ["tiny_gemma", "tiny_qwen"])
def test_vectors_do_not_depend_on_the_batch(
    request: pytest.FixtureRequest,
    exported: Exported,
    bits: str,
    checkpoint: str,
) -> None:
    """In every precision a text has the same bits alone and in a mixed batch."""
    embedder = Embedder(exported(request.getfixturevalue(checkpoint), bits))
    texts = ["word " * n for n in (1, 40, 3, 17, 90)] + ["", "日本語"]
    together = embedder.encode(texts)
    assert all(np.array_equal(embedder.encode(t), v) for t, v in zip(texts, together, strict=True))


def test_precisions_of_weights_and_embeddings_are_chosen_apart(
    tmp_path: Path, tiny_gemma: Path
) -> None:
    """Each setting shows in the manifest and in the graph's operators."""
    options = ExportOptions(
        precision="int4",
        block_size=32,
        asymmetric=False,
        embedding="int4",
        embedding_block_size=16,
        verify=False,
    )
    result = export(tiny_gemma, tmp_path / "package", options)
    assert "MatMulNBits 4 bit, block 32, symmetric" in result.manifest.precision.linear
    assert "GatherBlockQuantized 4 bit, block 16" in result.manifest.precision.embedding
    model = onnx.load(result.folder / "model.onnx", load_external_data=False)
    branches = [a.g for node in model.graph.node for a in node.attribute if a.HasField("g")]
    kinds = {node.op_type for graph in (model.graph, *branches) for node in graph.node}
    assert {"MatMulNBits", "GatherBlockQuantized", "GroupQueryAttention"} <= kinds
    assert "MatMul" not in kinds
    assert np.isfinite(Embedder(result.folder).encode("a")).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ExportOptions(precision="fp16"), "precision 'fp16' is unknown"),
        (ExportOptions(embedding="int2"), "embedding precision 'int2' is unknown"),
        (ExportOptions(block_size=48), "block size 48"),
        (ExportOptions(embedding_block_size=8), "block size 8"),
    ],
)
def test_options_that_cannot_work_are_named(
    tmp_path: Path, tiny_gemma: Path, options: ExportOptions, message: str
) -> None:
    """Each error names the value and what was wanted."""
    with pytest.raises(UsageError, match=message):
        export(tiny_gemma, tmp_path / "package", options)


def test_a_package_that_exists_is_replaced_only_on_demand(tmp_path: Path, tiny_gemma: Path) -> None:
    """Without overwrite it is refused, with it exchanged, and no other folder is ever replaced."""
    target = tmp_path / "package"
    export(tiny_gemma, target, FAST)
    (target / "mark").touch()
    with pytest.raises(ExportError, match="exists already"):
        export(tiny_gemma, target, FAST)
    assert (target / "mark").exists()
    export(tiny_gemma, target, AGAIN)
    assert not (target / "mark").exists()
    other = tmp_path / "documents"
    other.mkdir()
    with pytest.raises(ExportError, match="not a model package, so it is not replaced"):
        export(tiny_gemma, other, AGAIN)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["documents", "package"]


def test_a_failed_replacement_keeps_the_old_package(tmp_path: Path, own_gemma: Path) -> None:
    """What stood at the target still loads when its successor cannot be made."""
    target = tmp_path / "package"
    export(own_gemma, target, FAST)
    weights = own_gemma / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError):
        export(own_gemma, target, AGAIN)
    assert Embedder(target).encode("a").shape == (64,)


def command(checkpoint: Path, target: Path) -> list[str]:
    """`harrier-edge export` without verification."""
    start = [sys.executable, "-m", "harrier_edge", "export", str(checkpoint), "-o", str(target)]
    return [*start, "--precision", "fp32", "--no-verify"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_a_full_disk_is_told_and_nothing_is_left(tmp_path: Path, tiny_gemma: Path) -> None:
    """The message says what to do, and no part of a package stays."""
    target = tmp_path / "packages" / "package"
    limited = f"ulimit -f 300; exec {' '.join(command(tiny_gemma, target))}"
    run = subprocess.run(["bash", "-c", limited], capture_output=True, text=True)
    assert run.returncode == 1, run.stderr
    assert f"{target}: cannot be written" in run.stderr
    assert "Free space" in run.stderr
    assert list(target.parent.iterdir()) == []


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_export_leaves_nothing_that_loads(tmp_path: Path, tiny_gemma: Path) -> None:
    """Killed while it writes, it leaves a hidden folder that is no package, and can run again."""
    config = {**tiny_gemma3(), "hidden_size": 512, "intermediate_size": 4096}
    checkpoint = random_checkpoint(
        tmp_path / "larger", config=config, tokenizer=tiny_gemma / "tokenizer.json"
    )
    target = tmp_path / "packages" / "package"
    target.parent.mkdir()
    process = subprocess.Popen(command(checkpoint, target))
    deadline = time.monotonic() + 60
    data = target.with_name(".package.partial") / "package" / "model.onnx_data"
    while not data.exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    assert not target.exists()
    left = list(target.parent.iterdir())
    assert len(left) == 1
    assert not (left[0] / "package" / "manifest.toml").exists()
    assert Embedder(export(checkpoint, target, FAST).folder).dimension == 512


# An export that kills itself before it writes the byte that is asked for, and notes all before.
KILLED = """
import os, signal, sys
from harrier_edge.cli import main
from harrier_export import weights
weights.CHECKPOINT_SECONDS = 0
at, write = int(sys.argv.pop(1)), weights.WeightFiles._write
def deadly(self, data):
    if self._total + memoryview(data).nbytes > at:
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, data)
weights.WeightFiles._write = deadly
sys.exit(main(sys.argv[1:]))
"""


def killed_and_continued(checkpoint: Path, tmp_path: Path, kills: int) -> None:
    """Kill an export at `kills` random bytes, continue it, compare it with an unbroken one."""
    random = np.random.default_rng(kills)
    whole = export(checkpoint, tmp_path / "whole" / "package", FAST)
    total = sum(f.size for name, f in whole.manifest.files.items() if "onnx_data" in name)
    arguments = command(checkpoint, tmp_path / "broken" / "package")[3:]
    for at in sorted(random.integers(0, total, kills)):
        run = [sys.executable, "-c", KILLED, str(at), *arguments]
        assert subprocess.run(run).returncode == -signal.SIGKILL
    result = export(checkpoint, tmp_path / "broken" / "package", FAST)
    names = {path.name for path in whole.folder.iterdir()}
    assert {path.name for path in result.folder.iterdir()} == names
    for name in names:
        assert (result.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    assert [path.name for path in result.folder.parent.iterdir()] == ["package"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_export_is_continued_with_the_same_bytes(tmp_path: Path, tiny_gemma: Path) -> None:
    """Wherever it was killed, each run going on where the last one was."""
    killed_and_continued(tiny_gemma, tmp_path, 2)


@pytest.mark.long
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_an_export_killed_at_twenty_points_has_the_same_bytes(
    tmp_path: Path, tiny_gemma: Path
) -> None:
    """Twenty random ones in one export, each run going further than the one before."""
    killed_and_continued(tiny_gemma, tmp_path, 20)


def interrupt(*_: object) -> None:
    """What Ctrl-C does."""
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("module", "name"), [(manifest, "take_sample"), (folder, "_put")], ids=["sample", "rename"]
)
def test_an_export_interrupted_at_its_end_is_continued(
    tmp_path: Path, tiny_gemma: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str
) -> None:
    """Its manifest, which is there by then, is not taken for a file of the package."""
    monkeypatch.setattr(reference, "is_available", lambda: False)
    options = ExportOptions(precision="fp32")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, name, interrupt)
        export(tiny_gemma, tmp_path / "package", options)
    assert (tmp_path / ".package.partial" / "package" / "manifest.toml").exists()
    export(tiny_gemma, tmp_path / "package", options)
    opened = open_package(tmp_path / "package")
    assert "manifest.toml" not in opened.manifest.files
    assert opened.manifest.sample is not None


def interrupted_exchange(
    checkpoint: Path, target: Path, monkeypatch: pytest.MonkeyPatch, method: str, place: Path
) -> None:
    """Export over the package `target`, until that does `method` with `place`."""
    (target / "mark").touch()

    def until(path: Path, *arguments: Any) -> Any:
        if path == place:
            raise KeyboardInterrupt
        return done(path, *arguments)

    owner: Any = Path if method == "replace" else folder
    done = getattr(owner, method)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(owner, method, until)
        export(checkpoint, target, AGAIN)


@pytest.mark.parametrize("bits", ["fp32", "int8-block"])
def test_an_export_interrupted_after_the_exchange_can_run_again(
    own_package: Path, tiny_gemma: Path, monkeypatch: pytest.MonkeyPatch, bits: str
) -> None:
    """With the same options and with others: what it had replaced is in nobody's way."""
    target, place = own_package, own_package.with_name(".own-package.partial")
    interrupted_exchange(tiny_gemma, target, monkeypatch, "_sync", target.parent)
    assert not (target / "mark").exists()
    assert (place / "replaced" / "mark").exists()
    export(tiny_gemma, target, replace(AGAIN, precision=bits))
    assert open_package(target).manifest.precision.name == bits
    assert not place.exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_package_taken_away_by_an_interrupted_exchange_is_given_back(
    own_package: Path, own_gemma: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    """Before the next export, which may be refused or fail, does anything."""
    target, place = own_package, own_package.with_name(".own-package.partial")
    interrupted_exchange(own_gemma, target, monkeypatch, "replace", place / "package")
    assert not target.exists()
    (own_gemma / "tokenizer.json").write_text("{")
    with pytest.raises(HarrierError, match="is not a tokenizer" if overwrite else "exists already"):
        export(own_gemma, target, replace(AGAIN, overwrite=overwrite))
    open_package(target)
    assert (target / "mark").exists()
    assert not place.exists()


def test_two_exports_to_one_place_do_not_meet(tmp_path: Path, tiny_gemma: Path) -> None:
    """The second is told of the first, and takes nothing from it."""
    target = tmp_path / "package"
    with (
        whole_or_nothing(target, overwrite=False) as unfinished,
        pytest.raises(ExportError, match="another process is exporting to it"),
    ):
        export(tiny_gemma, target, FAST)
    assert not unfinished.folder.exists()
    assert target.is_dir()


def test_a_disk_without_room_is_told_before_anything_is_written(
    tmp_path: Path, tiny_gemma: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is needed and what is free are both in the message."""
    monkeypatch.setattr(package, "_BESIDE_WEIGHTS", 10**18)
    with pytest.raises(
        ExportError, match=r"1000000000\.00 GB are needed there, [\d.]+ GB are free"
    ):
        export(tiny_gemma, tmp_path / "package", FAST)
    assert list(tmp_path.iterdir()) == []


def test_weights_in_several_files_give_the_same_vectors(
    tmp_path: Path, tiny_package: Path, tiny_gemma: Path
) -> None:
    """Each of the files is in the manifest with its hash, and a missing one is named."""
    options = ExportOptions(precision="fp32", verify=False, max_file_bytes=150_000)
    folder = export(tiny_gemma, tmp_path / "package", options).folder
    files = sorted(folder.glob("model.onnx_data*"))
    assert len(files) > 2
    assert {file.name for file in files} <= open_package(folder).manifest.files.keys()
    texts = ["A falcon.", "the word in many words " * 9]
    wanted = Embedder(tiny_package).encode(texts)
    assert np.array_equal(Embedder(folder).encode(texts), wanted)
    files[-1].unlink()
    with pytest.raises(PackageError, match=rf"{files[-1].name} is missing"):
        open_package(folder)


def test_the_final_token_is_added_where_it_lacks(tmp_path: Path, own_gemma: Path) -> None:
    """A tokenizer that forgets the final token is repaired at export, and that is told."""
    path = own_gemma / "tokenizer.json"
    whole = Tokenizer.from_file(str(path)).encode("a word").ids
    data = json.loads(path.read_text("utf-8"))
    processors = [
        None,
        {**data["post_processor"], "single": data["post_processor"]["single"][:-1]},
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    ]
    for number, processor in enumerate(processors):
        path.write_text(json.dumps({**data, "post_processor": processor}), "utf-8")
        result = export(own_gemma, tmp_path / f"package-{number}", FAST)
        assert result.tokenizer_repaired
        ids = Tokenizer.from_file(str(result.folder / "tokenizer.json")).encode("a word").ids
        assert ids == (whole if number == 1 else whole[1:])
        Embedder(result.folder)


def test_a_sound_tokenizer_is_not_touched(tiny_gemma: Path, tmp_path: Path) -> None:
    """It gives the same ids; only truncation and padding, which cut in silence, are taken out."""
    tokenizer = Tokenizer.from_file(str(tiny_gemma / "tokenizer.json"))
    tokenizer.enable_truncation(4)
    tokenizer.save(str(tmp_path / "cutting.json"))
    assert not write_tokenizer(tmp_path / "cutting.json", tmp_path / "out.json", 1)
    written = Tokenizer.from_file(str(tmp_path / "out.json"))
    tokenizer.no_truncation()
    assert written.encode("a long word").ids == tokenizer.encode("a long word").ids


@pytest.mark.parametrize(
    "padding",
    [{"length": 16}, {"length": 16, "direction": "left"}, {"pad_to_multiple_of": 8}],
    ids=str,
)
def test_a_tokenizer_that_pads_ends_inputs_once(
    tiny_gemma: Path, tmp_path: Path, padding: dict[str, Any]
) -> None:
    """What it pads with stands not between a text and its final token."""
    tokenizer = Tokenizer.from_file(str(tiny_gemma / "tokenizer.json"))
    wanted = tokenizer.encode("a long word").ids
    tokenizer.enable_padding(**padding)
    tokenizer.save(str(tmp_path / "padding.json"))
    assert not write_tokenizer(tmp_path / "padding.json", tmp_path / "out.json", 1)
    assert Tokenizer.from_file(str(tmp_path / "out.json")).encode("a long word").ids == wanted


def test_merges_are_written_in_the_shorter_form_if_it_means_the_same(
    tiny_gemma: Path, tmp_path: Path
) -> None:
    """As `"t h"`, read back to the same tokenizer; a token that holds a space forbids it."""
    source, target = tmp_path / "tokenizer.json", tmp_path / "out.json"
    data = json.loads((tiny_gemma / "tokenizer.json").read_text("utf-8"))
    source.write_text(json.dumps(data), "utf-8")
    write_tokenizer(source, target, 1)
    assert json.loads(target.read_text("utf-8"))["model"]["merges"][0] == "t h"
    wanted = json.loads(Tokenizer.from_file(str(source)).to_str())["model"]
    assert json.loads(Tokenizer.from_file(str(target)).to_str())["model"] == wanted

    data["model"]["vocab"] |= {" ": 300, "t ": 301}
    data["model"]["merges"].append(["t", " "])
    source.write_text(json.dumps(data), "utf-8")
    write_tokenizer(source, target, 1)
    assert json.loads(target.read_text("utf-8"))["model"]["merges"] == data["model"]["merges"]


def test_added_tokens_without_a_row_are_taken_out(tiny_gemma: Path, tmp_path: Path) -> None:
    """Their names become plain text, as Gemma's sign for images does in a model without a row."""
    tokenizer = Tokenizer.from_file(str(tiny_gemma / "tokenizer.json"))
    rows = tokenizer.get_vocab_size()
    tokenizer.add_special_tokens(["<image>"])
    tokenizer.save(str(tmp_path / "wide.json"))
    assert tokenizer.encode("an <image>").ids[-2] == rows
    write_tokenizer(tmp_path / "wide.json", tmp_path / "out.json", 1, rows)
    written = Tokenizer.from_file(str(tmp_path / "out.json"))
    assert max(written.encode("an <image>").ids) < rows
    assert written.encode("a falcon").ids == tokenizer.encode("a falcon").ids
    with pytest.raises(CheckpointError, match=f"table has {rows - 1} rows"):
        write_tokenizer(tmp_path / "wide.json", tmp_path / "out.json", 1, rows - 1)


@pytest.mark.parametrize(
    ("content", "final", "message"),
    [
        ("{", 1, "is not a tokenizer"),
        (None, 9999, "has no token 9999"),
        (None, 0, r"ends inputs with \['<eos>'\]"),
    ],
)
def test_a_tokenizer_of_another_model_is_named(
    tiny_gemma: Path, tmp_path: Path, content: str | None, final: int, message: str
) -> None:
    """It is not bent into shape where it says something else."""
    source = tmp_path / "tokenizer.json"
    source.write_text(content or (tiny_gemma / "tokenizer.json").read_text("utf-8"), "utf-8")
    with pytest.raises(CheckpointError, match=message):
        write_tokenizer(source, tmp_path / "out.json", final)


def test_the_manifest_says_whether_real_text_was_asked(tiny_gemma: Path, tmp_path: Path) -> None:
    """Of int8 with and without calibration, and of fp32, where there is no choice."""
    for name, calibrate, wanted in (("int8", False, False), ("fp32", True, None)):
        options = ExportOptions(precision=name, calibrate=calibrate, verify=False)
        manifest = export(tiny_gemma, tmp_path / name, options).manifest
        assert manifest.precision.calibrated is wanted


def test_a_poor_package_is_refused_unless_allowed(
    tmp_path: Path, tiny_gemma: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under its floor nothing is left; with allow_poor the parity stands in the manifest."""
    monkeypatch.setattr(parity, "MAX_TEXT_TOKENS", 100)
    monkeypatch.setitem(precision._FLOORS, "int4", Floor(mean_cosine=0.99999))
    options = ExportOptions(precision="int4", calibrate=False)
    with pytest.raises(FidelityError, match=r"int4: cosine .* wanted mean at least 0\.99999"):
        export(tiny_gemma, tmp_path / "package", options)
    assert list(tmp_path.iterdir()) == []
    options = replace(options, allow_poor=True)
    measured = export(tiny_gemma, tmp_path / "package", options).manifest.parity
    assert measured is not None
    assert 0 < measured.mean_cosine < 0.99999
    assert measured.texts >= 64
    with pytest.raises(FidelityError):
        parity.check_floor(measured, Floor(min_cosine=0.99999), "int4")
