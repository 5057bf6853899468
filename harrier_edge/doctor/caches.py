"""What interrupted commands have left in the cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harrier_edge.doctor.finding import Finding, note, ok
from harrier_edge.hub import MARKER
from harrier_edge.packing import packed_folders
from harrier_edge.places import cache_folder
from harrier_edge.spec import MANIFEST_NAME


def examine(index: Path | None) -> Iterator[Finding]:
    """Halves of downloads and of packages, checkpoints that were kept, and idle packed weights."""
    found = [*_downloads(), *_halves(), *_packed()]
    yield from found
    if not found:
        yield ok("cache", "nothing is left over", cache_folder())


def _downloads() -> Iterator[Finding]:
    for folder in sorted(cache_folder().glob("downloads/*/*")):
        if not folder.is_dir():
            continue  # a lock
        name, revision = folder.parent.name.replace("--", "/"), folder.name
        if (folder / MARKER).exists():
            yield note(
                "cache",
                f"the checkpoint of {name} is kept, {_megabytes(folder)}",
                f"rm -r {folder}, unless other precisions are to be made of it",
                folder,
            )
        else:
            yield note(
                "cache",
                f"a download of {name} was interrupted at {_megabytes(folder)}",
                f"harrier-edge pull {name} --revision {revision} goes on, or: rm -r {folder}",
                folder,
            )


def _halves() -> Iterator[Finding]:
    for folder in sorted(cache_folder().glob("models/*/*/*")):
        if folder.name.startswith(".") or not (folder / MANIFEST_NAME).exists():
            yield note(
                "cache",
                f"half a package, {_megabytes(folder)}, left by a command that was interrupted",
                f"rm -r {folder}",
                folder,
            )


def _packed() -> Iterator[Finding]:
    for packed in packed_folders():
        if not packed.is_needed:
            yield note(
                "cache",
                f"{packed.bytes / 1e6:.1f} MB of packed weights, of a package that is gone or "
                "changed, or for another processor or onnxruntime",
                f"rm -r {packed.folder}",
                packed.folder,
            )


def _megabytes(folder: Path) -> str:
    size = sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
    return f"{size / 1e6:.1f} MB"
