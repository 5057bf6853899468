"""`harrier-edge compact`: give back the space that removed documents have left."""

from __future__ import annotations

import argparse

from harrier_edge.cli.common import index_option

HELP = "give back the space that removed documents have left"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    index_option(parser)


def run(args: argparse.Namespace) -> int:
    """Do it."""
    from harrier_edge.index import Index
    from harrier_edge.places import index_file

    with Index.open(args.db or index_file(), create=False) as index:
        before, after = index.compact()
    print(f"{before / 1e6:.1f} MB before, {after / 1e6:.1f} MB now")
    return 0
