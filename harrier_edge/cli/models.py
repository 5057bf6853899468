"""`harrier-edge models`: the packages that are installed."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from harrier_edge.cli.common import to_json
from harrier_edge.errors import HarrierError, ModelNotFoundError, UsageError

Used = tuple[Path, Path]  # an index, and the folder of its package

HELP = "list, verify or remove the packages in the cache"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("action", nargs="?", choices=["list", "verify", "remove"], default="list")
    parser.add_argument("model", nargs="?", help="only this one (verify: all; remove: name one)")
    parser.add_argument("--precision", help="only this precision of it")
    parser.add_argument(
        "--force", action="store_true", help="remove also what the index was built with"
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def run(args: argparse.Namespace) -> int:
    """List, verify or remove; 1 where a package is broken."""
    from harrier_edge.package import all_packages, installed_packages

    if args.action == "remove" and not args.model:
        raise UsageError("which model? Name one, as in: harrier-edge models remove harrier-270m")
    found = installed_packages(args.model) if args.model else all_packages()
    folders = [folder for folder in found if args.precision in (None, folder.name)]
    if args.model and not folders:
        raise ModelNotFoundError(
            f"no package of {args.model!r} in {args.precision or 'any precision'} is installed. "
            "See: harrier-edge models"
        )
    if args.action == "remove":
        return _remove(folders, args)
    used = _used()
    rows = [_row(folder, used, verify=args.action == "verify") for folder in folders]
    if args.json:
        print(to_json(rows))
    else:
        for row in rows:
            print(_line(row))
    if not rows and not args.json:
        print("no model is installed. Get one with: harrier-edge pull harrier-270m")
    return 1 if any(row["error"] for row in rows) else 0


def _row(folder: Path, used: Used | None, *, verify: bool) -> dict[str, Any]:
    """What is known of a package; with `verify` every byte is hashed again."""
    from harrier_edge.package import open_package
    from harrier_edge.spec import MANIFEST_NAME, PackageManifest, read_table

    row: dict[str, Any] = {
        "model": folder.parent.parent.name.replace("--", "/"),
        "precision": folder.name,
        "revision": folder.parent.name,
        "folder": folder,
        "bytes": sum(file.stat().st_size for file in folder.iterdir()),
        "mean_cosine": None,
        "min_cosine": None,
        "dimension": None,
        "used_by": _users(folder, used),
        "error": None,
    }
    try:
        manifest = read_table(folder / MANIFEST_NAME, PackageManifest)
        row["dimension"] = manifest.dimension
        if manifest.parity:
            row["mean_cosine"] = manifest.parity.mean_cosine
            row["min_cosine"] = manifest.parity.min_cosine
        if verify:
            open_package(folder, rehash=True)
    except HarrierError as error:
        row["error"] = str(error)
    return row


def _used() -> Used | None:
    """The index of this place and the package that it was built with, if there is one."""
    from harrier_edge.index import Index
    from harrier_edge.places import index_file

    file = index_file()
    if not file.exists():
        return None
    try:
        with Index.open(file, create=False) as index:
            return file, Path(index.status().model.package)
    except HarrierError:
        return None  # `status` tells what is wrong with it


def _users(folder: Path, used: Used | None) -> list[str]:
    """The index of this place, where it was built with this package."""
    return [str(used[0])] if used and used[1] == folder.resolve() else []


def _line(row: dict[str, Any]) -> str:
    cosine = "not measured" if row["mean_cosine"] is None else f"{row['mean_cosine']:.4f}"
    used = f"  used by {row['used_by'][0]}" if row["used_by"] else ""
    return (
        f"{row['model']}  {row['precision']}  {row['bytes'] / 1e6:.0f} MB  cosine {cosine}  "
        f"{row['revision'][:12]}{used}" + (f"\n  broken: {row['error']}" if row["error"] else "")
    )


def _remove(folders: list[Path], args: argparse.Namespace) -> int:
    used = _used()
    for folder in folders:
        if (users := _users(folder, used)) and not args.force:
            raise UsageError(
                f"{folder} made the index {users[0]}, which could not be searched without it. "
                "Say --force to remove it all the same."
            )
    for folder in folders:
        gone = folder.with_name(f".{folder.name}.removed")
        folder.replace(gone)  # at once, so that nobody finds half a package
        shutil.rmtree(gone)
        for above in (folder.parent, folder.parent.parent):
            if not any(above.iterdir()):
                above.rmdir()
        print(f"removed {folder}", file=sys.stderr if args.json else sys.stdout)
    if args.json:
        print(to_json({"removed": folders}))
    return 0
