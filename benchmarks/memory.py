"""Memory after loading, while documents are embedded, after them, and of a second process; peers.

Every contender has a process of its own, and then a second one with the same files. What no file
backs is what a second process costs: the rest is mapped, and there once. Then two processes of ours
embed mixed texts under a limit: with the built-in model all 20,000, with the larger one as many as
`--budget-seconds` allow. On Linux, about eight minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from contenders import FAITHFUL_PEERS, OURS
from contest import say
from long_documents import document
from process import EndedError, Process, make_files
from report import finish, flat_key, machine, print_table, versions
from shapes import CHECKPOINTS, result_name, shape_option

COUNTS = (1, 8, 32, 128)  # of documents, one batch a time
TOKENS = 256  # of each
OWN = f"{OURS} int8"
BUDGET_MB = {"270m": 400, "0.6b": 800}
KESTREL_BUDGET_MB = 300
BUDGET_TEXTS = 20_000
BATCH = 8  # of those that take batches by count
PACKAGES = ("onnxruntime", "torch", "transformers", "sentence-transformers", "llama-cpp-python")


def measure(name: str, checkpoint: Path, counts: Sequence[int]) -> Iterator[tuple[str, float]]:
    """Figures of one contender in MB of 10^6 bytes, one after the other. Raises EndedError."""
    files = make_files(name, checkpoint).path
    process = Process(name, checkpoint, files)
    yield "steady mb", process.rss_mb
    text = document(checkpoint, TOKENS)
    for count in counts:
        process.run([text[:1] + text[1 + i % 99 : -1] + text[-1:] for i in range(count)], BATCH)
        yield f"peak mb up to {count}", process.peak_mb
    yield "peak mb", process.peak_mb
    yield "after mb", process.rss_mb
    second = Process(name, checkpoint, files)
    yield "second process private mb", second.anonymous_mb
    for each in (second, process):
        each.close()


def under_budget(model: str, limit_mb: int, count: int, seconds: int) -> dict[str, float]:
    """What a process took that may take `limit_mb`, and how many texts it embedded."""
    program = str(Path(__file__).with_name("budget_run.py"))
    command = [sys.executable, program, model, *map(str, (limit_mb, count, seconds))]
    ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seen: dict[str, float] = json.loads(ended.stdout)
    return seen


def main() -> None:
    """Measure, print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    shape_option(parser)
    parser.add_argument("--counts", type=int, nargs="+", help="others; nothing is kept")
    parser.add_argument("--only", action="append", metavar="NAME", help="likewise")
    parser.add_argument("--budget-texts", type=int, default=BUDGET_TEXTS, metavar="N")
    parser.add_argument(
        "--budget-seconds",
        type=int,
        default=100,
        metavar="S",
        help="0: as many as all texts take, which are hours of the larger models",
    )
    args = parser.parse_args()
    checkpoint = CHECKPOINTS[args.shape]()
    figures: dict[str, dict[str, float]] = {}
    absent: dict[str, str] = {}
    for name in args.only or (OWN, *FAITHFUL_PEERS):
        say(name)
        try:
            measured = measure(name, checkpoint, args.counts or COUNTS)
            figures[name] = {what: round(value, 1) for what, value in measured}
        except EndedError as error:
            absent[name] = str(error)
    columns = list(next(iter(figures.values()), {}))
    print_table(["", *columns], [[name, *seen.values()] for name, seen in figures.items()])
    for name, reason in absent.items():
        print(f"absent: {name}: {reason}")
    limited = {}
    if OWN in figures:
        say("under a limit")
        package = str(make_files(OWN, checkpoint).path)
        limited = {
            "budget": under_budget(
                package, BUDGET_MB[args.shape], args.budget_texts, args.budget_seconds
            ),
            "kestrel_budget": under_budget("kestrel", KESTREL_BUDGET_MB, args.budget_texts, 0),
        }
        columns = ["mb", "peak_mb", "texts", "tokens"]
        rows = [[name, *(seen[what] for what in columns)] for name, seen in limited.items()]
        print_table(["", *columns], rows)
    result: dict[str, Any] = {
        **machine(),
        **versions(*PACKAGES),
        "shape": args.shape,
        "absent": absent,
    }
    for name, seen in limited.items():
        result |= {f"{name}_{what}": value for what, value in seen.items()}
    for name, seen in figures.items():
        for what, value in seen.items():
            result[flat_key(what if name == OWN else f"{name} {what}")] = value
    finish(result_name("memory", args.shape), result, keep=not (args.counts or args.only))


if __name__ == "__main__":
    main()
