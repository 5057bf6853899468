"""`harrier-edge watch`: update again whenever a file changes."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from pathlib import Path

from harrier_edge.cli.common import index_option, model_options, open_index, print_report

HELP = "update now and whenever a file changes, until Ctrl-C"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="only these (all)")
    index_option(parser)
    model_options(parser)
    parser.add_argument("--json", action="store_true", help="print each report as a JSON line")


def run(args: argparse.Namespace) -> int:
    """Report every update that did something. Ctrl-C is its normal end."""
    with open_index(args) as index, suppress(KeyboardInterrupt):
        for number, report in enumerate(index.watch(args.paths or None)):
            done = report.added + report.changed + report.removed
            if done or report.failed or number == 0:
                print_report(report, as_json=args.json)
                sys.stdout.flush()
    return 0
