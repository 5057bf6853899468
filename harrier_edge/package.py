"""Model packages on disk: found by name or path, and checked before anything is loaded."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path

from harrier_edge import models
from harrier_edge.errors import ModelNotFoundError, PackageError, UsageError
from harrier_edge.graphs import check_graph
from harrier_edge.memos import recall, remember
from harrier_edge.places import cache_folder
from harrier_edge.settings import read_settings
from harrier_edge.spec import (
    MANIFEST_NAME,
    READABLE_FORMATS,
    FileRecord,
    ManifestFormat,
    PackageManifest,
    as_table,
    read_table,
    read_toml,
)

MODEL = "model.onnx"
MODEL_DATA = "model.onnx_data"
QUERY = "query.onnx"  # the same graph, with a past; see harrier_export.past
TOKENIZER = "tokenizer.json"
COMPILED_TOKENIZER = "tokenizer.kitoken"
REQUIRED = (MODEL, TOKENIZER)
BUILT_IN = "kestrel"  # the model that every installation has, in int8
_VERIFIED = "verified"
_CLOCK_NS = 2_000_000_000  # the coarsest clock of a file system, FAT's

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Package:
    """A package whose every file is what its manifest says."""

    folder: Path
    manifest: PackageManifest

    @property
    def query(self) -> Path | None:
        """The graph that takes a past; None in packages that were made before it."""
        return self.folder / QUERY if QUERY in self.manifest.files else None

    @property
    def layers(self) -> list[Path]:
        """The graphs of single layers, in order; none in packages that were made before them."""
        names = takewhile(self.manifest.files.__contains__, map(layer_file, count()))
        return [self.folder / name for name in names]


def layer_file(layer: int) -> str:
    """The name of the graph of one layer, from 0."""
    return f"layer-{layer:02}.onnx"


def find_package(model: str | Path, precision: str | None = None) -> Path:
    """The folder of a package, given that folder or the name of a model, built in or in the cache.

    Raises ModelNotFoundError where there is none, where a folder's package is not in `precision`,
    or where a name has packages in several and none is given.
    """
    folder = Path(model).expanduser()
    if (folder / MANIFEST_NAME).exists():
        if precision is not None:
            _require_precision(folder, precision)
        return folder
    found = [path for path in installed_packages(str(model)) if precision in (None, path.name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ModelNotFoundError(
            f"model {model!r} is installed as {', '.join(str(p) for p in found)}; "
            "name one of these folders, or its precision."
        )
    if folder.is_dir():
        raise ModelNotFoundError(
            f"{folder}: has no {MANIFEST_NAME}, so it is not a model package. Make one with: "
            f"harrier-edge export {folder} -o PACKAGE"
        )
    wanted = f" in precision {precision!r}" if precision else ""
    raise ModelNotFoundError(
        f"no model package {str(model)!r}{wanted}: neither a folder with a {MANIFEST_NAME} nor a "
        f"model in {_models()}. Make one from a checkpoint with: "
        "harrier-edge export CHECKPOINT -o PACKAGE"
    )


def _require_precision(folder: Path, precision: str) -> None:
    seen = read_table(folder / MANIFEST_NAME, PackageManifest).precision.name
    if seen != precision:
        raise ModelNotFoundError(
            f"{folder}: is a package in {seen}, not in {precision}. Leave the precision out, or "
            "name the folder of another package."
        )


def package_name(folder: Path) -> str:
    """What an index calls a package: its absolute folder, or the name of the built-in one.

    That one's folder is the installation's, which moves with every environment.
    """
    if folder.resolve() == _built_in().resolve():
        return BUILT_IN
    return os.path.abspath(folder.expanduser())  # noqa: PTH100  links stay as they are named


def package_folder(name: str) -> Path:
    """The folder of a package, there or not, that an index calls `name` (see `package_name`)."""
    return _built_in() if name == BUILT_IN else Path(name)


def default_package(precision: str | None = None) -> Path:
    """The package for who names none: what `models default` chose, else the cache's only one.

    Where the cache has none, the built-in one, told in the log. `precision` takes the place of the
    chosen one. Raises ModelNotFoundError where what was chosen is gone, and UsageError where
    nothing was and the cache has several.
    """
    settings = read_settings()
    if settings.model:
        return find_package(settings.model, precision or settings.precision)
    pulled = [folder for folder in pulled_packages() if precision in (None, folder.name)]
    if len(pulled) == 1:
        return pulled[0]
    if pulled:
        raise UsageError(
            f"which model? There are {', '.join(map(str, pulled))}. Name one with --model or "
            "$HARRIER_EDGE_MODEL, in Python with model=, or for all commands with: harrier-edge "
            "models default MODEL"
        )
    _announce_built_in()
    return find_package(BUILT_IN, precision)


def installed_packages(name: str) -> list[Path]:
    """The folders of all packages of the model called `name`, sorted; [] for none.

    The built-in one comes first. A repository of the hub, "owner/name", is a name as well.
    """
    built_in = [_built_in()] if name == BUILT_IN else []
    name = name.replace("/", "--")
    return built_in + (_in_cache(name) if is_name(name) else [])


def all_packages() -> list[Path]:
    """The folders of the built-in package and of all in the cache, sorted."""
    return [_built_in(), *pulled_packages()]


def is_built_in(folder: Path) -> bool:
    """Whether a package came with the installation, so that it cannot be removed or pulled."""
    return folder.resolve() == _built_in().resolve()


def pulled_packages() -> list[Path]:
    """The folders of all packages in the cache, sorted."""
    return _in_cache("*")


def _in_cache(name: str) -> list[Path]:
    """The folders of the packages of a model, or of all with "*", but for half of one.

    While it is installed or removed, its folder has a name that begins with a dot.
    """
    found = (path.parent for path in _models().glob(f"{name}/*/*/{MANIFEST_NAME}"))
    return sorted(folder for folder in found if not folder.name.startswith("."))


def package_place(name: str, revision: str, precision: str) -> Path:
    """Where the cache keeps a package, there or not; `name` as in `installed_packages`."""
    return _models() / name.replace("/", "--") / revision / precision


def open_package(folder: Path, *, rehash: bool = False) -> Package:
    """Read the manifest, check size and sha256 of every file, and the graph's bounds.

    Files that were found sound once are read again only if the system says that they, or the
    manifest, were written to since, or with `rehash`; the cache folder remembers which.

    Raises SpecError where the manifest is malformed, and PackageError where a file is missing,
    changed or outside the folder, or the graph reaches out of it (see `check_graph`).
    """
    held = read_toml(folder / MANIFEST_NAME)
    written = as_table(held, ManifestFormat, folder / MANIFEST_NAME).format
    if written not in READABLE_FORMATS:
        raise PackageError(
            f"{folder}: its manifest has format {written}, this harrier-edge reads "
            f"{', '.join(map(str, READABLE_FORMATS))}. Export the model again, or install the "
            "matching release."
        )
    manifest = as_table(held, PackageManifest, folder / MANIFEST_NAME)
    for name in REQUIRED:
        if name not in manifest.files:
            raise PackageError(f"{folder}: {MANIFEST_NAME} lists no {name}. Export it again.")
    for name, record in manifest.files.items():
        path = folder / name
        if not is_name(name) or path.is_symlink():
            raise PackageError(
                f"{folder}: file {name!r} is not a plain file of the package. Export it again."
            )
        if not path.is_file():
            raise PackageError(f"{folder}: {name} is missing. Export or pull the package again.")
        size = path.stat().st_size
        if size != record.size:
            raise PackageError(
                f"{path}: has {size} bytes, the manifest says {record.size}. "
                "Export or pull the package again."
            )
    stamps = stamps_of(folder, [MANIFEST_NAME, *manifest.files])
    if rehash or recall(_VERIFIED, folder, Stamps) != stamps:
        for name, record in manifest.files.items():
            if (seen := sha256_of(folder / name)) != record.sha256:
                raise PackageError(
                    f"{folder / name}: its sha256 is {seen}, the manifest says {record.sha256}. "
                    "Export or pull the package again."
                )
        sizes = {name: record.size for name, record in manifest.files.items()}
        for name in sizes:
            if name.endswith(".onnx"):
                check_graph(folder / name, sizes)
        if _settled(stamps):
            remember(_VERIFIED, folder, stamps)
    return Package(folder, manifest)


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(2**20))  # read into again and again: new memory costs more
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


def fingerprint_of(digests: Mapping[str, str]) -> str:
    """sha256 over files, each by its path and sha256, in the order given."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in digests.items())
    return hashlib.sha256(lines.encode()).hexdigest()


