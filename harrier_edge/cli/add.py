"""`harrier-edge add`: files and folders into the index."""

from __future__ import annotations

import argparse
from pathlib import Path

from harrier_edge.cli.common import (
    Progress,
    index_option,
    model_options,
    open_index,
    print_report,
    store_option,
)

HELP = "index files and folders; what has not changed is skipped"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    parser.add_argument("--collection", metavar="NAME", help="a name for them to search by")
    parser.add_argument(
        "--chunk",
        choices=["passages", "document"],
        help="embed passages of 512 tokens at most (the default), or documents whole",
    )
    store_option(parser, "float32; of an index that exists, as it was made")
    index_option(parser)
    model_options(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Index and report; 1 where a file could not be read."""
    with open_index(args, create=True) as index, Progress(args.quiet) as progress:
        report = index.add(
            args.paths, collection=args.collection, chunk=args.chunk, on_progress=progress
        )
    return print_report(report, as_json=args.json)
