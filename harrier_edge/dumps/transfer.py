"""An index to a dump and back: the model checked, and all written or nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from harrier_edge.admission import identity, same_model
from harrier_edge.dumps import jsonl, parquet
from harrier_edge.dumps.records import FORMAT, Header
from harrier_edge.errors import (
    ModelError,
    ModelMismatchError,
    ModelNotFoundError,
    StoreError,
    UsageError,
)
from harrier_edge.package import installed_packages, package_folder
from harrier_edge.store.connection import BESIDE, StoredModel
from harrier_edge.store.contents import read_parts
from harrier_edge.store.database import Database
from harrier_edge.store.rows import Part
from harrier_edge.store.sources import put_source, sources_of

FORMATS: dict[str, ModuleType] = {".jsonl": jsonl, ".parquet": parquet}
WRITTEN = 4096  # chunks that are committed together

OnProgress = Callable[[str, int, int], None]  # stage, done, of how many


def dump(database: Database, file: Path, on_progress: OnProgress) -> int:
    """Write all that an index holds to a new file; how many chunks. Others may go on writing.

    Raises UsageError where its name has no known ending, StoreError where it exists or cannot be
    written.
    """
    form = _form(file)
    if file.exists():
        raise StoreError(f"{file}: exists already. Choose a new file for the dump.")
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        with database.snapshot():
            header = Header(
                harrier_edge_dump=FORMAT,
                model=database.model,
                sources=tuple(sources_of(database)),
                documents=database.value("SELECT count(*) FROM documents"),
                chunks=database.value("SELECT count(*) FROM chunks"),
            )
            parts = _counted(read_parts(database), "dump", header.chunks, on_progress)
            form.write(partial, header, parts)
        partial.replace(file)
    except OSError as error:
        raise StoreError(f"{file}: cannot be written: {error}. Choose another place.") from error
    finally:
        partial.unlink(missing_ok=True)
    return header.chunks


def load(file: Path, path: Path, package: Path | None, on_progress: OnProgress) -> int:
    """Make a new index at `path` of a dump; how many chunks it has.

    `package` is the folder of the model that made it; None looks for it here. Nothing is embedded.

    Raises ModelMismatchError where `package` is of another model, ModelNotFoundError where none is
    found, StoreError where `path` exists or the dump is damaged, which leaves no index.
    """
    form = _form(file)
    if path.exists():
        raise StoreError(f"{path}: exists already. Choose a new file for the index with --db.")
    if not file.is_file():
        raise StoreError(f"{file}: no such file. Check the path.")
    header: Header = form.read_header(file)
    model = _model(file, header.model, package)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        database = Database(partial, create=model)
        try:
            for source in header.sources:
                put_source(database, source, os.sep)
            parts = _counted(form.read(file, header), "load", header.chunks, on_progress)
            for batch in _batches(parts):
                database.write(batch)
            counts = database.counts()
            database.settle()
        finally:
            database.close()
        seen, wanted = (counts.documents, counts.chunks), (header.documents, header.chunks)
        if seen != wanted:
            raise StoreError(
                f"{file}: has {seen[0]} documents with {seen[1]} chunks; its header says "
                f"{wanted[0]} and {wanted[1]}, so it was cut. Dump the index again."
            )
        partial.replace(path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error}. Choose another place.") from error
    finally:
        for end in ("", *BESIDE):
            partial.with_name(partial.name + end).unlink(missing_ok=True)
    return header.chunks


def _form(file: Path) -> ModuleType:
    form = FORMATS.get(file.suffix.lower())
    if form is None:
        raise UsageError(f"{file}: ends in {file.suffix!r}; wanted {' or '.join(FORMATS)}.")
    return form


def _model(file: Path, stored: StoredModel, package: Path | None) -> StoredModel:
    """The model of a dump, as it is installed here."""
    if package is None:
        package = _installed(stored)
    if package is None:
        raise ModelNotFoundError(
            f"{file}: is of {stored.name} in {stored.precision}, of which there is no package "
            "here. Pull or export it, then name its folder with --model."
        )
    found = identity(package)
    if not same_model(found, stored):
        raise ModelMismatchError(
            f"{file}: has vectors of {stored.name} in {stored.precision} (fingerprint "
            f"{stored.fingerprint}), not of {found.name} in {found.precision} (fingerprint "
            f"{found.fingerprint}). Load it with its own model, then change that with: "
            f"harrier-edge reembed -m {found.package}"
        )
    return replace(found, store=stored.store)


def _installed(stored: StoredModel) -> Path | None:
    for folder in (package_folder(stored.package), *installed_packages(stored.name)):
        try:
            if same_model(identity(folder), stored):
                return folder
        except ModelError:
            continue  # none there, or damaged
    return None


def _counted(
    parts: Iterable[Part], stage: str, total: int, on_progress: OnProgress
) -> Iterator[Part]:
    done = 0
    for part in parts:
        yield part
        done += len(part.chunks)
        on_progress(stage, done, total)


def _batches(parts: Iterable[Part]) -> Iterator[list[Part]]:
    batch: list[Part] = []
    size = 0
    for part in parts:
        batch.append(part)
        size += len(part.chunks) + 1
        if size >= WRITTEN:
            yield batch
            batch, size = [], 0
    yield batch