def altered_file(digests: Mapping[str, str], published: Mapping[str, FileRecord]) -> str | None:
    """The first file, by its sha256, that is another than was published under its name."""
    return next(
        (
            name
            for name, digest in digests.items()
            if name in published and published[name].sha256 not in (None, digest)
        ),
        None,
    )


Stamps = dict[str, tuple[int, int, int, int]]


def stamps_of(folder: Path, names: Iterable[str]) -> Stamps:
    """What the system changes when a file is written to or replaced: inode, size and both times."""
    found = {name: (folder / name).stat() for name in names}
    return {
        name: (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        for name, stat in found.items()
    }


def _settled(stamps: Stamps) -> bool:
    """Whether no file is so new that the clock might miss a change."""
    newest = max(max(times) for _, _, *times in stamps.values())
    return time.time_ns() - newest >= _CLOCK_NS


@functools.cache
def _announce_built_in() -> None:
    """Once a process."""
    logger.warning(
        "no model is named or pulled, so the small built-in %r is used. For Harrier itself: "
        "harrier-edge pull harrier-270m",
        BUILT_IN,
    )


def _built_in() -> Path:
    # Wheels are unpacked when they are installed, so the package's data are files.
    return Path(models.__path__[0], BUILT_IN, "int8")


def _models() -> Path:
    return cache_folder() / "models"


def is_name(text: str) -> bool:
    """Whether `text` is one plain part of a path."""
    return text not in ("", ".", "..") and not set(text) & set('/\\:*?"<>|[]\0')
