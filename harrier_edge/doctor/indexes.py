"""Every index that is known: its file, its tables, its sources, and whether its model agrees."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from harrier_edge.doctor.finding import Finding, broken, note, ok, told
from harrier_edge.documents.chunk import embedded_text
from harrier_edge.embedder import Embedder
from harrier_edge.encoding import is_url
from harrier_edge.errors import ModelError, StoreError
from harrier_edge.index import known_indexes
from harrier_edge.isolation import in_own_process
from harrier_edge.machine import available_cores
from harrier_edge.package import all_packages, package_folder
from harrier_edge.spec import MANIFEST_NAME, PackageManifest, read_table
from harrier_edge.store.connection import StoredModel, network_file_system
from harrier_edge.store.database import Database
from harrier_edge.store.exchange import is_unfinished
from harrier_edge.store.sources import sources_of
from harrier_edge.store.upkeep import check, examples
from harrier_edge.vectors import Vectors

AGREES = 0.99  # of a stored vector and the same text embedded here; int8 costs under a thousandth
SHOWN = 3


def examine(index: Path | None) -> Iterator[Finding]:
    """The index at `index`, or all that are known."""
    paths = _paths(index)
    if not paths:
        yield ok("index", "there is none yet")
    for path in paths:
        yield from _index(path)


def packages_of(index: Path | None) -> list[Path]:
    """The package folders that the indexes were built with, there or not."""
    found = []
    for path in _paths(index):
        try:
            database = Database(path)
        except StoreError:
            continue  # told where indexes are examined
        if not is_url(database.model.package):
            found.append(package_folder(database.model.package))
        database.close()
    return found


def _paths(index: Path | None) -> list[Path]:
    return [index.absolute()] if index else known_indexes()


def _index(path: Path) -> Iterator[Finding]:
    try:
        database = Database(path)
    except StoreError as error:
        yield told("index", error, path)
        return
    try:
        found = list(_opened(path, database))
    except StoreError as error:
        found = [told("index", error, path)]
    finally:
        database.close()
    yield from found


def _opened(path: Path, database: Database) -> Iterator[Finding]:
    model, sources = database.model, sources_of(database)
    faults = check(database)
    if faults:
        more = f"; and {len(faults) - SHOWN} faults more" if len(faults) > SHOWN else ""
        again = " ".join(source.path for source in sources) or "PATH"
        yield broken(
            "index",
            f"is damaged: {'; '.join(faults[:SHOWN])}{more}",
            f"restore a backup, or move it away and: harrier-edge add --db {path} "
            f"-m {model.package} {again}",
            path,
        )
        return
    yield from _model(path, database)
    if database.read_only:
        yield note("index", "cannot be written, so it is only read", f"chmod u+w {path}", path)
    if kind := network_file_system(path):
        yield note(
            "index", f"is on a network file system ({kind}), slower there", "move it, or --db", path
        )
    if is_unfinished(database):
        yield note(
            "index",
            "a change of its model was interrupted; the old one still serves",
            f"harrier-edge reembed --db {path} with the same --model goes on",
            path,
        )
    if incomplete := database.counts().incomplete:
        cure = f"harrier-edge update --db {path}"
        yield note("index", f"{incomplete} documents are not finished", cure, path)
    for source in sources:
        if not Path(source.path).exists():
            yield note(
                "index",
                f"its source {source.path} is gone; what is stored of it stays",
                f"bring it back, or: harrier-edge remove --db {path} {source.path}",
                path,
            )
        elif source.failed:
            first, reason = next(iter(source.failed.items()))
            yield note(
                "index",
                f"{len(source.failed)} files could not be read, such as {first}: {reason}",
                f"harrier-edge status --db {path} lists them; then update",
                path,
            )


def _model(path: Path, database: Database) -> Iterator[Finding]:
    """Whether the package is there, is the one, and gives the vectors that are stored.

    Where nothing is compared, that is said.
    """
    model = database.model
    if is_url(model.package):
        why = f"{model.name} of {model.package}, which is not asked here"
        yield ok("index", f"its tables agree; its vectors are those of {why}", path)
        return
    folder = package_folder(model.package)
    named = f"{model.name} in {model.precision}"
    if not (folder / MANIFEST_NAME).exists():
        yield broken("index", f"its package {folder}, {named}, is gone", _other(path, model), path)
        return
    try:
        manifest = read_table(folder / MANIFEST_NAME, PackageManifest)
    except ModelError as error:
        yield _not_compared(path, folder, error)
        return
    if not _is_of(manifest, model):
        yield broken(
            "index",
            f"was built by {named}, and its package {folder} is another model now: "
            f"{manifest.name} in {manifest.precision.name}",
            _other(path, model),
            path,
        )
        return
    texts, stored = examples(database)
    if not texts:
        yield ok("index", f"its tables agree; it has no vectors yet, of {named}", path)
        return
    try:
        vectors: Vectors = in_own_process(
            _embed, folder, [embedded_text(heading, text) for heading, text in texts]
        )
    except ModelError as error:
        yield _not_compared(path, folder, error)
        return
    cosine = float((vectors * stored).sum(axis=1).min())
    if not cosine >= AGREES:
        yield broken(
            "index",
            f"a stored vector has a cosine of {cosine:.4f} to what {folder} makes of the same "
            f"text here; wanted {AGREES} or more",
            f"if the package is found sound, move the index away and add its documents again: "
            f"harrier-edge add --db {path} -m {folder} PATH",
            path,
        )
        return
    yield ok("index", f"its tables agree, and its vectors are those of {named}", path)


def _not_compared(path: Path, folder: Path, error: ModelError) -> Finding:
    return note(
        "index",
        f"its tables agree, but nothing was compared with its vectors: {error}",
        f"cure the package {folder}, then: harrier-edge doctor --db {path}",
        path,
    )


def loaded(folder: Path) -> Embedder:
    """A package, for a process of its own that examines it, whatever the settings say."""
    os.environ.pop("HARRIER_EDGE_MEMORY", None)
    return Embedder(folder, threads=available_cores())


def _embed(folder: Path, texts: list[str]) -> Vectors:
    return loaded(folder).encode_document(texts)


def _is_of(manifest: PackageManifest, model: StoredModel) -> bool:
    seen = (manifest.fingerprint, manifest.precision.name, manifest.dimension)
    return seen == (model.fingerprint, model.precision, model.dimension)


def _other(path: Path, model: StoredModel) -> str:
    """What to do without the package that an index was built with."""
    for folder in all_packages():
        try:
            manifest = read_table(folder / MANIFEST_NAME, PackageManifest)
        except ModelError:
            continue
        if _is_of(manifest, model):
            return f"it is also in {folder}: harrier-edge add --db {path} -m {folder} PATH"
    return (
        f"pull or export {model.name} in {model.precision} again to {model.package}, or take "
        f"another model: harrier-edge reembed --db {path} -m MODEL"
    )
