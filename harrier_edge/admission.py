"""Which model may open an index: the one that built it, or to query a faithful other precision."""

from __future__ import annotations

import logging
from pathlib import Path

from harrier_edge.embedder import Embedder
from harrier_edge.errors import ModelMismatchError
from harrier_edge.package import package_name
from harrier_edge.spec import FAITHFUL, MANIFEST_NAME, PackageManifest, read_table
from harrier_edge.store.connection import StoredModel

_MUST_AGREE = ("fingerprint", "dimension", "precision")

logger = logging.getLogger(__name__)


def identity(model: Embedder | Path) -> StoredModel:
    """What an index stores of a model, given loaded or as its package's folder.

    Raises SpecError where the folder's manifest is malformed.
    """
    if isinstance(model, Embedder):
        return _of(model.manifest, model.package)
    return _of(read_table(model / MANIFEST_NAME, PackageManifest), model)


def _of(manifest: PackageManifest, package: Path) -> StoredModel:
    return StoredModel(
        name=manifest.name,
        fingerprint=manifest.fingerprint,
        precision=manifest.precision.name,
        dimension=manifest.dimension,
        package=package_name(package),
        fidelity=manifest.parity.mean_cosine if manifest.parity else None,
    )


def same_model(one: StoredModel, other: StoredModel) -> bool:
    """Whether two models give the same vectors."""
    return all(getattr(one, what) == getattr(other, what) for what in _MUST_AGREE)


def may_query(wanted: StoredModel, stored: StoredModel) -> bool:
    """Whether this is the same model in another precision, and both are measured as faithful."""
    both = (wanted, stored)
    return (
        (wanted.fingerprint, wanted.dimension) == (stored.fingerprint, stored.dimension)
        and wanted.precision != stored.precision
        and all(one.fidelity is not None and one.fidelity >= FAITHFUL for one in both)
    )


def admit(path: Path, stored: StoredModel, wanted: StoredModel) -> StoredModel | None:
    """Let a model in: None where it is the one that built the index at `path`.

    One that may only query is returned, and that is said. Raises ModelMismatchError for any other.
    """
    if not may_query(wanted, stored):
        require_same(path, stored, wanted)
        return None
    logger.warning(
        "%s: was built in %s; queries are embedded in %s (mean cosines to the original: "
        "%.4f, %.4f)",
        path,
        stored.precision,
        wanted.precision,
        stored.fidelity,
        wanted.fidelity,
    )
    return wanted


def require_same(path: Path, stored: StoredModel, wanted: StoredModel) -> None:
    """Raise ModelMismatchError where the index at `path` holds vectors of another model."""
    for what in _MUST_AGREE:
        seen, needed = getattr(wanted, what), getattr(stored, what)
        if seen != needed:
            raise ModelMismatchError(
                f"{path}: was built by {stored.name} in {stored.precision} ({what} {needed}), "
                f"not by {wanted.name} in {wanted.precision} ({what} {seen}). Open it with the "
                f"package {stored.package}, or change the index with: "
                f"harrier-edge reembed --db {path} -m {wanted.package}"
            )
