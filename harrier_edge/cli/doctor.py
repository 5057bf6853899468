"""`harrier-edge doctor`: what is not sound on this machine, and how it is cured."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import TYPE_CHECKING

from harrier_edge.cli.common import Progress, index_option, to_json

if TYPE_CHECKING:
    from harrier_edge.doctor.finding import Finding

HELP = "look for what is broken in this machine, the packages and the indexes, and tell the cure"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.description = (
        "Look at the libraries, the processor, memory and disk, the settings, every package (its "
        "hashes, its tokenizer, the vector of one text) and every index (its file, its tables, "
        "whether its model gives its vectors). Nothing is changed. Exit code 1 where something is "
        "broken; a note is none."
    )
    index_option(parser)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(args: argparse.Namespace) -> int:
    """Examine and report; 1 where something is broken."""
    from harrier_edge.doctor.examine import examine

    with Progress(args.quiet) as progress:
        findings = list(examine(args.db, progress))
    states = Counter(finding.state for finding in findings)
    if args.json:
        report = {"broken": states["broken"], "notes": states["note"], "findings": findings}
        print(to_json(report))
    else:
        for finding in findings:
            if finding.state != "ok" or not args.quiet:
                _print(finding)
        print(f"{states['broken']} broken, {states['note']} to know, {states['ok']} sound")
    return 1 if states["broken"] else 0


def _print(finding: Finding) -> None:
    where = f" {finding.where}:" if finding.where else ""
    print(f"{finding.state:6}  {finding.subject}:{where} {finding.message}")
    if finding.cure:
        print(f"        -> {finding.cure}")
