"""`harrier-edge dump`: the whole index as a file for other programs, or another machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from harrier_edge.cli.common import Progress, index_option, open_index

HELP = "write the whole index, vectors and all, to a new Parquet or JSON Lines file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("file", type=Path, metavar="FILE", help="ends in .parquet or .jsonl")
    index_option(parser)


def run(args: argparse.Namespace) -> int:
    """Do it, and say how much that was."""
    with open_index(args) as index, Progress(args.quiet) as progress:
        chunks = index.dump(args.file, on_progress=progress)
    print(f"{chunks} chunks in {args.file}, {args.file.stat().st_size / 1e6:.1f} MB")
    return 0
