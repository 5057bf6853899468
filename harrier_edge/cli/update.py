"""`harrier-edge update`: the index follows its files and folders."""

from __future__ import annotations

import argparse
from pathlib import Path

from harrier_edge.cli.common import Progress, index_option, model_options, open_index, print_report

HELP = "embed what has changed in the files and folders that were added, forget what is gone"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="only these (all)")
    index_option(parser)
    model_options(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Update and report; 1 where a file or folder could not be read."""
    with open_index(args) as index, Progress(args.quiet) as progress:
        report = index.update(args.paths or None, on_progress=progress)
    return print_report(report, as_json=args.json)
