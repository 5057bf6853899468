"""`harrier-edge backup`: copy the index to a new file while it is in use."""

from __future__ import annotations

import argparse
from pathlib import Path

from harrier_edge.cli.common import index_option

HELP = "copy the index to a new file while it is in use"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("target", type=Path, metavar="FILE", help="a new file")
    index_option(parser)


def run(args: argparse.Namespace) -> int:
    """Do it."""
    from harrier_edge.index import Index
    from harrier_edge.places import index_file

    with Index.open(args.db or index_file(), create=False) as index:
        index.backup(args.target)
    return 0
