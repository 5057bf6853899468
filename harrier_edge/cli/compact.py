"""`harrier-edge compact`: give back the space that removed documents have left."""

from __future__ import annotations

import argparse

from harrier_edge.cli.common import index_option, open_index

HELP = "give back the space that removed documents have left"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    index_option(parser)


def run(args: argparse.Namespace) -> int:
    """Do it."""
    with open_index(args) as index:
        before, after = index.compact()
    print(f"{before / 1e6:.1f} MB before, {after / 1e6:.1f} MB now")
    return 0
