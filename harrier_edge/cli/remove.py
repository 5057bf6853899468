"""`harrier-edge remove`: files and folders out of the index."""

from __future__ import annotations

import argparse
from pathlib import Path

from harrier_edge.cli.common import index_option, open_index, to_json

HELP = "take files or folders out of the index (the files themselves stay)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    index_option(parser)
    parser.add_argument("--json", action="store_true", help="print the count as JSON")


def run(args: argparse.Namespace) -> int:
    """Remove and report."""
    with open_index(args) as index:
        removed = index.remove(args.paths)
    print(to_json({"removed": removed}) if args.json else f"{removed} documents removed")
    return 0
