"""`harrier-edge models`: the packages that are installed."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from harrier_edge.cli.common import to_json
from harrier_edge.errors import HarrierError, ModelNotFoundError, UsageError

Used = dict[Path, list[Path]]  # the folder of a package -> the indexes that it built

HELP = "list, verify or remove the packages in the cache, or choose the default"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "action", nargs="?", choices=["list", "verify", "remove", "default"], default="list"
    )
    parser.add_argument(
        "model",
        nargs="?",
        help="only this one (verify: all; remove: name one; default: what commands take that are "
        "given no --model; without it, what that is now)",
    )
    parser.add_argument("--precision", help="only this precision of it")
    parser.add_argument(
        "--force", action="store_true", help="remove also what the index was built with"
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def run(args: argparse.Namespace) -> int:
    """List, verify, remove or choose; 1 where a package is broken."""
    from harrier_edge.package import all_packages, installed_packages

    if args.action == "default":
        return _default(args)
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
    used, default = _used(), _chosen() if folders else None
    rows = [_row(folder, used, default, verify=args.action == "verify") for folder in folders]
    if args.json:
        print(to_json(rows))
    else:
        for row in rows:
            print(_line(row))
    if not args.model and len(rows) < 2 and not args.json:
        print("nothing else is installed. Get Harrier: harrier-edge pull harrier-270m")
    return 1 if any(row["error"] for row in rows) else 0


def _default(args: argparse.Namespace) -> int:
    """Choose the default, or tell it."""
    from harrier_edge.package import default_package, find_package
    from harrier_edge.settings import Settings, write_settings

    if args.model:
        folder = find_package(args.model, args.precision)
        is_folder = folder == Path(args.model).expanduser()
        write_settings(
            Settings(str(folder.resolve())) if is_folder else Settings(args.model, folder.name)
        )
    folder = default_package(args.precision)
    print(to_json({"default": folder}) if args.json else folder)
    return 0


def _chosen() -> Path | None:
    """The package that commands take by default, if there is one."""
    from harrier_edge.package import default_package

    try:
        return default_package().resolve()
    except HarrierError:
        return None


def _row(folder: Path, used: Used, default: Path | None, *, verify: bool) -> dict[str, Any]:
    """What is known of a package; with `verify` every byte is hashed again."""
    from harrier_edge.bench import noted_figures
    from harrier_edge.package import is_built_in, open_package
    from harrier_edge.spec import MANIFEST_NAME, PackageManifest, read_table

    row: dict[str, Any] = {
        "model": _model(folder),
        "precision": folder.name,
        "revision": "built in" if is_built_in(folder) else folder.parent.name,
        "folder": folder,
        "bytes": sum(file.stat().st_size for file in folder.iterdir()),
        "mean_cosine": None,
        "min_cosine": None,
        "dimension": None,
        "tokens_per_second": None,
        "query_ms": None,
        "here_mean_cosine": None,
        "default": folder.resolve() == default,
        "used_by": used.get(folder.resolve(), []),
        "error": None,
    }
    try:
        manifest = read_table(folder / MANIFEST_NAME, PackageManifest)
        row["dimension"] = manifest.dimension
        if manifest.parity:
            row["mean_cosine"] = manifest.parity.mean_cosine
            row["min_cosine"] = manifest.parity.min_cosine
        if measured := noted_figures(folder):
            row["tokens_per_second"] = measured.tokens_per_second
            row["query_ms"] = measured.query_ms
            row["here_mean_cosine"] = measured.here_mean_cosine
        if verify:
            open_package(folder, rehash=True)
    except HarrierError as error:
        row["error"] = str(error)
    return row


def _model(folder: Path) -> str:
    """The name by which commands take a package."""
    from harrier_edge.package import BUILT_IN, is_built_in

    return BUILT_IN if is_built_in(folder) else folder.parent.parent.name.replace("--", "/")


def _used() -> Used:
    """Which of the indexes that are known was built with which package."""
    from harrier_edge.index import Index, known_indexes
    from harrier_edge.package import package_folder

    used: Used = {}
    for file in known_indexes():
        try:
            with Index.open(file, create=False) as index:
                package = package_folder(index.status().model.package).resolve()
        except HarrierError:
            continue  # `doctor` tells what is wrong with it
        used.setdefault(package, []).append(file)
    return used


def _line(row: dict[str, Any]) -> str:
    """A package for people: what it is, how faithful and fast, and who needs it."""
    cosine = row["mean_cosine"]
    if cosine is None:
        cosine = row["here_mean_cosine"]
    speed = "speed not measured"
    if row["tokens_per_second"] is not None:
        speed = f"{row['tokens_per_second']:.0f} tokens/s, {row['query_ms']:.1f} ms a query"
    parts = [
        row["model"],
        row["precision"],
        f"{row['bytes'] / 1e6:.0f} MB",
        "cosine not measured" if cosine is None else f"cosine {cosine:.4f}",
        speed,
        row["revision"][:12],
        *(["the default"] if row["default"] else []),
    ]
    below = [f"used by {file}" for file in row["used_by"]]
    below += [f"broken: {row['error']}"] if row["error"] else []
    return "\n".join(["  ".join(parts), *(f"  {line}" for line in below)])


def _remove(folders: list[Path], args: argparse.Namespace) -> int:
    from harrier_edge.package import is_built_in
    from harrier_edge.packing import remove_packed
    from harrier_edge.settings import Settings, write_settings

    if any(map(is_built_in, folders)):
        raise UsageError(f"{folders[0]} comes with harrier-edge and cannot be removed.")
    used, default = _used(), _chosen() if folders else None
    for folder in folders:
        if (users := used.get(folder.resolve())) and not args.force:
            raise UsageError(
                f"{folder} made the index {', '.join(map(str, users))}, which could not be "
                "searched without it. Say --force to remove it all the same."
            )
    if default in [folder.resolve() for folder in folders]:
        write_settings(Settings())
    for folder in folders:
        remove_packed(folder)
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
