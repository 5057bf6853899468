"""Which model may open an index: the one that built it, or to query a faithful other precision."""

from __future__ import annotations

import logging
from pathlib import Path

from harrier_edge.embedder import Embedder
from harrier_edge.encoding import TextEncoder, is_url
from harrier_edge.errors import ModelMismatchError
from harrier_edge.package import find_package, package_folder, package_name
from harrier_edge.spec import FAITHFUL, MANIFEST_NAME, PackageManifest, read_table
from harrier_edge.store.connection import StoredModel

_MUST_AGREE = ("fingerprint", "dimension", "precision")

logger = logging.getLogger(__name__)


def find_model(model: str | Path | TextEncoder, precision: str | None = None) -> Path | TextEncoder:
    """A package's folder by that or by a model's name, or by a URL a server's model.

    Raises what `find_package` and `RemoteEmbedder` raise.
    """
    if isinstance(model, TextEncoder):
        return model
    return _remote(str(model)) if is_url(model) else find_package(model, precision)


def stored_model(stored: StoredModel) -> Path | TextEncoder:
    """The model that an index names, as `find_model` gives it, whether its folder is there or not.

    Raises what `RemoteEmbedder` raises.
    """
    package = stored.package
    return _remote(package) if is_url(package) else package_folder(package)


def _remote(url: str) -> TextEncoder:
    from harrier_edge.remote import RemoteEmbedder  # for models elsewhere alone

    return RemoteEmbedder(url)


def loaded(model: Path | TextEncoder) -> TextEncoder:
    """A model of `find_model` or `stored_model`, ready. Raises what `Embedder` raises."""
    return Embedder(model) if isinstance(model, Path) else model


def identity(model: TextEncoder | Path) -> StoredModel:
    """What an index stores of a model, given loaded or as its package's folder.

    Raises SpecError where the folder's manifest is malformed.
    """
    if isinstance(model, Path):
        return _of(read_table(model / MANIFEST_NAME, PackageManifest), model)
    if isinstance(model, Embedder):
        return _of(model.manifest, model.package)
    from harrier_edge.remote import RemoteEmbedder  # likewise

    if isinstance(model, RemoteEmbedder):
        return StoredModel(
            name=model.name,
            fingerprint=model.fingerprint,
            precision=model.precision,
            dimension=model.dimension,
            package=model.url,
            fidelity=model.fidelity,
        )
    raise TypeError(f"{model!r} is neither an Embedder nor a RemoteEmbedder")


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
