"""Speed, memory and fidelity of embedding, against peers: same weights, same token ids, one run.

Every contender has a process of its own that stays loaded. They take turns, several rounds a
measurement, so that a machine which slows down slows down for all; medians are compared.
Run it with `make bench` on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from contenders import CONTENDERS, Ids
from report import finish, machine, print_table, versions
from standins.gemma3_270m import gemma3_270m
from standins.packages import cached_package

from harrier_edge.tokens import Tokenizer
from harrier_export import reference
from harrier_export.parity import MAX_TEXT_TOKENS, row_cosines
from harrier_export.precision import PRECISIONS
from harrier_export.texts import parity_texts

OURS = "harrier-edge"
BOS, EOS = 2, 1
DOCUMENT_LENGTHS = (64, 256, 1024)
ROUND_TOKENS = 4096  # of documents, a contender and round
BATCHES = (1, 4, 16)  # texts at once; each contender is measured at the size that suits it best
QUERY_TOKENS = 24
QUERIES = 40  # a contender and round


class Peer:
    """One contender's process."""

    def __init__(self, name: str) -> None:
        self.name = name
        command = [sys.executable, str(Path(__file__).with_name("contenders.py")), name]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        loaded = self._answer()
        self.load_s: float = loaded["load_s"]
        self.rss_mb: float = loaded["rss_mb"]
        self.peak_mb = self.rss_mb
        self.best_batch: dict[int, int] = {}

    def run(self, batches: list[Ids], *, vectors: bool = False) -> dict[str, Any]:
        """Embed `batches` one after the other."""
        assert self._process.stdin
        job = json.dumps({"batches": batches, "vectors": vectors})
        self._process.stdin.write(job.encode() + b"\n")
        self._process.stdin.flush()
        answer = self._answer()
        self.rss_mb, self.peak_mb = answer["rss_mb"], answer["peak_mb"]
        return answer

    def tokens_per_second(self, texts: Ids, batch: int) -> float:
        """How fast `texts` are embedded, `batch` at a time."""
        batches = [texts[i : i + batch] for i in range(0, len(texts), batch)]
        seconds: float = self.run(batches)["seconds"]
        return sum(map(len, texts)) / seconds

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            assert self._process.stderr
            tail = self._process.stderr.read().decode()[-2000:]
            raise SystemExit(f"{self.name} ended: {tail}\nAre the peers there? make bench-peers")
        answer: dict[str, Any] = json.loads(line)
        return answer


def windows(tokens: list[int], length: int) -> Iterator[list[int]]:
    """Endless texts of `length` tokens, cut from real text one after the other."""
    at = 0
    while True:
        body = [tokens[(at + i) % len(tokens)] for i in range(length - 2)]
        yield [BOS, *body, EOS]
        at += length - 2


