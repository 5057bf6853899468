"""How fast the built-in model is beside the 270M's shape, and how soon a new process has a vector.

Both embed documents of 256 tokens in int8, in turns, each in a process of its own. A cold process
is Python itself, `import harrier_edge`, loading, and one query; its files are in the page cache. It
has its first vector when it says so, and is over when Python has put everything away.
On a machine that does nothing else: about a minute.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

from contenders import OURS
from contest import say
from long_documents import document
from process import Process, make_files
from quality import CHECKPOINT
from report import finish, machine, print_table, versions
from standins.gemma3_270m import gemma3_270m

TOKENS = 256  # of a document
COUNTS = {"kestrel": 192, "270m": 16}  # documents a round: about half a second, a second
ROUNDS = 5
COLD = 15  # processes
NAME = f"{OURS} int8"
FIRST = """from harrier_edge import Embedder
vector = Embedder("kestrel").encode_query("what is a kestrel?")
print(vector.shape, flush=True)
"""


def speeds(rounds: int) -> dict[str, float]:
    """Tokens a second of each, the median of `rounds`."""
    reference = gemma3_270m()
    processes = {
        "kestrel": (Process(NAME, CHECKPOINT, CHECKPOINT / "int8"), CHECKPOINT),
        "270m": (Process(NAME, reference, make_files(NAME, reference).path), reference),
    }
    seen: dict[str, list[float]] = {name: [] for name in processes}
    for _ in range(rounds + 1):
        for name, (process, checkpoint) in processes.items():
            count = COUNTS[name]
            text = document(checkpoint, TOKENS)
            texts = [text[:1] + text[1 + i % 99 : -1] + text[1 : 1 + i % 99] + text[-1:]
                     for i in range(count)]  # fmt: skip
            seen[name].append(count * TOKENS / process.seconds(texts, 8))
    for process, _ in processes.values():
        process.close()
    return {name: statistics.median(each[1:]) for name, each in seen.items()}


def cold(count: int) -> tuple[list[float], list[float]]:
    """Seconds of new processes until each has the vector of a query, and until it is over; the
    first process left out."""
    command = [sys.executable, "-I", "-c", FIRST]
    vector, over = [], []
    for _ in range(count + 1):
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            shape = process.stdout.readline()
            vector.append(time.perf_counter() - start)
        over.append(time.perf_counter() - start)
        if process.returncode or shape != "(384,)\n":
            raise RuntimeError(f"a cold process gave {shape!r}, and ended by {process.returncode}")
    return vector[1:], over[1:]


def main() -> None:
    """Measure, print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round; nothing is kept")
    args = parser.parse_args()
    say("documents")
    pace = speeds(1 if args.quick else ROUNDS)
    say("cold processes")
    first, over = cold(2 if args.quick else COLD)
    result = {
        "kestrel_tokens_per_s_256": round(pace["kestrel"]),
        "harrier_270m_tokens_per_s_256": round(pace["270m"]),
        "kestrel_over_270m": round(pace["kestrel"] / pace["270m"], 2),
        "kestrel_first_vector_s": round(statistics.median(first), 3),
        "kestrel_first_vector_worst_s": round(max(first), 3),
        "kestrel_process_s": round(statistics.median(over), 3),
    }
    print_table(["", "figure"], list(result.items()))
    finish("builtin", {**machine(), **versions("onnxruntime"), **result}, keep=not args.quick)


if __name__ == "__main__":
    main()
