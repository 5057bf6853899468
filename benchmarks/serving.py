"""The server under many clients: throughput, latency, fairness and memory, beside peers.

Clients send single texts of mixed lengths, each the next one a random moment after an answer, as in
a Poisson process. What the offline path does with the same texts is measured before and after. The
clients run on the same cores as what they ask; how much they take is told. Everything stays on
127.0.0.1. On Linux, about six minutes on two cores once the stand-ins' packages are made.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from contest import say
from load import Payload, Seen, payload, run
from process import EndedError, make_files
from report import finish, machine, print_table, versions
from standins.gemma3_270m import gemma3_270m
from standins.packages import cached_package

from harrier_edge.bench_texts import DOCUMENTS, QUERIES
from harrier_edge.embedder import Embedder

CLIENTS = (1, 8, 64, 256)
MEASURED = 64  # clients with whom peers are compared
BULK_CLIENTS, BULK_TEXTS = 4, 32  # that saturate the server beside single queries
QUERY_PAUSE_SECONDS = 0.15
TEXTS = 600
MEDIAN_TOKENS, SPREAD, LONGEST = 80, 0.9, 500  # of a lognormal distribution, as notes have it
OFFLINE_TEXTS = 200
START_SECONDS = 120.0
PEERS = ("sentence-transformers bf16", "llama.cpp Q8_0")
MB = 10**6
PACKAGES = ("onnxruntime", "uvicorn", "starlette", "fastapi", "torch", "sentence-transformers",
            "llama-cpp-python")  # fmt: skip


@dataclass(frozen=True)
class Server:
    """A running one."""

    url: str
    process: psutil.Process

    @property
    def memory_mb(self) -> float:
        """What it has in memory now."""
        return round(self.process.memory_info().rss / MB, 1)


def draw(model: Embedder) -> tuple[list[str], dict[str, int]]:
    """Texts in several scripts of mixed lengths, always the same, and each one's tokens."""
    chance = random.Random(0)
    pieces = [piece for text in DOCUMENTS for piece in re.findall(r"\S{1,12}\s*", text)]
    texts = []
    for _ in range(TEXTS):
        wanted = min(LONGEST, round(chance.lognormvariate(math.log(MEDIAN_TOKENS), SPREAD)))
        start = chance.randrange(len(pieces))
        text = "".join(itertools.islice(itertools.cycle(pieces), start, start + wanted))
        (tokens,) = model.count_tokens([text])
        texts.append(text[: max(8, round(len(text) * min(1.0, wanted / tokens)))])
    return texts, dict(zip(texts, model.count_tokens(texts), strict=True))


@contextmanager
def started(*command: str | Path) -> Iterator[Server]:
    """A server, ready to answer; PORT in the command is replaced. Raises RuntimeError."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryFile() as stderr:
        words = [str(word).replace("PORT", str(port)) for word in command]
        process = subprocess.Popen([sys.executable, *words], stderr=stderr)
        try:
            end = time.monotonic() + START_SECONDS
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > end:
                        stderr.seek(0)
                        words = stderr.read().decode(errors="replace").strip().splitlines()
                        raise RuntimeError(words[-1] if words else "it did not start") from None
                    time.sleep(0.1)
            yield Server(f"http://127.0.0.1:{port}", psutil.Process(process.pid))
        finally:
            process.terminate()
            process.wait()


def singles(texts: Sequence[str], counts: dict[str, int], clients: int) -> list[Iterator[Payload]]:
    """For each client, one text a request, each beginning elsewhere in `texts`."""
    payloads = [payload([text], counts, encoding_format="base64") for text in texts]
    step = len(payloads) // clients or 1
    return [itertools.cycle(payloads[n * step :] + payloads[: n * step]) for n in range(clients)]


def queries() -> Iterator[Payload]:
    """One question a request, behind the model's instruction."""
    counts = dict.fromkeys(QUERIES, 0)
    return itertools.cycle(
        [payload([q], counts, encoding_format="base64", input_type="query") for q in QUERIES]
    )


def bulk(texts: Sequence[str], counts: dict[str, int]) -> Iterator[Payload]:
    """Many texts a request."""
    groups = [texts[i : i + BULK_TEXTS] for i in range(0, len(texts) - BULK_TEXTS, BULK_TEXTS)]
    return itertools.cycle([payload(group, counts, encoding_format="base64") for group in groups])


OFFLINE = """
import json, sys, time
from harrier_edge import Embedder
texts = json.load(sys.stdin)
model = Embedder(sys.argv[1])
model.encode_document(texts[:20])
begun = time.perf_counter()
model.encode_document(texts)
print(time.perf_counter() - begun)
"""


