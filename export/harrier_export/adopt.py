"""Adopting a foreign ONNX export: its graph as it is, in a package like any other.

Nothing of it is trusted: its graph is read with bounds before ONNX Runtime sees it, and first run
in a process of its own, where it is also measured whether a text's vector depends on its company.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harrier_edge.errors import CheckpointError, UnsupportedModelError
from harrier_edge.foreign import choose_graph, foreign_files
from harrier_edge.graphs import check_graph
from harrier_edge.isolation import in_own_process
from harrier_edge.package import MODEL, TOKENIZER, altered_file, fingerprint_of, sha256_of
from harrier_edge.session import Session
from harrier_edge.spec import (
    MANIFEST_FORMAT,
    ModelSpec,
    OnnxSource,
    PackageManifest,
    Precision,
)
from harrier_export.architectures import architecture_of
from harrier_export.architectures.config import complete_config
from harrier_export.checkpoint import ModelFolder
from harrier_export.compiled_tokenizer import compile_tokenizer
from harrier_export.folder import whole_or_nothing
from harrier_export.manifest import (
    LICENCE_FILES,
    NO_LICENCE,
    copy_files,
    finish_package,
    tool_versions,
)
from harrier_export.package import CONFIG, ExportResult, decoder_tokens
from harrier_export.sentence_transformers import (
    document_prompt,
    query_prompt,
    read_sentence_config,
)
from harrier_export.tokenizer import write_tokenizer, write_tokenizer_config

_LENGTHS = (2, 3, 7, 7, 7, 20, 41, 41, 90)  # tokens of the texts that company is measured on
_UNIT = 1e-3  # that a length may be off 1


@dataclass(frozen=True)
class Trial:
    """What a graph did when it was first run."""

    length: float  # of the vector that is farthest from unit length
    padding: bool  # whether vectors are the same beside longer texts as alone
    batching: bool  # whether they are beside texts of their own length


def adopt(
    source: Path,
    target: Path,
    precision: str | None = None,
    *,
    name: str | None = None,
    spec: ModelSpec | None = None,
    origin: OnnxSource | None = None,
) -> ExportResult:
    """Write the package `target` from the folder of a foreign ONNX export, as `foreign` tells it.

    `precision` is one of those that it has, by default float32; `name` by default the folder's.
    `spec` is the model that it was made of, if that is known: its prompts and limits are taken
    where the folder brings none. To `origin`, where it is published, the files are held.

    Raises UsageError for a precision that it does not have, CheckpointError for a folder that is
    incomplete or not as published, UnsupportedModelError for one of another form, PackageError for
    a graph that is not sound, ModelError for one that cannot be run, and ExportError where `target`
    exists or the disk is full. Then nothing is left behind.
    """
    model = ModelFolder(source)
    found = [p.relative_to(source).as_posix() for p in sorted(source.rglob("*")) if p.is_file()]
    precision, graph = choose_graph(found, precision)
    files = foreign_files(found, graph)
    digests = {file: sha256_of(source / file) for file in sorted(files)}
    if origin:
        _check_published(source, digests, origin)
    config = {k: v for k, v in complete_config(model).items() if k != "transformers.js_config"}
    decoder = architecture_of(config).read(config)
    sentence = read_sentence_config(model)
    prompts = sentence.prompts or (spec.prompts if spec else {})
    with whole_or_nothing(target, overwrite=False) as unfinished:
        folder = unfinished.folder
        for file in files:
            if file.startswith("onnx/"):
                to = MODEL if file == graph else Path(file).name
                shutil.copyfile(source / file, folder / to)
        check_graph(folder / MODEL, {path.name: path.stat().st_size for path in folder.iterdir()})
        repaired = write_tokenizer(
            source / TOKENIZER, folder / TOKENIZER, decoder.final_token, decoder.vocab_size
        )
        trial: Trial = in_own_process(
            _try, folder / MODEL, decoder.hidden_size, decoder.pad_token, decoder.final_token
        )
        if not abs(trial.length - 1) < _UNIT:  # NaN, too
            raise UnsupportedModelError(
                f"{source / graph}: its vectors have length {trial.length:.4g}; wanted 1. It does "
                "not normalize, or overflows in this precision: choose another with --precision."
            )
        manifest = PackageManifest(
            format=MANIFEST_FORMAT,
            name=name or source.resolve().name,
            architecture=config["model_type"],
            licence=spec.licence if spec else NO_LICENCE,
            fingerprint=fingerprint_of(digests),
            dimension=decoder.hidden_size,
            tokens=decoder_tokens(decoder, sentence, spec),
            prompts=prompts,
            query_prompt=query_prompt(prompts, sentence.default_prompt),
            document_prompt=document_prompt(prompts),
            precision=Precision(name=precision, linear=f"as in {graph}", embedding="as there"),
            files={},
            versions=tool_versions(),
            repository=origin.repository if origin else "",
            revision=origin.revision if origin else "",
            padding=trial.padding,
            batching=trial.batching,
            vocab_size=decoder.vocab_size,
            compiled_tokenizer=compile_tokenizer(folder, decoder.final_token),
        )
        copy_files(source, folder, (CONFIG, *LICENCE_FILES))
        write_tokenizer_config(folder, manifest.tokens)
        manifest = finish_package(folder, manifest, {}, sample=True)
    return ExportResult(target, manifest, repaired)


def _check_published(source: Path, digests: Mapping[str, str], origin: OnnxSource) -> None:
    """Raise CheckpointError where a file is not the one that was published."""
    if name := altered_file(digests, origin.files):
        raise CheckpointError(
            f"{source / name}: its sha256 is {digests[name]}; {origin.repository} at revision "
            f"{origin.revision} has {origin.files[name].sha256}. Download it again."
        )


def _try(model: Path, dimension: int, pad_token: int, final_token: int) -> Trial:
    """Run texts alone, beside others of their length, and beside longer ones."""
    session = Session(model, dimension=dimension, pad_token=pad_token, threads=1)
    random = np.random.default_rng(0)
    texts = [[*random.integers(3, 250, n - 1).tolist(), final_token] for n in _LENGTHS]
    alone = np.concatenate([session.run([text]) for text in texts])
    if alone.shape[1] != dimension:
        raise UnsupportedModelError(
            f"{model}: its vectors have {alone.shape[1]} dimensions; config.json says {dimension}."
        )
    lengths = np.linalg.norm(alone, axis=1)
    worst = lengths[np.argmax(np.abs(lengths - 1))]
    same = [n for n, text in enumerate(texts) if _LENGTHS.count(len(text)) > 1]
    batching = all(
        np.array_equal(session.run([texts[n] for n in rows]), alone[rows])
        for length in {len(texts[n]) for n in same}
        for rows in [[n for n in same if len(texts[n]) == length]]
    )
    padding = batching and np.array_equal(session.run(texts), alone)
    return Trial(float(worst), padding, batching)
