"""`harrier-edge status`: what the index holds, what it follows and which model made it."""

from __future__ import annotations

import argparse

from harrier_edge.cli.common import counted, index_option, open_index, to_json

HELP = "show what the index holds, what it follows and which model made it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    index_option(parser)
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the status; no model is loaded."""
    with open_index(args) as index:
        status = index.status()
    if args.json:
        print(to_json(status))
        return 0
    model = status.model
    print(f"{status.path}: {status.bytes / 1e6:.1f} MB, schema {status.schema_version}")
    print(f"  documents  {status.documents}, of which {status.incomplete} are not finished")
    print(f"  chunks     {status.chunks}")
    print(f"  model      {model.name} in {model.precision}, {model.dimension} dimensions")
    print(f"  package    {model.package}")
    if status.packed_bytes:
        print(f"  packed     {status.packed_bytes / 1e6:.0f} MB in the cache, to load it faster")
    for source in status.sources:
        details = [source.path]
        if source.collection:
            details.append(f"collection {source.collection}")
        if source.skipped:
            details.append(f"skipped: {counted(source.skipped)}")
        print("  source     " + "; ".join(details))
        for path, reason in source.failed.items():
            print(f"    failed   {path}: {reason}")
    return 0