def offline(package: Path, texts: Sequence[str], counts: dict[str, int]) -> float:
    """Tokens a second that a process of its own embeds at once, as `Embedder` does by itself."""
    import json

    done = subprocess.run(
        [sys.executable, "-I", "-c", OFFLINE, str(package)],
        input=json.dumps(texts), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return sum(counts[text] for text in texts) / float(done.stdout)


def main() -> None:
    """Measure, print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, help="of a measurement (20); nothing is kept")
    parser.add_argument("--clients", type=int, nargs="+", help="other numbers; likewise")
    parser.add_argument("--without-peers", action="store_true", help="likewise")
    parser.add_argument("--package", type=Path, help="another than the stand-in's; likewise")
    args = parser.parse_args()
    seconds = args.seconds or 20.0
    package = args.package or cached_package(gemma3_270m(), "int8")
    model = Embedder(package)
    texts, counts = draw(model)
    del model
    result: dict[str, Any] = {**machine(), **versions(*PACKAGES), "seconds": seconds}
    rows: list[list[object]] = []

    def show(name: str, clients: int, seen: Seen, memory_mb: float) -> None:
        figures = {
            "tokens_per_second": round(seen.tokens_a_second, 1),
            "p50_ms": round(seen.percentile_ms(50), 1),
            "p99_ms": round(seen.percentile_ms(99), 1),
            "fairness": round(seen.fairness, 3),
            "failed": seen.failed,
            "rss_mb": memory_mb,
            "client_cpu_share": round(seen.cpu_share, 3),
        }
        rows.append([f"{name}, {clients} clients", *figures.values()])
        key = "_".join("".join(c if c.isalnum() else " " for c in name).split())
        result.update({f"{key}_{clients}_{what}": value for what, value in figures.items()})

    say("offline")
    rates = [offline(package, texts[:OFFLINE_TEXTS], counts)]
    with started("-I", "-m", "harrier_edge", "serve", package, "--port", "PORT", "-q") as server:
        for clients in args.clients or CLIENTS:
            say(f"{clients} clients")
            seen = run(server.url, singles(texts, counts, clients), seconds)
            show("harrier-edge", clients, seen, server.memory_mb)
        say("queries, idle")
        idle = run(server.url, [queries()], seconds, pause_seconds=QUERY_PAUSE_SECONDS)
        say("queries beside bulk")
        beside = [bulk(texts[n * 100 :] + texts[: n * 100], counts) for n in range(BULK_CLIENTS)]
        busy = run(
            server.url, [queries()], 2 * seconds, pause_seconds=QUERY_PAUSE_SECONDS, beside=beside
        )
        for name, one in (("idle", idle), ("beside_bulk", busy)):
            for percent in (50, 99):
                result[f"query_{name}_p{percent}_ms"] = round(one.percentile_ms(percent), 2)
            result[f"query_{name}_count"] = len(one.latencies)
    say("offline again")
    rates.append(offline(package, texts[:OFFLINE_TEXTS], counts))
    absent: dict[str, str] = {
        "infinity": "infinity-emb 0.0.78 needs numpy below 2, which harrier-edge does not"
    }
    best = 0.0
    for name in () if args.without_peers else PEERS:
        say(name)
        try:
            make_files(name, gemma3_270m())
            program = Path(__file__).with_name("peers_served.py")
            with started(program, name, "PORT") as server:
                seen = run(server.url, singles(texts, counts, MEASURED), seconds)
                show(name, MEASURED, seen, server.memory_mb)
                best = max(best, seen.tokens_a_second)
        except (EndedError, RuntimeError) as error:
            absent[name] = str(error)[:300]
    columns = ["tokens/s", "p50 ms", "p99 ms", "fairness", "failed", "MB", "clients' CPU"]
    print_table(["", *columns], rows)
    for name, reason in absent.items():
        print(f"absent: {name}: {reason}")
    ours = result.get(f"harrier_edge_{MEASURED}_tokens_per_second", math.nan)
    alone = result.get("harrier_edge_1_tokens_per_second", math.nan)
    result |= {
        "absent": absent,
        "offline_tokens_per_second": [round(rate, 1) for rate in rates],
        "of_offline_64": round(ours / (sum(rates) / len(rates)), 3),
        "over_best_peer_64": round(ours / best, 3) if best else None,
        "batching_gain": round(ours / alone, 3),
        "p99_over_idle_p50": round(busy.percentile_ms(99) / idle.percentile_ms(50), 3),
    }
    is_whole = not (args.seconds or args.clients or args.without_peers or args.package)
    finish("serving", result, keep=is_whole)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
