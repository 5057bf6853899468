"""`harrier-edge add`: files and folders into the index."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harrier_edge.cli.common import Progress, index_option, model_options, to_json

HELP = "index files and folders; what has not changed is skipped"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    index_option(parser)
    model_options(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Index and report; 1 where a file could not be read."""
    from harrier_edge.index import Index
    from harrier_edge.places import index_file

    progress = Progress(args.quiet)
    with Index.open(args.db or index_file(), model=args.model, precision=args.precision) as index:
        try:
            report = index.add(args.paths, on_progress=progress)
        finally:
            progress.close()
    if args.json:
        print(to_json(report))
    else:
        print(
            f"{report.added} added, {report.changed} changed, {report.unchanged} unchanged; "
            f"{report.chunks} chunks, {report.tokens} tokens embedded"
        )
    for skipped in report.skipped:
        print(f"skipped {skipped.path}: {skipped.reason}", file=sys.stderr)
    return 1 if report.skipped else 0
