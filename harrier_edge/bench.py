"""Which package of a model suits this machine, found by measuring them.

Each measurement is a process of its own, so that its memory and load time are the package's own
and only one package is in memory at a time. Packages take turns over a few rounds, so that a
machine that slows down slows all of them; medians are reported.
"""

from __future__ import annotations

import itertools
import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harrier_edge.bench_texts import DOCUMENTS, QUERIES
from harrier_edge.embedder import Embedder
from harrier_edge.errors import ModelError, UsageError
from harrier_edge.isolation import in_own_process
from harrier_edge.machine import memory
from harrier_edge.memos import recall, remember
from harrier_edge.package import (
    Package,
    find_package,
    installed_packages,
    open_package,
    sha256_of,
)
from harrier_edge.spec import FAITHFUL, MANIFEST_NAME, PackageManifest, read_table

logger = logging.getLogger(__name__)

Vectors = npt.NDArray[np.float32]
OnProgress = Callable[[str, int, int], None]

ROUNDS = 3
DOCUMENT_TOKENS = 256
DOCUMENTS_AT_ONCE = 4
_MEASURED = "measured"
QUERY_SHARE = 0.25  # of the time; documents have the rest

TIE = 0.05  # a difference in speed that nobody notices
BUSY = 0.3  # a spread from which the machine must have done other work


@dataclass(frozen=True)
class PackageFigures:
    """What was measured of one package; MB are 10**6 bytes, None stands for not known."""

    package: Path
    model: str
    precision: str
    tokens_per_second: float  # documents of about 256 tokens
    spread: float  # of that, between the rounds: highest less lowest, over the median
    query_ms: float  # one short query behind the standard instruction, median
    load_s: float  # until the first query is answered, files in the system's cache
    memory_mb: float | None  # resident after all that work
    peak_memory_mb: float | None
    disk_mb: float
    mean_cosine: float | None  # to the original model, as the manifest has it
    min_cosine: float | None
    here_mean_cosine: float | None  # to the fp32 package, measured here
    here_min_cosine: float | None

    @property
    def fidelity(self) -> float | None:
        """The mean cosine that counts: to the original, else to the fp32 package."""
        return self.here_mean_cosine if self.mean_cosine is None else self.mean_cosine


@dataclass(frozen=True)
class Failure:
    """A package that could not be measured."""

    package: Path
    precision: str
    error: str


@dataclass(frozen=True)
class Recommendation:
    """The package to take, or None, with the reason in words."""

    package: Path | None
    precision: str | None
    reason: str


@dataclass(frozen=True)
class _Sample:
    """One round of one package."""

    tokens_per_second: list[float]
    query_ms: list[float]
    load_s: float
    memory_mb: float | None
    peak_memory_mb: float | None
    vectors: Vectors | None


def recommend(packages: Sequence[PackageFigures]) -> Recommendation:
    """The fastest package whose mean cosine is FAITHFUL or more, or the most faithful if none is.

    Of those within TIE of the fastest it is the smallest. A package of unknown fidelity is never
    recommended. The help of the command and the README state this rule.
    """
    if not packages:
        return Recommendation(None, None, "no package could be measured")
    known = [package for package in packages if package.fidelity is not None]
    if not known:
        return Recommendation(
            None,
            None,
            "no package's fidelity is known; measure an fp32 package beside them, or export with "
            "harrier-edge[verify] installed",
        )
    faithful = [package for package in known if _fidelity(package) >= FAITHFUL]
    if not faithful:
        best = max(known, key=lambda package: (_fidelity(package), package.tokens_per_second))
        reason = f"none has a mean cosine of {FAITHFUL}; this is the most faithful"
        return Recommendation(best.package, best.precision, reason)
    fastest = max(faithful, key=lambda package: package.tokens_per_second)
    enough = fastest.tokens_per_second * (1 - TIE)
    best = min(
        (package for package in faithful if package.tokens_per_second >= enough),
        key=lambda package: (package.disk_mb, -package.tokens_per_second),
    )
    reason = f"the fastest with a mean cosine of {FAITHFUL} or more"
    if best is not fastest:
        reason = f"smaller than the fastest, {fastest.precision}, and within {TIE:.0%} of its speed"
    return Recommendation(best.package, best.precision, reason)


