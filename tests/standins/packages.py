"""Packages exported from stand-ins, cached until the exporter or the checkpoint changes."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import harrier_export
from harrier_export import ExportOptions, export
from standins.folder import cache

Exported = Callable[[Path, str], Path]  # checkpoint and precision -> package; a fixture
DIGEST = 12  # hexadecimal digits of the exporter's hash in a package's name


def cached_package(checkpoint: Path, precision: str) -> Path:
    """`checkpoint` in `precision`, unverified: the tests measure for themselves."""
    name = f"{checkpoint.name}-{precision}"
    target = cache() / "packages" / f"{name}-{_exporter()}"
    if not (target / "manifest.toml").exists():
        # Of this precision alone: "int8-block" begins with "int8" too.
        for old in target.parent.glob(f"{name}-{'[0-9a-f]' * DIGEST}"):
            shutil.rmtree(old)
        export(checkpoint, target, ExportOptions(precision=precision, verify=False))
    return target


def _exporter() -> str:
    """A short name for the exporter's code as it is now."""
    (folder,) = harrier_export.__path__
    digest = hashlib.sha256()
    for path in sorted(Path(folder).rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:DIGEST]
