"""Memory after loading, while documents are embedded, after them, and of a second process; peers.

Every contender has a process of its own, and then a second one with the same files. What no file
backs is what a second process costs: the rest is mapped, and there once. On Linux, about five
minutes on two cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from contenders import FAITHFUL_PEERS, OURS
from contest import say
from long_documents import document
from process import EndedError, Process, make_files
from report import finish, machine, print_table, versions
from standins.gemma3_270m import gemma3_270m

COUNTS = (1, 8, 32, 128)  # of documents, one batch a time
TOKENS = 256  # of each
OWN = f"{OURS} int8"
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


def main() -> None:
    """Measure, print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", help="others; nothing is kept")
    parser.add_argument("--only", action="append", metavar="NAME", help="likewise")
    args = parser.parse_args()
    checkpoint = gemma3_270m()
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
    result: dict[str, Any] = {**machine(), **versions(*PACKAGES), "absent": absent}
    for name, seen in figures.items():
        for what, value in seen.items():
            result[_key(what if name == OWN else f"{name} {what}")] = value
    finish("memory", result, keep=not (args.counts or args.only))


def _key(name: str) -> str:
    return "_".join("".join(letter if letter.isalnum() else " " for letter in name).split())


if __name__ == "__main__":
    main()
