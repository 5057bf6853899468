"""`harrier-edge load`: a new index of what `dump` wrote."""

from __future__ import annotations

import argparse
from pathlib import Path

from harrier_edge.cli.common import Progress, index_option, model_options

HELP = "make a new index of a file that `dump` wrote; nothing is embedded"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("file", type=Path, metavar="FILE", help="a .parquet or .jsonl file")
    index_option(parser)
    model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Do it, and say how much that was."""
    from harrier_edge.index import Index
    from harrier_edge.places import index_file

    path = args.db or index_file()
    with Progress(args.quiet) as progress:
        chunks = Index.load(
            path, args.file, model=args.model, precision=args.precision, on_progress=progress
        )
    print(f"{chunks} chunks in {path}")
    return 0
