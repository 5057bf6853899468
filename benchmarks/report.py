"""The machine that was measured, and how a result is shown and kept."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """What the figures depend on: processor, cores, memory, system, Python."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8").splitlines() if cpuinfo.exists() else []
    pairs = (line.partition(":") for line in lines)
    fields = {key.strip(): value.strip() for key, _, value in pairs}
    extensions = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm")
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    return {
        "processor": fields.get("model name") or platform.processor() or platform.machine(),
        "extensions": [name for name in extensions if name in flags],
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def versions(*packages: str) -> dict[str, str]:
    """Package -> installed version, of those that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Left column by name, the others as numbers."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for name, *figures in cells:
        padded = [figure.rjust(w) for figure, w in zip(figures, widths[1:], strict=True)]
        print("  ".join([name.ljust(widths[0]), *padded]))


def flat_key(name: str) -> str:
    """ "harrier-edge int8, tokens/s at 256" -> "harrier_edge_int8_tokens_s_at_256"."""
    return "_".join("".join(letter if letter.isalnum() else " " for letter in name).split())


def finish(name: str, result: dict[str, Any], *, keep: bool = True) -> None:
    """Print the result as one JSON line and keep it as results/NAME.json."""
    text = json.dumps(result, ensure_ascii=False)
    print(text)
    if not keep:
        return
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(text + "\n", "utf-8")