def measure_documents(peers: list[Peer], tokens: list[int], rounds: int) -> dict[str, Any]:
    """Tokens a second of each peer for each document length."""
    figures: dict[str, Any] = {}
    for length in DOCUMENT_LENGTHS:
        texts = windows(tokens, length)
        for peer in peers:
            # A first look, which also warms up, finds the batch size that suits this peer.
            some = [next(texts) for _ in range(max(1, ROUND_TOKENS // length // 2))]
            sizes = [size for size in BATCHES if size == 1 or size <= len(some)]
            speeds = {size: peer.tokens_per_second(some, size) for size in sizes}
            peer.best_batch[length] = max(speeds, key=lambda size: speeds[size])
        seen: dict[str, list[float]] = {peer.name: [] for peer in peers}
        for _ in range(rounds):
            some = [next(texts) for _ in range(max(1, ROUND_TOKENS // length))]
            for peer in peers:
                seen[peer.name].append(peer.tokens_per_second(some, peer.best_batch[length]))
        for name, speeds_seen in seen.items():
            figures[f"{name}, tokens/s at {length}"] = round(statistics.median(speeds_seen), 1)
        print(f"documents of {length} tokens are done", file=sys.stderr)
    return figures


def measure_queries(peers: list[Peer], tokens: list[int], rounds: int) -> dict[str, Any]:
    """Milliseconds of each peer for one short query after the other."""
    texts = windows(tokens, QUERY_TOKENS)
    seen: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for _ in range(rounds):
        some = [next(texts) for _ in range(QUERIES)]
        for peer in peers:
            peer.run([some[:1]])
            seen[peer.name] += [peer.run([[query]])["seconds"] * 1000 for query in some]
    figures = {}
    for name, times in seen.items():
        figures[f"{name}, query p50 ms"] = round(statistics.median(times), 2)
        figures[f"{name}, query p99 ms"] = round(float(np.percentile(times, 99)), 2)
    return figures


def measure_fidelity(peers: list[Peer], texts: list[list[int]]) -> dict[str, Any]:
    """Mean and minimum cosine of each peer to transformers in float32."""
    wanted = reference.transformers_vectors(gemma3_270m(), texts, lambda done: None)
    figures: dict[str, Any] = {}
    for peer in peers:
        vectors = peer.run([[text] for text in texts], vectors=True)["vectors"]
        cosines = row_cosines(vectors, wanted)
        figures[f"{peer.name}, mean cosine"] = round(float(cosines.mean()), 6)
        figures[f"{peer.name}, min cosine"] = round(float(cosines.min()), 6)
    return figures


def ratios(figures: dict[str, Any]) -> dict[str, float]:
    """Our int8 over the fastest peer, at each length and for queries."""
    peers = [name for name in CONTENDERS if not name.startswith(OURS)]
    result = {}
    for length in DOCUMENT_LENGTHS:
        best = max(figures[f"{name}, tokens/s at {length}"] for name in peers)
        ours = figures[f"{OURS} int8, tokens/s at {length}"]
        result[f"int8_over_best_peer_{length}"] = round(ours / best, 3)
    best = min(figures[f"{name}, query p50 ms"] for name in peers)
    result["int8_query_over_best_peer"] = round(best / figures[f"{OURS} int8, query p50 ms"], 3)
    return result


def main() -> None:
    """Measure, print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    tokenizer = Tokenizer(
        gemma3_270m() / "tokenizer.json", final_token=EOS, max_tokens=MAX_TEXT_TOKENS
    )
    texts = [text.ids for text in tokenizer.encode(parity_texts())]
    tokens = [token for text in texts for token in text[1:-1]]

    for precision in PRECISIONS:
        cached_package(gemma3_270m(), precision)  # else its export would count as loading
    peers = [Peer(name) for name in CONTENDERS]
    figures: dict[str, Any] = {}
    for peer in peers:
        figures[f"{peer.name}, load s"] = round(peer.load_s, 2)
    figures |= measure_queries(peers, tokens, rounds)
    figures |= measure_documents(peers, tokens, rounds)
    for peer in peers:
        figures[f"{peer.name}, rss mb"] = round(peer.rss_mb)
        figures[f"{peer.name}, peak mb"] = round(peer.peak_mb)
    figures |= measure_fidelity(peers, texts)
    for peer in peers:
        peer.close()

    columns = [
        *(f"tokens/s at {length}" for length in DOCUMENT_LENGTHS),
        *("query p50 ms", "query p99 ms", "load s", "rss mb", "peak mb"),
        *("mean cosine", "min cosine"),
    ]
    rows = [[name, *(figures[f"{name}, {column}"] for column in columns)] for name in CONTENDERS]
    print_table(["", *columns], rows)
    flat = {_key(name): value for name, value in figures.items()}
    used = versions("onnxruntime", "torch", "transformers", "sentence-transformers")
    finish("embedding", {**machine(), **used, "rounds": rounds, **ratios(figures), **flat})


def _key(name: str) -> str:
    """ "harrier-edge int8, tokens/s at 256" -> "harrier_edge_int8_tokens_s_at_256"."""
    words = name.replace("/", " ").replace("-", " ").replace(",", " ").split()
    return "_".join(words)


if __name__ == "__main__":
    main()
