"""The 27B on a small machine: exported at what rate and in how much memory, and then queried.

Two checkpoints in its shape are made and removed again. One of a few layers is whole on the disk:
its export is compared with reading and writing the same bytes. The other has all 62 layers, of
whose bytes an eighth is on the disk: it is exported, loaded and given real text. No peer does
either. On Linux, with 45 GB of disk and 24 GB of memory, about twelve minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from contest import say
from report import finish, machine, print_table, versions
from standins.folder import cache, full_tokenizer
from standins.large import large_checkpoint, shape_of_27b

GB = 10**9
DENSE_LAYERS = 10  # so that the tokenizer, which takes as long for any number, weighs little
BLOCK_SIZE = 64  # of int4: 17 GB, which ONNX Runtime holds once more in the form it multiplies
BESIDE = 2 * 10**9  # bytes of memory that a query takes besides
BUFFER = 2**23
PACKAGES = ("onnxruntime", "numpy")

QUERY = """
import json, resource, sys, time
from pathlib import Path
from harrier_edge import Embedder
from harrier_export.texts import parity_texts

def seconds(run):
    begin = time.perf_counter()
    result = run()
    return time.perf_counter() - begin, result

def held(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    (kib,) = (line.split()[1] for line in lines if line.startswith(what + ":"))
    return int(kib) * 1024 / 1e9

load, embedder = seconds(lambda: Embedder(sys.argv[1]))
first, vector = seconds(lambda: embedder.encode_query("how does a harrier hunt?"))
again, same = seconds(lambda: embedder.encode_query("how does a harrier hunt?"))
assert abs(float((vector * same).sum()) - 1) < 1e-3  # unit length, and the same but for rounding
texts = [text for text in parity_texts() if 200 < len(text) < 600][:4]
tokens = embedder.count_tokens(texts)
passages, _ = seconds(lambda: embedder.encode_document(texts))
print(json.dumps({
    "load_seconds": load, "first_query_seconds": first, "query_seconds": again,
    "tokens_per_second": sum(tokens) / passages, "query_peak_gb": held("VmHWM"),
    "query_private_gb": held("RssAnon"),
}))
"""


def forget(folder: Path) -> None:
    """Have the system drop the files of a folder from its cache."""
    for path in folder.iterdir():
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def copying_seconds(checkpoint: Path, nbytes: int) -> float:
    """How long it takes to read a checkpoint from the disk, and `nbytes` to write to it."""
    buffer = bytearray(BUFFER)
    begin = time.perf_counter()
    for path in sorted(checkpoint.glob("*.safetensors")):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    with tempfile.TemporaryFile(dir=checkpoint, buffering=0) as file:
        for _ in range(nbytes // BUFFER):
            file.write(buffer)
        os.fsync(file.fileno())
    return time.perf_counter() - begin


def export(checkpoint: Path, package: Path) -> dict[str, float]:
    """Export to int4 in a process of its own: seconds, of its processor time too, and peak."""
    forget(checkpoint)
    command = [
        sys.executable,
        "-I",
        "-m",
        "harrier_edge",
        "export",
        str(checkpoint),
        "-o",
        str(package),
    ]
    options = ["--precision", "int4", "--block-size", str(BLOCK_SIZE)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    subprocess.run([*command, *options, "--no-calibrate", "--no-verify"], check=True)
    seconds = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": seconds,
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "peak_gb": after.ru_maxrss * 1024 / GB,  # of the largest child so far
        "package_gb": sum(path.stat().st_size for path in package.iterdir()) / GB,
    }


def rate(folder: Path, layers: int) -> dict[str, float]:
    """An export against reading and writing the same bytes."""
    say(f"{layers} layers, whole on the disk")
    tokenizer = full_tokenizer("gemma3")
    checkpoint, package = folder / "dense", folder / "dense-int4"
    large_checkpoint(checkpoint, config=shape_of_27b(layers), tokenizer=tokenizer, dense=1)
    seen = export(checkpoint, package)
    forget(checkpoint)
    copying = copying_seconds(checkpoint, round(seen["package_gb"] * GB))
    for path in (checkpoint, package):
        shutil.rmtree(path)
    return {
        "dense_export_seconds": seen["seconds"],
        "dense_export_cpu_seconds": seen["cpu_seconds"],
        "copying_seconds": copying,
        "rate_of_copying": copying / seen["seconds"],
    }


def whole(folder: Path, layers: int | None) -> dict[str, float]:
    """The full shape, exported and queried."""
    say("the full shape")
    checkpoint, package = folder / "full", folder / "full-int4"
    large_checkpoint(checkpoint, config=shape_of_27b(layers), tokenizer=full_tokenizer("gemma3"))
    seen = {f"export_{name}": value for name, value in export(checkpoint, package).items()}
    seen["package_gb"] = seen.pop("export_package_gb")
    shutil.rmtree(checkpoint)
    say("a query")
    forget(package)
    wanted = seen["package_gb"] * GB + BESIDE
    if (free := psutil.virtual_memory().available) < wanted:
        say(f"not asked: a query takes {wanted / GB:.0f} GB of memory, {free / GB:.0f} are free")
        return seen
    run = subprocess.run(
        [sys.executable, "-I", "-c", QUERY, str(package)], check=True, stdout=subprocess.PIPE
    )
    queried: dict[str, float] = json.loads(run.stdout)
    return seen | queried


def main() -> None:
    """Measure, print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, help="fewer of the full shape; nothing is kept")
    parser.add_argument("--folder", type=Path, default=cache(), help="where there is room")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="large-", dir=args.folder) as name:
        figures = rate(Path(name), min(DENSE_LAYERS, args.layers or DENSE_LAYERS))
        figures |= whole(Path(name), args.layers)
    rounded = {what: round(value, 3) for what, value in figures.items()}
    print_table(["", "measured"], [[what, value] for what, value in rounded.items()])
    result: dict[str, Any] = {**machine(), **versions(*PACKAGES), **rounded}
    finish("large", result, keep=args.layers is None)


if __name__ == "__main__":
    main()
