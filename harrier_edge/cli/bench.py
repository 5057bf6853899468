"""`harrier-edge bench`: how each package of a model does on this machine, and which to take."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from harrier_edge.cli.common import Progress, to_json
from harrier_edge.errors import UsageError

if TYPE_CHECKING:
    from harrier_edge.bench import PackageFigures

HELP = "measure a model's packages on this machine and recommend one"

_COLUMNS = (
    *("tokens/s", "query ms", "load s", "memory MB", "peak MB", "disk MB"),
    *("mean cosine", "minimum", "mean here", "minimum"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.description = (
        "Measure each package of a model on this machine, in a process of its own, and recommend "
        "one: the fastest with a mean cosine of 0.998 or more to the original (by its manifest; "
        "where that has none, to the fp32 package measured here), or the most faithful if there is "
        "none; of those within 5% of the fastest, the smallest. Do nothing else meanwhile."
    )
    parser.add_argument(
        "models", nargs="*", metavar="MODEL", help="package folders, or a model's name"
    )
    parser.add_argument(
        "-m",
        "--model",
        help="the same, for one ($HARRIER_EDGE_MODEL, or the default, if neither is given)",
    )
    parser.add_argument(
        "--precision",
        default="all",
        metavar="NAME,…",
        help="which of its precisions to measure, with commas between them (all)",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=10,
        metavar="N",
        help="for each package, besides loading (10)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Measure and report; 1 where a package could not be measured."""
    # loads ONNX Runtime
    from harrier_edge.bench import choose_packages, measure, note_figures, recommend
    from harrier_edge.machine import this_machine
    from harrier_edge.settings import read_settings

    named = [*args.models, *([args.model] if args.model else [])]
    models = named or [os.environ.get("HARRIER_EDGE_MODEL") or read_settings().model or ""]
    if not models[0]:
        raise UsageError(
            "which model? Name one in the cache or package folders, or set $HARRIER_EDGE_MODEL."
        )
    wanted = [name.strip() for name in args.precision.split(",")]
    folders = choose_packages(models, None if wanted == ["all"] else wanted)
    with Progress(args.quiet) as progress:
        packages, failed = measure(folders, seconds=args.seconds, on_progress=progress)
    for package in packages:
        note_figures(package)
    chosen = recommend(packages)
    if args.json:
        report = {
            "machine": this_machine(),
            "versions": _versions(),
            "packages": packages,
            "failed": failed,
            "recommended": chosen.package,
            "recommended_precision": chosen.precision,
            "reason": chosen.reason,
        }
        print(to_json(report))
    elif packages:
        _print_table(packages)
        place = f"{chosen.precision} ({chosen.package})" if chosen.package else "none"
        print(f"\nrecommended: {place}: {chosen.reason}")
    for failure in failed:
        print(
            f"not measured: {failure.precision} ({failure.package}): {failure.error}",
            file=sys.stderr,
        )
    return 1 if failed else 0


def _print_table(packages: list[PackageFigures]) -> None:
    """One line a package: names on the left, figures on the right, - for what is not known."""
    precisions = [package.precision for package in packages]
    rows: list[list[str]] = [["", *_COLUMNS]]
    for package in packages:
        unique = precisions.count(package.precision) == 1
        rows.append(
            [
                package.precision if unique else f"{package.precision} ({package.package})",
                _shown(package.tokens_per_second, 0),
                _shown(package.query_ms, 1),
                _shown(package.load_s, 2),
                _shown(package.memory_mb, 0),
                _shown(package.peak_memory_mb, 0),
                _shown(package.disk_mb, 0),
                _shown(package.mean_cosine, 4),
                _shown(package.min_cosine, 4),
                _shown(package.here_mean_cosine, 4),
                _shown(package.here_min_cosine, 4),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *figures in rows:
        padded = [figure.rjust(width) for figure, width in zip(figures, widths[1:], strict=True)]
        print("  ".join([name.ljust(widths[0]), *padded]))


def _shown(figure: float | None, digits: int) -> str:
    return "-" if figure is None else f"{figure:.{digits}f}"


def _versions() -> dict[str, Any]:
    import platform
    from importlib.metadata import version

    packages = {name: version(name) for name in ("harrier-edge", "onnxruntime")}
    return {**packages, "python": platform.python_version()}
