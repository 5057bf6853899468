"""A package as one file, for machines that never see a network.

The file is a plain tar, manifest first: the same package gives the same bytes everywhere. It is
trusted with nothing: only files that the manifest lists are written, under plain names, and no
byte more than it says.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec

from harrier_edge.errors import PackageError, UsageError
from harrier_edge.isolation import python_command
from harrier_edge.package import is_name, open_package, package_place
from harrier_edge.places import lacking_space
from harrier_edge.spec import MANIFEST_NAME, PackageManifest

LARGEST_MANIFEST = 2**20  # bytes
_MEMBER = 1 << 20  # bytes copied at once

PROBE_S = 600  # the largest model on a slow disk
# One text goes through another graph than several at once, and one with SentencePiece's sign for a
# space through tokenizer.json, not through what was compiled from it. The memory that the user lets
# a model take says nothing about a package.
_PROBE = """
import os
os.environ.pop("HARRIER_EDGE_MEMORY", None)
from harrier_edge import Embedder
embedder = Embedder(sys.argv[1])
embedder.encode_document("harrier")
embedder.encode_document(["harrier", "\\u2581kestrel"])
"""

OnBytes = Callable[[int, int], None]


def write_archive(folder: Path, target: Path, on_bytes: OnBytes = lambda done, total: None) -> None:
    """Write the package in `folder`, checked first, to the new file `target`.

    Raises PackageError or SpecError for a package that is not sound, and UsageError where `target`
    exists or cannot be written.
    """
    manifest = open_package(folder).manifest
    if target.exists():
        raise UsageError(f"{target}: exists already. Name another file.")
    names = [MANIFEST_NAME, *sorted(manifest.files)]
    total = sum((folder / name).stat().st_size for name in names)
    part = target.with_name(f".{target.name}.part")
    done = 0
    try:
        with tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as archive:
            for name in names:
                with (folder / name).open("rb") as file:
                    archive.addfile(_member(name, (folder / name).stat().st_size), file)
                done += (folder / name).stat().st_size
                on_bytes(done, total)
        part.replace(target)
    except OSError as error:
        raise UsageError(
            f"{target}: cannot be written: {error.strerror}. Choose another place."
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _member(name: str, size: int) -> tarfile.TarInfo:
    """A header that tells nothing of this machine or of the time."""
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = 0o644
    return member


def install(source: Path, on_bytes: OnBytes = lambda done, total: None) -> Path:
    """Put a package, a folder or an archive of one, into the cache and return its place.

    A package that is there already is replaced. Raises PackageError or SpecError where `source`
    is not a sound package, and UsageError where it cannot be read; nothing is left behind then.
    """
    try:
        if source.is_dir():
            manifest = open_package(source).manifest
            with _new(manifest) as (folder, place):
                for name in (MANIFEST_NAME, *manifest.files):
                    shutil.copyfile(source / name, folder / name, follow_symlinks=False)
                open_package(folder)
                probe(folder)
            return place
        with tarfile.open(source, "r:") as archive:
            members = iter(archive)
            first, data = _next(archive, members, source)
            if first.name != MANIFEST_NAME or first.size > LARGEST_MANIFEST:
                raise PackageError(
                    f"{source}: begins with {first.name!r} of {first.size} bytes; wanted a "
                    f"{MANIFEST_NAME} of at most {LARGEST_MANIFEST}. Make archives with: "
                    "harrier-edge package MODEL -o FILE"
                )
            text = data.read()
            manifest = _manifest(text, source)
            with _new(manifest) as (folder, place):
                (folder / MANIFEST_NAME).write_bytes(text)
                _extract(archive, members, source, manifest, folder, on_bytes)
                open_package(folder)
                probe(folder)
            return place
    except tarfile.TarError as error:
        raise PackageError(
            f"{source}: is not a package or an archive of one ({error}). Make archives with: "
            "harrier-edge package MODEL -o FILE"
        ) from error
    except OSError as error:
        raise UsageError(f"{source}: cannot be taken in: {error.strerror or error}.") from error


def probe(folder: Path) -> None:
    """Load a package of unknown origin and embed texts in a process of its own, the first time.

    Whatever its graph does to ONNX Runtime, this process goes on. Raises PackageError where the
    other one fails, crashes or does not end.
    """
    try:
        done = subprocess.run(
            python_command(_PROBE, str(folder)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROBE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise PackageError(
            f"{folder}: does not embed a text in {PROBE_S} s. It is not taken."
        ) from error
    if done.returncode:
        told = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["no message"]
        how = (
            f"exit code {done.returncode}" if done.returncode > 0 else f"signal {-done.returncode}"
        )
        raise PackageError(
            f"{folder}: fails when it is loaded ({how}: {told[0]}). It is not taken."
        )


def _manifest(text: bytes, source: Path) -> PackageManifest:
    try:
        return msgspec.toml.decode(text, type=PackageManifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PackageError(f"{source}: its {MANIFEST_NAME}: {error}.") from error


def _extract(
    archive: tarfile.TarFile,
    members: Iterator[tarfile.TarInfo],
    source: Path,
    manifest: PackageManifest,
    folder: Path,
    on_bytes: OnBytes,
) -> None:
    missing = dict(manifest.files)
    total = sum(record.size for record in missing.values())
    if lacking := lacking_space(folder, total):
        raise UsageError(lacking)
    done = 0
    while missing:
        member, data = _next(archive, members, source)
        record = missing.pop(member.name, None)
        if record is None or not is_name(member.name) or member.size != record.size:
            raise PackageError(
                f"{source}: holds {member.name!r} of {member.size} bytes, which its "
                f"{MANIFEST_NAME} does not list so. Nothing was taken."
            )
        with (folder / member.name).open("xb") as file:
            shutil.copyfileobj(data, file, _MEMBER)
        done += member.size
        on_bytes(done, total)


def _next(
    archive: tarfile.TarFile, members: Iterator[tarfile.TarInfo], source: Path
) -> tuple[tarfile.TarInfo, IO[bytes]]:
    """The next member, which has to be a plain file."""
    member = next(members, None)
    if member is None:
        raise PackageError(f"{source}: ends too early. Copy or make it again.")
    plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
    data = archive.extractfile(member) if plain else None
    if data is None:
        raise PackageError(
            f"{source}: holds {member.name!r}, which is not a plain file. Nothing was taken."
        )
    return member, data


@contextmanager
def _new(manifest: PackageManifest) -> Iterator[tuple[Path, Path]]:
    """A new folder that becomes the package's place in the cache if the block ends well."""
    revision = manifest.revision or manifest.fingerprint[:40]
    name = manifest.name.replace("/", "--")
    for part in (name, revision, manifest.precision.name):
        if not is_name(part) or part.startswith("."):
            raise PackageError(f"the manifest says {part!r} where a plain name is wanted.")
    place = package_place(name, revision, manifest.precision.name)
    place.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{place.name}.partial-", dir=place.parent))
    try:
        yield folder, place
        folder.chmod(0o755)
        replaced = folder.with_name(f"{folder.name}.replaced")
        if place.exists():
            place.replace(replaced)
        folder.replace(place)
        shutil.rmtree(replaced, ignore_errors=True)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
