"""What a package tells of itself: versions, licence, and a manifest that lists all its files."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
import tomli_w

from harrier_edge.package import sha256_of
from harrier_edge.spec import MANIFEST_NAME, PackageFile, PackageManifest
from harrier_export.sample import take_sample

LICENCE_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE")
NO_LICENCE = "see the checkpoint"
_TOOLS = ("harrier-edge", "onnx", "onnxruntime", "numpy")


def tool_versions(others: Sequence[str] = ()) -> dict[str, str]:
    """The versions of what makes a package, `others` included, for its manifest."""
    return {name: importlib.metadata.version(name) for name in (*_TOOLS, *others)}


def copy_files(source: Path, folder: Path, names: Sequence[str] = LICENCE_FILES) -> None:
    """Copy those files `names` that `source` has, by default its licence."""
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def finish_package(
    folder: Path, manifest: PackageManifest, known: dict[str, str], *, sample: bool
) -> PackageManifest:
    """Write the manifest, which lists all other files of `folder`; returns it.

    `known` are digests that were made while writing. With `sample` the package is run once, for
    the text by which `harrier-edge doctor` tells whether it still gives the same vector.
    """
    (folder / MANIFEST_NAME).unlink(missing_ok=True)  # an interrupted export may have left one
    files = {
        path.name: PackageFile(
            sha256=known.get(path.name) or sha256_of(path), size=path.stat().st_size
        )
        for path in sorted(folder.iterdir())
    }
    manifest = msgspec.structs.replace(manifest, files=files)
    write_manifest(folder, manifest)
    if sample:
        manifest = msgspec.structs.replace(manifest, sample=take_sample(folder))
        write_manifest(folder, manifest)
    return manifest


def write_manifest(folder: Path, manifest: PackageManifest) -> None:
    """Write the manifest of the package in `folder`."""
    (folder / MANIFEST_NAME).write_text(tomli_w.dumps(msgspec.to_builtins(manifest)), "utf-8")
