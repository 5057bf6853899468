"""Exporting: a checkpoint becomes a model package, whole or not at all."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec

from harrier_edge import catalog
from harrier_edge.errors import CheckpointError, ExportError, UsageError
from harrier_edge.machine import available_memory
from harrier_edge.package import MODEL, MODEL_DATA, TOKENIZER, sha256_of
from harrier_edge.spec import MANIFEST_FORMAT, ModelSpec, PackageManifest, Tokens
from harrier_edge.tokens import Tokenizer
from harrier_export import reference
from harrier_export.architectures import architecture_of
from harrier_export.architectures.config import complete_config
from harrier_export.architectures.decoder import Decoder, DecoderBuilder
from harrier_export.calibrate import Calibration, calibration_room
from harrier_export.checkpoint import Checkpoint
from harrier_export.compiled_tokenizer import compile_tokenizer
from harrier_export.folder import whole_or_nothing
from harrier_export.graph import GraphBuilder
from harrier_export.layers import write_layer_graphs
from harrier_export.manifest import (
    LICENCE_FILES,
    NO_LICENCE,
    copy_files,
    finish_package,
    tool_versions,
)
from harrier_export.parity import check_floor, measure_parity
from harrier_export.past import write_query_graph
from harrier_export.precision import PrecisionFormat, precision_format, ternary_format
from harrier_export.sentence_transformers import (
    SentenceConfig,
    document_prompt,
    query_prompt,
    read_sentence_config,
)
from harrier_export.texts import calibration_texts
from harrier_export.tokenizer import write_tokenizer, write_tokenizer_config
from harrier_export.weights import MAX_FILE_BYTES, WeightFiles, WeightPlan, Weights

CONFIG = "config.json"
CALIBRATION_TEXT_TOKENS = 512
_BESIDE_WEIGHTS = 10**8  # bytes, about, of graphs and tokenizers
MAX_TOKENS = 32768  # what Harrier's cards give, also where the config says more

Progress = Callable[[str, int, int], None]  # stage, done, of how many


@dataclass(frozen=True)
class ExportOptions:
    """What kind of package is wanted; `precision_format` explains the first five.

    `model` is a name of the catalogue: the checkpoint is held to its published hashes and shape,
    and `name` is by default the same (else the checkpoint folder's). `verify` measures parity
    against transformers: by default where it is installed; False leaves out the sample too, so that
    the package is not run at all. `allow_poor` accepts a package under its precision's floor,
    `overwrite` replaces one that stands at the target. `calibration` is a file of texts like
    `calibration.txt` here, from which int8 and int4 learn how to round. Without `calibrate` they
    round each weight by itself, in far less memory and time. `max_file_bytes` is how large a file
    of weights may be; only a weight that is larger has a larger one. Calibrating goes layer by
    layer, with all else on the disk, and may take `memory_bytes`, by default what is free; where
    one layer would take more it is refused.
    """

    precision: str = "int8"
    block_size: int | None = None
    asymmetric: bool | None = None
    embedding: str | None = None
    embedding_block_size: int = 32
    model: str | None = None
    name: str | None = None
    verify: bool | None = None
    allow_poor: bool = False
    overwrite: bool = False
    calibration: Path | None = None
    calibrate: bool = True
    max_file_bytes: int = MAX_FILE_BYTES
    memory_bytes: int | None = None


@dataclass(frozen=True)
class ExportResult:
    """A package that has been written."""

    folder: Path
    manifest: PackageManifest
    tokenizer_repaired: bool


def export(
    checkpoint: Path,
    target: Path,
    options: ExportOptions = ExportOptions(),
    on_progress: Progress = lambda stage, done, total: None,
) -> ExportResult:
    """Write the package `target` from the Hugging Face folder `checkpoint`.

    Weights are read, rounded and written a block of rows at a time, on all cores, so that memory
    does not grow with the model, until the package is run. What was killed or interrupted is
    continued by the next export of the same checkpoint to the same place with the same options.

    Raises CheckpointError or UnsupportedModelError for a checkpoint that cannot be exported,
    FidelityError for a package under its floor, UsageError for options that cannot work, and
    ExportError where `target` exists or the disk is full. Then nothing is left behind.
    """
    verify = reference.is_available() if options.verify is None else options.verify
    if verify and not reference.is_available():
        raise UsageError(
            "verification needs torch and transformers, which are not installed. Install them "
            "with: pip install 'harrier-edge[verify]'"
        )
    source = Checkpoint(checkpoint)
    source.config = complete_config(source)
    architecture = architecture_of(source.config)
    decoder = architecture.decoder(source)
    form = _format(decoder, options)
    sentence = read_sentence_config(source)
    spec = catalog.load(options.model) if options.model else None
    if spec:
        _check_against(spec, source, decoder, sentence)

    def write(weights: Weights, calibration: Calibration | None) -> GraphBuilder:
        graph = GraphBuilder(weights)
        architecture.build(
            DecoderBuilder(graph, source, decoder, form, architecture.norm_offset, calibration)
        )
        source.refuse_unused(architecture.is_ignored)
        return graph

    identity = _identity(source, options)
    with whole_or_nothing(target, options.overwrite, identity) as unfinished:
        folder = unfinished.folder
        plan = WeightPlan(MODEL_DATA, options.max_file_bytes)
        write(plan, None)
        _check_room(target, plan.nbytes, folder)
        repaired = write_tokenizer(
            source.folder / TOKENIZER, folder / TOKENIZER, decoder.final_token, decoder.vocab_size
        )
        calibration = None
        if form.calibrated and options.calibrate:
            texts = _calibration_tokens(folder, decoder, options.calibration)
            room = calibration_room(decoder, texts, smoothed=form.smoothed)
            _check_memory(room.memory, options)
            _check_room(target, plan.nbytes + room.disk, folder)
            calibration = Calibration(
                source,
                decoder,
                architecture,
                texts,
                unfinished.scratch / "calibration",
                lambda done, total: on_progress("calibrate", done, total),
                smoothed=form.smoothed,
            )
        weights = WeightFiles(
            folder / MODEL_DATA,
            max_file_bytes=options.max_file_bytes,
            journal=unfinished.journal,
            on_bytes=lambda done: on_progress("export", done, max(done, plan.nbytes)),
        )
        with ThreadPoolExecutor(1) as beside, source.hashed_beside(), weights:
            compiling = beside.submit(compile_tokenizer, folder, decoder.final_token)
            write(weights, calibration).save(folder / MODEL)
            fingerprint = source.fingerprint()
            compiled = compiling.result()
        write_query_graph(folder, decoder)
        write_layer_graphs(folder, decoder)
        manifest = _manifest(source, decoder, sentence, spec, options, form, fingerprint)
        _write_companions(source, folder, manifest, spec)
        parity = None
        if verify:
            parity = measure_parity(
                source.folder, folder, decoder, lambda n, of: on_progress("verify", n, of)
            )
            if not options.allow_poor:
                check_floor(parity, form.floor, form.name)
        manifest = finish_package(
            folder,
            msgspec.structs.replace(manifest, parity=parity, compiled_tokenizer=compiled),
            weights.digests,
            sample=options.verify is not False,
        )
    return ExportResult(target, manifest, repaired)


def _identity(source: Checkpoint, options: ExportOptions) -> str:
    """What two exports have in common where one may continue the other."""
    files = [*source.weight_files, *([options.calibration] if options.calibration else [])]
    stats = [path.stat() for path in files if path.exists()]
    made_of = [(stat.st_size, stat.st_mtime_ns, stat.st_ino) for stat in stats]
    told = repr((source.folder.resolve(), source.config, made_of, tool_versions(), options))
    return hashlib.sha256(told.encode()).hexdigest()


def _check_memory(wanted: int, options: ExportOptions) -> None:
    """Raise UsageError where calibrating a layer takes more memory than it may or there is."""
    given = options.memory_bytes or available_memory()
    if given is not None and wanted > given:
        raise UsageError(
            f"calibrating {options.precision} takes about {wanted / 1e9:.1f} GB of memory, "
            f"{given / 1e9:.1f} GB may be used. Without calibration an export needs less than "
            "1 GB: take --no-calibrate or --precision int8-block. Or allow more with --memory."
        )


def _check_room(target: Path, nbytes: int, folder: Path) -> None:
    """Raise ExportError where the disk has no room for weights of `nbytes`."""
    written = sum(path.stat().st_size for path in folder.iterdir())
    wanted = nbytes + _BESIDE_WEIGHTS - written
    if (free := shutil.disk_usage(folder).free) < wanted:
        raise ExportError(
            f"{target}: {wanted / 1e9:.2f} GB are needed there, {free / 1e9:.2f} GB are free. "
            "Free space, choose another disk, or a smaller precision."
        )


def _format(decoder: Decoder, options: ExportOptions) -> PrecisionFormat:
    """The precision that the options ask for. Raises UsageError."""
    if decoder.normed_inputs:
        return ternary_format(
            options.precision,
            embedding=options.embedding,
            embedding_block_size=options.embedding_block_size,
        )
    return precision_format(
        options.precision,
        layers=len(decoder.layers),
        layer_parameters=decoder.layer_parameters,
        table_parameters=decoder.vocab_size * decoder.hidden_size,
        block_size=options.block_size,
        asymmetric=options.asymmetric,
        embedding=options.embedding,
        embedding_block_size=options.embedding_block_size,
        calibrate=options.calibrate,
    )


def _check_against(
    spec: ModelSpec, source: Checkpoint, decoder: Decoder, sentence: SentenceConfig
) -> None:
    """Raise CheckpointError where the checkpoint is not the one of the catalogue."""
    for name, record in spec.source.files.items():
        path = source.folder / name
        if not path.exists():
            continue  # what the export needs is asked for elsewhere
        size = path.stat().st_size
        if record.size is not None and size != record.size:
            raise CheckpointError(
                f"{path}: has {size} bytes; {spec.name} at revision {spec.source.revision} has "
                f"{record.size}. Download it again."
            )
        if record.sha256 is not None and (seen := sha256_of(path)) != record.sha256:
            raise CheckpointError(
                f"{path}: its sha256 is {seen}; {spec.name} at revision {spec.source.revision} "
                f"has {record.sha256}. Download it again, or export without --model."
            )
    shape = spec.shape
    pairs = {
        "shape.architecture": (source.config["model_type"], shape.architecture),
        "shape.hidden_size": (decoder.hidden_size, shape.hidden_size),
        "shape.layers": (len(decoder.layers), shape.layers),
        "shape.heads": (decoder.heads, shape.heads),
        "shape.kv_heads": (decoder.kv_heads, shape.kv_heads),
        "shape.head_dim": (decoder.head_dim, shape.head_dim),
        "shape.intermediate_size": (decoder.intermediate_size, shape.intermediate_size),
        "shape.vocab_size": (decoder.vocab_size, shape.vocab_size),
        "tokens.final": (decoder.final_token, spec.tokens.final),
        "prompts": (sentence.prompts or spec.prompts, spec.prompts),
    }
    for what, (seen, wanted) in pairs.items():
        if seen != wanted and what not in spec.inferred:
            raise CheckpointError(
                f"{source.folder}: {what} is {seen}; {spec.name} has {wanted}. "
                "Choose the right --model, or export without it."
            )


def _manifest(
    source: Checkpoint,
    decoder: Decoder,
    sentence: SentenceConfig,
    spec: ModelSpec | None,
    options: ExportOptions,
    form: PrecisionFormat,
    fingerprint: str,
) -> PackageManifest:
    prompts = sentence.prompts or (spec.prompts if spec else {})
    return PackageManifest(
        format=MANIFEST_FORMAT,
        name=options.name or (spec.name if spec else source.folder.resolve().name),
        architecture=source.config["model_type"],
        licence=spec.licence if spec else NO_LICENCE,
        fingerprint=fingerprint,
        dimension=decoder.hidden_size,
        tokens=decoder_tokens(decoder, sentence, spec),
        prompts=prompts,
        query_prompt=query_prompt(prompts, sentence.default_prompt),
        document_prompt=document_prompt(prompts),
        precision=form.recorded(calibrated=options.calibrate if form.calibrated else None),
        files={},
        versions=tool_versions(),
        vocab_size=decoder.vocab_size,
        optimized=not form.folded,
        repository=spec.source.repository if spec else "",
        revision=spec.source.revision if spec else "",
    )


def decoder_tokens(decoder: Decoder, sentence: SentenceConfig, spec: ModelSpec | None) -> Tokens:
    """The special tokens of a decoder's texts, and the most that a text may have."""
    return Tokens(
        final=decoder.final_token,
        pad=decoder.pad_token,
        bos=decoder.bos_token,
        max_tokens=min(
            spec.tokens.max_tokens if spec else MAX_TOKENS,
            sentence.max_tokens or decoder.max_positions,
            decoder.max_positions,
        ),
    )


def _write_companions(
    source: Checkpoint, folder: Path, manifest: PackageManifest, spec: ModelSpec | None
) -> None:
    """Licence, and the small files by which transformers, txtai and their like load the package."""
    copy_files(source.folder, folder, (CONFIG, *LICENCE_FILES))
    if spec and not any((folder / name).exists() for name in LICENCE_FILES):
        (folder / "LICENSE").write_text(catalog.licence_text(spec.name), "utf-8")
    write_tokenizer_config(folder, manifest.tokens)


def _calibration_tokens(folder: Path, decoder: Decoder, own: Path | None) -> list[list[int]]:
    """The calibration texts, ours or those of a file, as token ids of the package in `folder`."""
    tokenizer = Tokenizer(
        folder / TOKENIZER,
        final_token=decoder.final_token,
        max_tokens=min(CALIBRATION_TEXT_TOKENS, decoder.max_positions),
    )
    return [text.ids for text in tokenizer.encode(calibration_texts(own))]
