"""`harrier-edge reembed`: another model for an index."""

from __future__ import annotations

import argparse

from harrier_edge.cli.common import Progress, index_option, model_options, store_option
from harrier_edge.errors import UsageError

HELP = "embed an index anew with another model; the old one serves until all is done"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    model_options(parser)
    index_option(parser)
    store_option(parser, "as now")


def run(args: argparse.Namespace) -> int:
    """Embed; an interrupted run is taken up by the next."""
    from harrier_edge.index import Index
    from harrier_edge.places import index_file

    if args.model is None:
        raise UsageError("reembed needs the new model: a package's folder or a name, with --model.")
    with Progress(args.quiet) as progress:
        chunks = Index.reembed(
            args.db or index_file(),
            args.model,
            precision=args.precision,
            store=args.store,
            on_progress=progress,
        )
    print(f"{chunks} chunks embedded")
    return 0
