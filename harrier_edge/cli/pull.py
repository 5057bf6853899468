"""`harrier-edge pull`: a model from the hub into the cache, as a package."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harrier_edge.cli.common import Progress, to_json
from harrier_edge.cli.export import exporter, verify_option
from harrier_edge.errors import ModelError, UsageError
from harrier_edge.foreign import FLOAT, choose_graph, foreign_files

if TYPE_CHECKING:
    from harrier_edge.hub import Download

HELP = "download a model, check it, and make a package of it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "model",
        nargs="?",
        help="a model's name (harrier-270m, …), or a repository of the hub, OWNER/NAME",
    )
    parser.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="PATH",
        help="take a package from this folder or archive instead; no network is needed",
    )
    parser.add_argument(
        "--revision", help="commit, branch or tag (default: the one a named model is pinned to)"
    )
    parser.add_argument(
        "--precision",
        help="fp32, int8 (default, the measured best), int8-block or int4; of a BitNet fp32, int8 "
        "or ternary",
    )
    parser.add_argument(
        "--keep-checkpoint", action="store_true", help="keep the download, for other precisions"
    )
    parser.add_argument(
        "--via",
        choices=["optimum"],
        help="take any sentence-transformers model: optimum traces it (fp32 and int8)",
    )
    verify_option(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Download or take in, export and report where the package is."""
    from harrier_edge.package import open_package
    from harrier_edge.packing import packed_graphs

    if (args.model is None) == (args.source is None):
        raise UsageError("pull a MODEL by name, or a package with --from PATH; one of the two.")
    place = _taken_in(args) if args.source else _downloaded(args)
    package = open_package(place)
    packed_graphs(package)  # now, so that the first search does not wait for it
    manifest = package.manifest
    size = sum(file.size for file in manifest.files.values())
    model, precision = args.model or manifest.name, manifest.precision.name
    if args.json:
        report = {
            "model": model,
            "precision": precision,
            "revision": place.parent.name,
            "folder": place,
            "bytes": size,
        }
        print(to_json(report))
    else:
        print(f"{place}: {model} in {precision}, {size / 1e6:.0f} MB, all hashes right")
        print(f"Use it with: -m {model} --precision {precision}")
    return 0


def _taken_in(args: argparse.Namespace) -> Path:
    from harrier_edge.archive import install
    from harrier_edge.foreign import FOLDER
    from harrier_edge.spec import MANIFEST_NAME

    if args.revision:
        raise UsageError("--revision is for a MODEL; --from takes what is there.")
    if (args.source / FOLDER).is_dir() and not (args.source / MANIFEST_NAME).exists():
        return _adopted_from(args.source, args.precision)
    if args.precision or args.via:
        raise UsageError("--precision and --via are for a MODEL; --from takes what is there.")
    with Progress(args.quiet) as progress:
        return install(args.source, lambda done, total: progress("pull", done, total))


def _adopted_from(source: Path, precision: str | None) -> Path:
    """Take in a folder with an ONNX export of others."""
    from harrier_edge import catalog
    from harrier_edge.package import altered_file, fingerprint_of, package_place, sha256_of

    names = _files(source)
    precision, graph = choose_graph(names, precision)
    digests = {name: sha256_of(source / name) for name in sorted(foreign_files(names, graph))}
    spec, origin = catalog.onnx_of(graph, digests[graph]) or (None, None)
    name, revision = source.resolve().name, fingerprint_of(digests)[:40]
    if origin:
        name, revision = origin.repository, origin.revision
    place = package_place(name, revision, precision)
    # Of its weights the graph tells little: others than were published are refused.
    if not place.is_dir() or (origin and altered_file(digests, origin.files)):
        exporter().adopt(source, place, precision, name=name, spec=spec, origin=origin)
    return place


def _files(folder: Path) -> list[str]:
    """The files below a folder, by their paths from there."""
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def _downloaded(args: argparse.Namespace) -> Path:
    from harrier_edge import catalog, hub  # no other command pays for their imports
    from harrier_edge.package import package_place

    known = catalog.onnx_source(args.model)
    spec = known[0] if known else None if "/" in args.model else catalog.load(args.model)
    source = known[1] if known else spec.source if spec else None
    if spec:
        exporter()  # a missing extra is told before the download, not after it
    if spec and args.via:
        raise UsageError(f"--via optimum is for other models; {args.model} has an exporter here.")
    revision = args.revision or (source.revision if source else "")
    is_pinned = source is not None and revision == source.revision
    wanted = args.precision or (FLOAT if known else "int8")
    place = package_place(args.model, revision, wanted)
    if place.is_dir():
        return place
    download = hub.download(
        source.repository if source else args.model,
        revision,
        precision=args.precision,
        pinned=source.files if source and is_pinned else None,
        # fp32 takes twice what bf16 does, all else less than the checkpoint.
        room_for=lambda size: 2 * size if wanted == "fp32" else size,
        quiet=bool(args.quiet) or not sys.stderr.isatty(),
    )
    if download.is_package:
        return _adopt(download, args.model, args.precision)
    if download.is_foreign:
        wanted, _ = choose_graph(_files(download.folder), args.precision)
    place = package_place(args.model, download.revision, wanted)
    if not place.is_dir() and download.is_foreign:
        origin = known[1] if known and is_pinned else None
        exporter().adopt(download.folder, place, wanted, name=args.model, spec=spec, origin=origin)
    elif not place.is_dir():
        is_known = spec is not None and (is_pinned or not spec.source.revision)
        _export(download, place, args.model if is_known else None, args)
    if not args.keep_checkpoint:
        hub.drop(download)
    return place


def _export(download: Download, place: Path, model: str | None, args: argparse.Namespace) -> None:
    harrier_export = exporter()
    export = harrier_export.export_via_optimum if args.via else harrier_export.export
    options = harrier_export.ExportOptions(
        precision=place.name,
        model=model,
        name=args.model.replace("/", "--"),
        verify=args.verify,
    )
    with Progress(args.quiet) as progress:
        export(download.folder, place, options, progress)


def _adopt(download: Download, model: str, precision: str | None) -> Path:
    """Move a download that is a package to its place, once its own hashes are right."""
    from harrier_edge import hub
    from harrier_edge.archive import probe
    from harrier_edge.package import is_name, open_package, package_place

    name = open_package(download.folder).manifest.precision.name
    if precision not in (None, name):
        hub.drop(download)
        raise UsageError(f"{model} is a package in {name}; wanted {precision}. Pull it as it is.")
    if not is_name(name):
        raise ModelError(f"{model}: its precision is called {name!r}; wanted a plain name.")
    probe(download.folder)
    place = package_place(model, download.revision, name)
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    download.folder.replace(place)
    (place / hub.MARKER).unlink(missing_ok=True)
    return place
