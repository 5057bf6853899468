"""Every package: its bytes, its tokenizer, and the vector that it gives."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harrier_edge.bench_texts import DOCUMENTS, QUERIES
from harrier_edge.doctor.finding import Finding, broken, note, ok, told
from harrier_edge.doctor.indexes import loaded, packages_of
from harrier_edge.errors import ModelError, PackageError
from harrier_edge.isolation import in_own_process
from harrier_edge.machine import available_memory
from harrier_edge.package import TOKENIZER, all_packages, is_built_in, open_package
from harrier_edge.places import cache_folder
from harrier_edge.spec import PackageManifest, Sample
from harrier_edge.tokens import Tokenizer, compiled_by
from harrier_edge.vectors import Vectors

# Other processors round otherwise, by which a cosine loses less than a thousandth. What is below
# this is another model, or arithmetic that does not hold.
AGREES = 0.99
UNIT = 1e-3  # that a length may be off 1
# What tokenizers have been seen to disagree about.
TEXTS = (
    *("", " ", "\n\n", "\t x", "a  b", "\u2581a", "e\u0301", "\r\n", "\u200b\u200d", "\ufffd"),
    *("İstanbul", "한국어", "日本語の文", "ﷺ", "क्षत्रिय", "<eos>", "1234567890", "it's I'LL", "🏳️"),
)


@dataclass(frozen=True)
class Trial:
    """What a package did in a process of its own."""

    different: str | None  # a text of which its two tokenizers make different ids
    length: float  # of a vector
    cosine: float | None  # to the vector that its manifest has; None where it has none


def examine(index: Path | None) -> Iterator[Finding]:
    """The built-in one, all of the cache, and those elsewhere that indexes were built with."""
    elsewhere = [folder for folder in packages_of(index) if folder.is_dir()]
    folders = {folder.resolve(): folder for folder in [*all_packages(), *elsewhere]}
    for folder in folders.values():
        yield from _package(folder)


def _package(folder: Path) -> Iterator[Finding]:
    try:
        manifest = open_package(folder, rehash=True).manifest
    except ModelError as error:
        yield told("package", error, folder, _again(folder))
        return
    except OSError as error:
        why = f"{error.filename or folder} cannot be read: {error.strerror}"
        yield broken("package", why, f"chmod -R u+rX {folder}", folder)
        return
    size = sum(record.size for record in manifest.files.values())
    name = f"{manifest.name} in {manifest.precision.name}, {size / 1e6:.0f} MB"
    free = available_memory()
    if free is not None and size > free:
        yield note(
            "package",
            f"{name}, more than the {free / 1e6:.0f} MB of memory that are left; not run",
            "close other programs, or pull it in a smaller precision, such as int8",
            folder,
        )
        return
    yield from _compiled(folder, manifest)
    try:
        trial: Trial = in_own_process(_try, folder)
    except ModelError as error:
        yield broken("package", f"cannot be run: {error}", _again(folder), folder)
        return
    faults = list(_faults(folder, trial))
    yield from faults
    if not faults:
        cosine = "no vector to compare with" if trial.cosine is None else f"{trial.cosine:.6f}"
        yield ok(
            "package",
            f"{name}: hashes right, tokenizers equal, cosine to its sample: {cosine}",
            folder,
        )


def _try(folder: Path) -> Trial:
    """Load a package, tokenize and embed."""
    embedder = loaded(folder)
    manifest = embedder.manifest
    sample = manifest.sample
    vector = embedder.encode(sample.text if sample else DOCUMENTS[0])
    return Trial(
        different=_different(folder, manifest),
        length=float(np.linalg.norm(vector)),
        cosine=float(vector @ _recorded(folder, manifest, sample)) if sample else None,
    )


def _different(folder: Path, manifest: PackageManifest) -> str | None:
    texts = [*DOCUMENTS, *QUERIES, *TEXTS]
    ours, reference = (
        Tokenizer(
            folder / TOKENIZER,
            final_token=manifest.tokens.final,
            max_tokens=manifest.tokens.max_tokens,
            compiled=compiled,
        ).encode(texts)
        for compiled in (manifest.compiled_tokenizer, None)
    )
    pairs = zip(texts, ours, reference, strict=True)
    return next((text for text, one, other in pairs if one != other), None)


def _recorded(folder: Path, manifest: PackageManifest, sample: Sample) -> Vectors:
    try:
        values = np.frombuffer(base64.b64decode(sample.vector, validate=True), "<f4")
    except (binascii.Error, ValueError) as error:
        raise PackageError(f"{folder}: its sample is no vector ({error}).") from error
    if len(values) != manifest.dimension:
        raise PackageError(
            f"{folder}: its sample has {len(values)} of {manifest.dimension} values."
        )
    return values.astype(np.float32)


def _faults(folder: Path, trial: Trial) -> Iterator[Finding]:
    if trial.different is not None:
        yield broken(
            "package",
            f"its compiled tokenizer and its {TOKENIZER} make different tokens of "
            f"{trial.different[:40]!r}",
            _again(folder),
            folder,
        )
    if not abs(trial.length - 1) < UNIT:  # NaN, too
        yield broken(
            "package",
            f"its vectors have length {trial.length:.4g}; wanted 1",
            _again(folder),
            folder,
        )
    elif trial.cosine is not None and trial.cosine < AGREES:
        yield broken(
            "package",
            f"the vector that it gives here has a cosine of {trial.cosine:.4f} to the one that it "
            f"gave where it was made; wanted {AGREES} or more. Its weights are not those of its "
            "sample, or this processor computes otherwise",
            f"{_again(folder)}. If that does not help, take fp32",
            folder,
        )


def _compiled(folder: Path, manifest: PackageManifest) -> Iterator[Finding]:
    compiled = manifest.compiled_tokenizer
    if compiled and not compiled_by(compiled.kitoken):
        yield note(
            "package",
            f"its tokenizer was compiled by kitoken {compiled.kitoken}, which is not the one "
            "installed: it takes a second or two to load",
            f"pip install kitoken=={compiled.kitoken}, or export the package again",
            folder,
        )


def _again(folder: Path) -> str:
    """How to have a package anew."""
    if is_built_in(folder):
        return "pip install --force-reinstall --no-deps harrier-edge"
    models = cache_folder() / "models"
    if folder.parents[2:3] != (models,):  # there may be fewer
        return f"export it again to {folder} with --overwrite"
    name = folder.parents[1].name.replace("--", "/")
    revision, precision = folder.parent.name, folder.name
    return (
        f"harrier-edge models remove {name} --precision {precision} --force, then harrier-edge "
        f"pull {name} --revision {revision} --precision {precision}"
    )
