"""`harrier-edge update`: the index follows its files and folders."""

from __future__ import annotations

import argparse
from pathlib import Path

from harrier_edge.cli.common import Progress, index_option, model_options, print_report

HELP = "embed what has changed in the files and folders that were added, forget what is gone"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="only these (all)")
    index_option(parser)
    model_options(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Update and report; 1 where a file or folder could not be read."""
    from harrier_edge.index import Index
    from harrier_edge.places import index_file

    progress = Progress(args.quiet)
    with Index.open(
        args.db or index_file(), model=args.model, precision=args.precision, create=False
    ) as index:
        try:
            report = index.update(args.paths or None, on_progress=progress)
        finally:
            progress.close()
    return print_report(report, as_json=args.json)
