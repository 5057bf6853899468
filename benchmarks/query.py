"""Latency of one query of 24 tokens, its instruction kept from the query before or not; peers.

The 24 tokens are all that the model is given: the standard instruction's 18, the query's own, and
the final one. All contenders are given the same ids and take turns, one query each; medians are
compared. The curve against the query's own length has ours alone. So has the comparison of 2,000
queries in many scripts with and without what is kept: their token ids, and their vectors. About
five minutes.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contenders import CACHED, FAITHFUL_PEERS, OURS
from contest import say
from long_documents import document
from process import EndedError, Process, make_files
from protocol import PROMPT, shape_of
from real_queries import real_queries, scripts
from report import finish, flat_key, machine, print_table, versions
from shapes import CHECKPOINTS, result_name, shape_option

from harrier_edge.package import open_package
from harrier_edge.session import CACHED_TEXT_TOKENS
from harrier_edge.tokens import Tokenizer
from harrier_edge.vectors import Vectors
from harrier_export.parity import row_cosines

TOKENS, QUERIES = 24, 10
LENGTHS = (22, 24, 32, 48, 64)  # of ours; longer ones go without what is kept
OWN, UNCACHED = f"{CACHED} int8", f"{OURS} int8"
PACKAGES = ("onnxruntime", "torch", "transformers", "sentence-transformers", "llama-cpp-python")


def queries(checkpoint: Path, length: int) -> list[list[int]]:
    """QUERIES texts of `length` token ids: the instruction, some real text, the final token."""
    beginning, words = _parts(checkpoint)
    own = length - len(beginning) - 1
    end = shape_of(checkpoint).end
    return [[*beginning, *words[i : i + own], end] for i in range(QUERIES)]


@functools.cache
def _parts(checkpoint: Path) -> tuple[list[int], list[int]]:
    """The instruction's token ids, and real text's."""
    end = shape_of(checkpoint).end
    tokenizer = Tokenizer(checkpoint / "tokenizer.json", final_token=end, max_tokens=512)
    return tokenizer.beginning(PROMPT), document(checkpoint, 512)[1:-1]


def medians(
    processes: dict[str, Process], texts: Sequence[list[int]], rounds: int
) -> dict[str, float]:
    """Contender -> median of milliseconds a query."""
    times: dict[str, list[float]] = {name: [] for name in processes}
    for turn in range(rounds):
        for name, process in processes.items():
            seconds = process.seconds([texts[turn % len(texts)]], 1)
            if turn:  # the first fills what is kept
                times[name].append(seconds)
    return {name: statistics.median(seen) * 1000 for name, seen in times.items()}


def main() -> None:
    """Measure, print tables, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    shape_option(parser)
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--agreeing", type=int, default=2000, metavar="N", help="queries compared")
    parser.add_argument("--only", action="append", metavar="NAME", help="nothing is kept")
    args = parser.parse_args()
    checkpoint = CHECKPOINTS[args.shape]()
    processes: dict[str, Process] = {}
    absent: dict[str, str] = {}
    for name in args.only or (OWN, UNCACHED, *FAITHFUL_PEERS):
        say(name)
        try:
            processes[name] = Process(name, checkpoint, make_files(name, checkpoint).path)
        except EndedError as error:
            absent[name] = str(error)
    texts = queries(checkpoint, TOKENS)
    p50 = medians(processes, texts, args.rounds)
    print_table(["", "p50 ms"], [[name, f"{ms:.2f}"] for name, ms in p50.items()])
    for name, reason in absent.items():
        print(f"absent: {name}: {reason}")
    result: dict[str, Any] = {
        **machine(),
        **versions(*PACKAGES),
        "shape": args.shape,
        "absent": absent,
    }
    result |= {f"{flat_key(name)}_p50_ms": round(ms, 3) for name, ms in p50.items()}
    peers = [p50[name] for name in FAITHFUL_PEERS if name in p50]
    if OWN in p50:
        result["p50_ms"] = round(p50[OWN], 3)
        if UNCACHED in p50:
            result["cached_over_uncached"] = round(p50[OWN] / p50[UNCACHED], 3)
            result["min_cosine_to_uncached"] = round(_agreement(processes, texts), 7)
            ours = {name: processes[name] for name in (OWN, UNCACHED)}
            for length in LENGTHS:
                seen = medians(ours, queries(checkpoint, length), 2 + args.rounds // 3)
                result[f"p50_ms_{length}"] = round(seen[OWN], 3)
                result[f"cached_over_uncached_{length}"] = round(seen[OWN] / seen[UNCACHED], 3)
            result |= proof(processes, checkpoint, args.agreeing)
        if peers:
            result["over_best_peer"] = round(p50[OWN] / min(peers), 3)
    for process in processes.values():
        process.close()
    finish(result_name("query", args.shape), result, keep=not args.only)


def proof(processes: dict[str, Process], checkpoint: Path, count: int) -> dict[str, Any]:
    """How `count` queries in many scripts are with what is kept, against without.

    The ids are equal where the compiled tokenizer, by which the package's queries are split into
    the instruction's tokens and others, gives those that `tokenizers` gives for the whole text.
    """
    from tokenizers import Tokenizer as Plain

    asked = real_queries(count)
    texts = [PROMPT + query for query in asked]
    package = open_package(make_files(OWN, checkpoint).path)
    tokenizer = Tokenizer(
        package.folder / "tokenizer.json",
        final_token=package.manifest.tokens.final,
        max_tokens=512,
        compiled=package.manifest.compiled_tokenizer,
    )
    beginning = tokenizer.beginning(PROMPT)
    ids = [text.ids for text in tokenizer.encode(texts)]
    plain = Plain.from_file(str(package.folder / "tokenizer.json"))
    wanted = [one.ids for one in plain.encode_batch(texts)]
    behind = [beginning + one[len(beginning) :] for one in ids]
    short = [one for one in ids if len(one) <= CACHED_TEXT_TOKENS]
    return {
        "cached_uncached_queries": len(short),
        "cached_uncached_scripts": len(scripts(asked)),
        "cached_ids_equal": behind == wanted,
        "cached_uncached_min_cosine": round(_agreement(processes, short), 7),
    }


def _agreement(processes: dict[str, Process], texts: Sequence[list[int]]) -> float:
    """The lowest cosine of a vector with what is kept to that without."""
    rows: list[Vectors] = [
        processes[name].run(list(texts), 1, vectors=True)["vectors"] for name in (OWN, UNCACHED)
    ]
    return float(row_cosines(*rows).min())


if __name__ == "__main__":
    main()