def choose_packages(models: Sequence[str], precisions: Sequence[str] | None = None) -> list[Path]:
    """The package folders that `models` stand for: folders, or names of models in the cache.

    `precisions` keeps those; None keeps all. Raises ModelNotFoundError where there is no such
    package, and UsageError for a precision that is not there or packages of several models.
    """
    folders = list(dict.fromkeys(f.resolve() for model in models for f in _folders(model)))
    by_precision: dict[str, list[Path]] = {}
    for folder in folders:
        by_precision.setdefault(_precision(folder), []).append(folder)
    for name in precisions or ():
        if name not in by_precision:
            raise UsageError(
                f"precision {name!r} is not among the packages of {', '.join(models)}; they have "
                f"{', '.join(by_precision)}. Name one of these, or make it with: "
                "harrier-edge export CHECKPOINT -o PACKAGE --precision PRECISION"
            )
    kept = [f for f in folders if precisions is None or _precision(f) in precisions]
    manifests = {folder: m for folder in kept if (m := _manifest(folder))}
    if len({manifest.fingerprint for manifest in manifests.values()}) > 1:
        seen = ", ".join(f"{f} ({m.fingerprint[:12]})" for f, m in manifests.items())
        raise UsageError(
            f"these packages are of different models, by their fingerprints: {seen}; wanted "
            "packages of one model. Name the folders of one."
        )
    return kept


def measure(
    folders: Sequence[Path], *, seconds: float = 10, on_progress: OnProgress | None = None
) -> tuple[list[PackageFigures], list[Failure]]:
    """Measure packages of one model, each for about `seconds` besides loading.

    A package that cannot be measured is a Failure, and the others go on. Raises UsageError where
    `seconds` is not above 0.
    """
    if not seconds > 0:
        raise UsageError(f"seconds is {seconds}; wanted a number above 0.")
    packages: dict[Path, Package] = {}
    failures: list[Failure] = []
    for folder in folders:
        # Reading every file first also puts all of them in the system's cache: loads compare.
        try:
            packages[folder] = open_package(folder)
        except ModelError as error:
            failures.append(Failure(folder, _precision(folder), str(error)))
    samples: dict[Path, list[_Sample]] = {folder: [] for folder in packages}
    turns = list(itertools.product(range(ROUNDS), packages))
    for done, (number, folder) in enumerate(turns):
        if on_progress:
            on_progress("measuring", done, len(turns))
        if folder not in samples:
            continue
        try:
            sample = in_own_process(_sample, folder, seconds / ROUNDS, number == 0)
        except ModelError as error:
            failures.append(Failure(folder, packages[folder].manifest.precision.name, str(error)))
            del samples[folder]
        else:
            samples[folder].append(sample)
    if on_progress:
        on_progress("measuring", len(turns), len(turns))
    figures = _with_cosines([(packages[f], rounds) for f, rounds in samples.items()])
    _tell_if_busy(figures)
    return figures, failures


@dataclass(frozen=True)
class NotedFigures:
    """What is remembered of a measurement; `manifest` is the sha256 of the manifest then."""

    tokens_per_second: float
    query_ms: float
    here_mean_cosine: float | None
    manifest: str


def note_figures(figures: PackageFigures) -> None:
    """Remember what was measured of a package on this machine."""
    noted = NotedFigures(
        figures.tokens_per_second,
        figures.query_ms,
        figures.here_mean_cosine,
        sha256_of(figures.package / MANIFEST_NAME),
    )
    remember(_MEASURED, figures.package, noted)


def noted_figures(folder: Path) -> NotedFigures | None:
    """What was measured of the package in `folder`; None if nothing was, or it was another then."""
    noted = recall(_MEASURED, folder, NotedFigures)
    return noted if noted and noted.manifest == sha256_of(folder / MANIFEST_NAME) else None


def _sample(folder: Path, seconds: float, with_vectors: bool) -> _Sample:
    """Load a package and work with it for about `seconds`."""
    start = time.perf_counter()
    embedder = Embedder(folder)
    embedder.encode_query(QUERIES[0])
    load_s = time.perf_counter() - start
    vectors = None
    if with_vectors:
        vectors = np.concatenate(
            [embedder.encode_document(DOCUMENTS), embedder.encode_query(QUERIES)]
        )
    queries = itertools.cycle(QUERIES)
    query_s = _timed(seconds * QUERY_SHARE, lambda: embedder.encode_query(next(queries)))
    documents = _documents(embedder)
    tokens = sum(embedder.count_tokens(documents))
    embedder.encode_document(documents[:1])  # at a new shape the first run is slower
    document_s = _timed(seconds * (1 - QUERY_SHARE), lambda: embedder.encode_document(documents))
    used = memory()
    return _Sample(
        [tokens / s for s in document_s],
        [s * 1000 for s in query_s],
        load_s,
        used.now_mb,
        used.peak_mb,
        vectors,
    )


