"""Exporting any sentence-transformers model: what optimum traces becomes a model package."""

from __future__ import annotations

from pathlib import Path

import msgspec

from harrier_edge.errors import UsageError
from harrier_edge.package import MODEL, MODEL_DATA, TOKENIZER, fingerprint_of, sha256_of
from harrier_edge.session import Session
from harrier_edge.spec import MANIFEST_FORMAT, PackageManifest, Parity, Tokens
from harrier_edge.tokens import Tokenizer
from harrier_export.compiled_tokenizer import compile_tokenizer
from harrier_export.folder import whole_or_nothing
from harrier_export.graph import GraphBuilder
from harrier_export.manifest import NO_LICENCE, copy_files, finish_package, tool_versions
from harrier_export.package import CONFIG, ExportOptions, ExportResult, Progress
from harrier_export.parity import MAX_TEXT_TOKENS, check_floor, parity_of
from harrier_export.precision import traced_format
from harrier_export.sentence_model import PACKAGES, SentenceModel
from harrier_export.sentence_transformers import document_prompt, query_prompt
from harrier_export.texts import parity_texts
from harrier_export.tokenizer import write_tokenizer, write_tokenizer_config
from harrier_export.traced import TRACED_OPSET, write_traced
from harrier_export.weights import WeightFiles

# What a model is made of: configs, weights and tokenizers, in any folder of it.
_MADE_OF = (".bin", ".json", ".model", ".safetensors", ".txt")


def export_via_optimum(
    checkpoint: Path,
    target: Path,
    options: ExportOptions,
    on_progress: Progress = lambda stage, done, total: None,
) -> ExportResult:
    """Write the package `target` from the folder of a sentence-transformers model.

    All its modules are in the graph, whatever they are: pooling, dense layers, normalization. Of
    `options`, those of calibration, of blocks and of the catalogue are for the decoders that the
    exporter writes itself.

    Raises CheckpointError or UnsupportedModelError for a model that cannot be exported,
    FidelityError for a package under its floor, UsageError for options that cannot work or an
    extra that is not installed, and ExportError where `target` exists or the disk is full. Then
    nothing is left behind.
    """
    for name in ("block_size", "asymmetric", "model", "calibration"):
        if getattr(options, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} does not go with --via optimum.")
    form = traced_format(
        options.precision,
        embedding=options.embedding,
        embedding_block_size=options.embedding_block_size,
    )
    model = SentenceModel(checkpoint)
    bos, final, pad = model.special_tokens()
    with whole_or_nothing(target, options.overwrite) as unfinished:
        folder, traced = unfinished.folder, unfinished.scratch / MODEL
        model.write_tokenizer(folder / TOKENIZER)
        write_tokenizer(folder / TOKENIZER, folder / TOKENIZER, final)
        compiled = compile_tokenizer(folder, final)
        model.trace(traced, TRACED_OPSET)
        with WeightFiles(folder / MODEL_DATA, max_file_bytes=options.max_file_bytes) as weights:
            graph = GraphBuilder(weights)
            write_traced(
                graph,
                traced,
                model.dimension,
                form,
                lambda done, total: on_progress("export", done, total),
            )
            graph.save(folder / MODEL)
        manifest = PackageManifest(
            format=MANIFEST_FORMAT,
            name=options.name or checkpoint.resolve().name,
            architecture=model.config["model_type"],
            licence=NO_LICENCE,
            fingerprint=_fingerprint(checkpoint),
            dimension=model.dimension,
            tokens=Tokens(final=final, pad=pad, bos=bos, max_tokens=model.max_tokens),
            prompts=model.prompts,
            # As sentence-transformers' encode_query and encode_document choose.
            query_prompt=query_prompt(model.prompts, None) or model.default_prompt or "",
            document_prompt=document_prompt(model.prompts) or model.default_prompt or "",
            precision=form.recorded(),
            files={},
            versions=tool_versions(PACKAGES),
            vocab_size=model.config.get("vocab_size"),
            padding=False,
            compiled_tokenizer=compiled,
        )
        model.write_config(folder / CONFIG)
        copy_files(checkpoint, folder)
        write_tokenizer_config(folder, manifest.tokens)
        parity = None
        if options.verify is not False:
            parity = _measure(model, folder, manifest, on_progress)
            if not options.allow_poor:
                check_floor(parity, form.floor, form.name)
        manifest = finish_package(
            folder,
            msgspec.structs.replace(manifest, parity=parity),
            weights.digests,
            sample=options.verify is not False,
        )
    return ExportResult(target, manifest, tokenizer_repaired=False)


def _measure(
    model: SentenceModel, folder: Path, manifest: PackageManifest, on_progress: Progress
) -> Parity:
    """Embed the parity texts with the package's files and with sentence-transformers."""
    texts = parity_texts()
    limit = min(MAX_TEXT_TOKENS, manifest.tokens.max_tokens)
    wanted = model.encode(texts, limit, lambda n: on_progress("verify", n, len(texts)))
    tokenizer = Tokenizer(folder / TOKENIZER, final_token=manifest.tokens.final, max_tokens=limit)
    session = Session(
        folder / MODEL,
        dimension=manifest.dimension,
        pad_token=manifest.tokens.pad,
        padding=manifest.padding,
    )
    vectors = session.run_many([text.ids for text in tokenizer.encode(texts)])
    return parity_of(vectors, wanted, model.reference_name())


def _fingerprint(checkpoint: Path) -> str:
    """sha256 over the files that make the vectors, each by its path and sha256."""
    files = sorted(p for p in checkpoint.rglob("*") if p.suffix in _MADE_OF and p.is_file())
    return fingerprint_of({p.relative_to(checkpoint).as_posix(): sha256_of(p) for p in files})
