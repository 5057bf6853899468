"""`harrier-edge backup`: copy the index to a new file while it is in use."""

from __future__ import annotations

import argparse
from pathlib import Path

from harrier_edge.cli.common import index_option, open_index

HELP = "copy the index to a new file while it is in use"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("target", type=Path, metavar="FILE", help="a new file")
    index_option(parser)


def run(args: argparse.Namespace) -> int:
    """Do it."""
    with open_index(args) as index:
        index.backup(args.target)
    return 0
