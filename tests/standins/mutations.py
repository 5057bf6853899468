"""Packages of ill will: mutated files under hashes that are right.

Run as `python -m standins.mutations PACKAGE COUNT`: each is taken in by the real command's code,
and has to end as a sound package or in a clean error.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import shutil
import tempfile
from pathlib import Path

import msgspec
import tomli_w

from harrier_edge.archive import install
from harrier_edge.errors import ModelError
from harrier_edge.package import sha256_of
from harrier_edge.spec import MANIFEST_NAME, PackageFile, PackageManifest, read_table

KINDS = ("truncated", "flipped", "swapped", "grown", "zeroed")
FILES = ("model.onnx", "query.onnx", "tokenizer.json", "model.onnx_data", MANIFEST_NAME)


def mutate(package: Path, seed: int) -> str:
    """Change one file of the package as `seed` says, hash it anew, and return what was done."""
    choose = random.Random(seed)
    kind, name = choose.choice(KINDS), choose.choice(FILES)
    path = package / name
    data = bytearray(path.read_bytes())
    at = choose.randrange(len(data))
    if kind == "truncated":
        del data[at:]
    elif kind == "flipped":
        for _ in range(choose.choice((1, 8, 64))):
            data[choose.randrange(len(data))] ^= 1 << choose.randrange(8)
    elif kind == "swapped":
        other, length = choose.randrange(len(data)), choose.randrange(1, 256)
        first, second = data[at : at + length], data[other : other + length]
        data[other : other + length] = first
        data[at : at + length] = second
    elif kind == "grown":
        data[at:at] = choose.randbytes(choose.randrange(1, 4096))
    else:
        data[at : at + choose.randrange(1, 256)] = bytes(64)
    path.write_bytes(data)
    if name != MANIFEST_NAME:
        rehash(package, name)
    return f"{name} {kind}"


def rehash(package: Path, name: str) -> None:
    """Let the manifest say what the file `name` is now."""
    manifest = read_table(package / MANIFEST_NAME, PackageManifest)
    path = package / name
    record = PackageFile(sha256=sha256_of(path), size=path.stat().st_size)
    manifest = msgspec.structs.replace(manifest, files={**manifest.files, name: record})
    (package / MANIFEST_NAME).write_text(tomli_w.dumps(msgspec.to_builtins(manifest)), "utf-8")


def main() -> None:
    """Take in mutated packages and count how they end; any other exception ends this."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path)
    parser.add_argument("count", type=int)
    args = parser.parse_args()
    ends: collections.Counter[str] = collections.Counter()
    for seed in range(args.count):
        with tempfile.TemporaryDirectory() as folder:
            os.environ["HARRIER_EDGE_CACHE_DIR"] = f"{folder}/cache"
            mutant = Path(shutil.copytree(args.package, Path(folder, "mutant")))
            mutate(mutant, seed)
            try:
                install(mutant)
                ends["taken: still a sound package"] += 1
            except ModelError as error:
                ends[
                    "refused: "
                    + (
                        "in the child"
                        if "when it is loaded" in str(error)
                        else "before any was loaded"
                    )
                ] += 1
    for end, count in ends.most_common():
        print(f"{count:6}  {end}")
    print(f"{sum(ends.values()):6}  packages, no crash")


if __name__ == "__main__":
    main()
