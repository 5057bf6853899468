"""What several commands share: options, progress and JSON."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harrier_edge.index import Index
    from harrier_edge.updating import UpdateReport


def model_options(parser: argparse.ArgumentParser) -> None:
    """`--model`, `--precision` and `--memory`."""
    parser.add_argument(
        "-m",
        "--model",
        default=os.environ.get("HARRIER_EDGE_MODEL") or None,
        help="a package's folder, a model's name, or a server's as http://HOST:PORT#NAME "
        "($HARRIER_EDGE_MODEL)",
    )
    parser.add_argument("--precision", help="which of several packages of that model")
    parser.add_argument(
        "--memory",
        dest="model_memory",  # those of `serve` and `export` are not for one model that is loaded
        metavar="SIZE",
        help="the most memory to take, such as 512MB ($HARRIER_EDGE_MEMORY)",
    )


def store_option(parser: argparse.ArgumentParser, default: str) -> None:
    """`--store`; `default` says what happens without it."""
    parser.add_argument(
        "--store",
        choices=["float32", "int8", "float16"],
        help=f"how vectors are stored: int8 takes a quarter, float16 half of the space ({default})",
    )


def index_option(parser: argparse.ArgumentParser) -> None:
    """`--db`."""
    parser.add_argument(
        "--db",
        type=Path,
        metavar="PATH",
        help="the index file ($HARRIER_EDGE_DB, .harrier/index.sqlite in a project, or the user's)",
    )


def open_index(args: argparse.Namespace, *, create: bool = False) -> Index:
    """The index that `--db` names, with the model of `--model`, where a command has that."""
    from harrier_edge.index import Index
    from harrier_edge.places import index_file

    named = {name: getattr(args, name, None) for name in ("model", "precision", "store")}
    return Index.open(args.db or index_file(), create=create, **named)


def prompt_options(parser: argparse.ArgumentParser) -> None:
    """`--instruct` and `--prompt-name`."""
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--instruct", metavar="TEXT", help="the task of the query, in one sentence")
    choice.add_argument("--prompt-name", metavar="NAME", help="one of the model's own prompts")


def to_json(value: object, **options: Any) -> str:
    """JSON of a value that may hold dataclasses and paths."""
    return json.dumps(value, ensure_ascii=False, default=_plain, **options)


def _plain(value: object) -> object:
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return list(value)
    raise TypeError(f"{value!r} has no JSON form")


def print_report(report: UpdateReport, *, as_json: bool) -> int:
    """Print what an update did, and the files that failed to stderr; the exit code."""
    if as_json:
        print(to_json(report))
    else:
        print(
            f"{report.added} added, {report.changed} changed, {report.removed} removed, "
            f"{report.unchanged} unchanged; {report.chunks} chunks, {report.tokens} tokens "
            f"embedded, {report.reused} chunks kept"
        )
        if report.skipped:
            print(f"skipped: {counted(report.skipped)}")
    for failure in report.failed:
        print(f"failed {failure.path}: {failure.reason}", file=sys.stderr)
    return 1 if report.failed else 0


def counted(counts: Mapping[str, int]) -> str:
    """Reasons with their numbers, in one line."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))


def byte_size(text: str) -> int:
    """Bytes, as an argument says them: 2GB, 500MiB."""
    from harrier_edge.budget import amount  # not for `--help`, which is to come at once

    nbytes = amount(text)
    if not nbytes:
        raise argparse.ArgumentTypeError(f"{text!r}; wanted an amount such as 512MB, 1.5GB, 800MiB")
    return nbytes


class Progress:
    """Bars on stderr, one after the other, where stderr is a terminal; silent elsewhere."""

    def __init__(self, quiet: bool) -> None:
        self._disable = True if quiet else None  # None: by whether stderr is a terminal
        self._bar: Any = None
        self._stage = ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of `total` of a stage are done."""
        if stage != self._stage:
            from tqdm import tqdm  # only a command that works for long needs it

            self._end()
            self._stage = stage
            self._bar = tqdm(
                total=total,
                desc=stage,
                initial=done,  # what was there before is no part of the rate
                unit="B" if stage in ("index", "export") else "",  # files are counted by bytes
                unit_scale=True,
                disable=self._disable,
            )
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        """End the bar that is shown."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
