"""`harrier-edge package`: a package as one file, for another machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from harrier_edge.cli.common import Progress, to_json

HELP = "write an installed model to one file, for a machine without a network"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("model", help="a package's folder, or a model's name")
    parser.add_argument("--precision", help="which of several packages of that model")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Write the file and report its digest."""
    from harrier_edge.archive import write_archive
    from harrier_edge.package import find_package, sha256_of

    with Progress(args.quiet) as progress:
        write_archive(
            find_package(args.model, args.precision),
            args.output,
            lambda done, total: progress("package", done, total),
        )
    digest, size = sha256_of(args.output), args.output.stat().st_size
    if args.json:
        print(to_json({"file": args.output, "bytes": size, "sha256": digest}))
    else:
        print(f"{args.output}: {size / 1e6:.0f} MB, sha256 {digest}")
        print(f"There: harrier-edge pull --from {args.output.name}")
    return 0