def _timed(seconds: float, work: Callable[[], object]) -> list[float]:
    """How long each call took, for `seconds` all together, or one call if that is longer."""
    taken: list[float] = []
    while sum(taken) < seconds:
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return taken


def _documents(embedder: Embedder) -> list[str]:
    """Documents of about 256 tokens, each in another script."""
    wanted = min(DOCUMENT_TOKENS, embedder.max_tokens)
    documents = []
    for text in DOCUMENTS[:DOCUMENTS_AT_ONCE]:
        repeated = "\n".join([text] * 16)  # each has some 60 tokens, more or less by tokenizer
        (tokens,) = embedder.count_tokens([repeated])
        documents.append(repeated[: len(repeated) * wanted // tokens])
    return documents


def _with_cosines(measured: Sequence[tuple[Package, list[_Sample]]]) -> list[PackageFigures]:
    """The figures of each package, compared with the fp32 package if there is one."""
    reference = next((s[0].vectors for p, s in measured if _is_reference(p.manifest)), None)
    figures = []
    for package, rounds in measured:
        one = _figures(package, rounds)
        if reference is not None and (vectors := rounds[0].vectors) is not None:
            cosines = np.diagonal(Embedder.similarity(vectors, reference))
            one = replace(
                one,
                here_mean_cosine=round(float(cosines.mean()), 6),
                here_min_cosine=round(float(cosines.min()), 6),
            )
        figures.append(one)
    return figures


def _figures(package: Package, rounds: Sequence[_Sample]) -> PackageFigures:
    manifest = package.manifest
    parity = manifest.parity
    kept = [one.memory_mb for one in rounds if one.memory_mb is not None]
    peaks = [one.peak_memory_mb for one in rounds if one.peak_memory_mb is not None]
    speeds = [statistics.median(one.tokens_per_second) for one in rounds]
    speed = statistics.median(speeds)
    queries = [ms for one in rounds for ms in one.query_ms]
    return PackageFigures(
        package=package.folder,
        model=manifest.name,
        precision=manifest.precision.name,
        tokens_per_second=round(speed, 1),
        spread=round((max(speeds) - min(speeds)) / speed, 3),
        query_ms=round(statistics.median(queries), 2),
        load_s=round(statistics.median(one.load_s for one in rounds), 3),
        memory_mb=round(statistics.median(kept), 1) if kept else None,
        peak_memory_mb=round(statistics.median(peaks), 1) if peaks else None,
        disk_mb=round(sum(file.size for file in manifest.files.values()) / 1e6, 1),
        mean_cosine=parity.mean_cosine if parity else None,
        min_cosine=parity.min_cosine if parity else None,
        here_mean_cosine=None,
        here_min_cosine=None,
    )


def _tell_if_busy(figures: Sequence[PackageFigures]) -> None:
    worst = max(figures, key=lambda one: one.spread, default=None)
    if worst and worst.spread > BUSY:
        logger.warning(
            "the speed of %s differed by %.0f%% between rounds, so the machine was busy and the "
            "recommendation is not sure; measure again when it is idle, or with more --seconds",
            worst.precision,
            worst.spread * 100,
        )


def _fidelity(package: PackageFigures) -> float:
    return -1.0 if package.fidelity is None else package.fidelity


def _is_reference(manifest: PackageManifest) -> bool:
    """Whether nothing in the package is rounded; a table of embeddings alone may be."""
    return manifest.precision.name == "fp32" and manifest.precision.embedding == "float32"


def _folders(model: str) -> list[Path]:
    """The folder that `model` is, else all packages of that name."""
    is_folder = Path(model).expanduser().is_dir()
    # find_package answers for a single folder and says what to do where there is nothing.
    return ([] if is_folder else installed_packages(model)) or [find_package(model)]


def _precision(folder: Path) -> str:
    """The precision of a package; by its folder's name where the manifest cannot be read."""
    manifest = _manifest(folder)
    return manifest.precision.name if manifest else folder.name


def _manifest(folder: Path) -> PackageManifest | None:
    """A package's manifest; None where it is damaged, which measuring then reports."""
    try:
        return read_table(folder / MANIFEST_NAME, PackageManifest)
    except ModelError:
        return None
