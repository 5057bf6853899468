"""A process with a limit of memory that embeds mixed texts; tells its peak in one JSON line.

As a program: `budget_run.py MODEL LIMIT_MB TEXTS SECONDS`, where 0 seconds are as many as it takes.
"""

from __future__ import annotations

import json
import math
import random
import sys
import time

from harrier_edge import Embedder
from harrier_edge.machine import memory
from harrier_export.texts import parity_texts

SHORTEST, LONGEST = 10, 2000  # characters
AT_ONCE = 200  # texts of a call


def mixed_texts(count: int) -> list[str]:
    """`count` texts in many languages; as many have 10 to 20 characters as have 1,000 to 2,000."""
    chance = random.Random(0)
    all_text = " ".join(parity_texts())
    texts = []
    for _ in range(count):
        length = round(math.exp(chance.uniform(math.log(SHORTEST), math.log(LONGEST))))
        start = chance.randrange(len(all_text) - length)
        texts.append(all_text[start : start + length])
    return texts


def main() -> None:
    """Do what the command line says."""
    model, limit, count, seconds = sys.argv[1], *map(int, sys.argv[2:])
    embedder = Embedder(model, memory=f"{limit}MB")
    texts = mixed_texts(count)
    start = time.perf_counter()
    done = tokens = 0
    while done < count and (not seconds or time.perf_counter() - start < seconds):
        part = texts[done : done + AT_ONCE]
        tokens += sum(embedder.embed(part).tokens)
        done += len(part)
    print(json.dumps({"mb": limit, "peak_mb": memory().peak_mb, "texts": done, "tokens": tokens}))


if __name__ == "__main__":
    main()
