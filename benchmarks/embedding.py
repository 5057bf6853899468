"""Speed, memory and fidelity of embedding, against peers: same weights, same token ids, one run.

Every contender has a process of its own that stays loaded. They take turns, several rounds a
measurement, so that a machine which slows down slows down for all; medians are compared. The
machine's own rate of 8-bit products is measured in the same rounds. Run it with `make bench`, or
with `--shape 0.6b` for the speed of random weights in that shape, on a machine that does nothing
else: about twelve minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from typing import Any

from contenders import BLOCKS, OURS, PEERS, TORCH
from contest import Contest, say
from protocol import Shape, shape_of
from report import finish, flat_key, machine, print_table, versions
from roofline import Roofline, linear_weights
from shapes import CHECKPOINTS, TRAINED, result_name, shape_option

from harrier_edge.tokens import Tokenizer
from harrier_export import reference
from harrier_export.parity import MAX_TEXT_TOKENS
from harrier_export.precision import PRECISIONS
from harrier_export.texts import parity_texts

DOCUMENT_LENGTHS = (64, 256, 1024, 4096)
QUERY_TOKENS = 24
FAITHFUL = 0.99  # mean cosine to fp32, of which an int8 package has 0.998
# Of the parity texts, for the cosines: all would take minutes, and `fidelity.py` has a thousand.
EVERY = 2
PACKAGES = ("onnxruntime", "torch", "transformers", "sentence-transformers", "optimum-onnx")
OTHER_PACKAGES = ("llama-cpp-python", "fastembed")


NAMES: dict[str, list[str]] = {
    TRAINED: [*(f"{OURS} {precision}" for precision in PRECISIONS), *PEERS],
    "0.6b": [
        *(f"{OURS} {precision}" for precision in ("fp32", "int8")),
        *TORCH,
        *BLOCKS,
        "optimum int8",
    ],
}


def windows(tokens: list[int], length: int, shape: Shape) -> Iterator[list[int]]:
    """Endless texts of `length` tokens, cut from real text one after the other."""
    at = 0
    inner = length - len(shape.begin) - 1
    while True:
        body = [tokens[(at + i) % len(tokens)] for i in range(inner)]
        yield [*shape.begin, *body, shape.end]
        at += inner


def ratios(figures: dict[str, Any]) -> dict[str, Any]:
    """Our int8 over the fastest peer that took part, at each length and for queries.

    That peer is named; how faithful it is, is not asked. Beside it, the same over the fastest of
    those that are about as faithful.
    """
    result: dict[str, Any] = {}
    for kind, peers in (("peer", PEERS), ("faithful_peer", _faithful(figures))):
        for length in DOCUMENT_LENGTHS:
            what = f"tokens/s at {length}"
            own, others = figures.get(f"{OURS} int8, {what}"), _of(peers, figures, what)
            if own and others:
                best = max(others, key=lambda name: others[name])
                result[f"int8_over_best_{kind}_{length}"] = round(own / others[best], 3)
                result[f"best_{kind}_{length}"] = best
        what = "query p50 ms"
        own, others = figures.get(f"{OURS} int8, {what}"), _of(peers, figures, what)
        if own and others:
            best = min(others, key=lambda name: others[name])
            result[f"int8_query_over_best_{kind}"] = round(others[best] / own, 3)
            result[f"best_{kind}_query"] = best
    return result


def _faithful(figures: dict[str, Any]) -> list[str]:
    return [name for name in PEERS if figures.get(f"{name}, mean cosine", 0) >= FAITHFUL]


def _of(names: Iterable[str], figures: dict[str, Any], what: str) -> dict[str, float]:
    return {name: figures[f"{name}, {what}"] for name in names if f"{name}, {what}" in figures}


def sizes(figures: dict[str, Any]) -> dict[str, float]:
    """Megabytes, of 10^6 bytes: whole packages with tokenizer, and the peak of everything."""
    wanted = {
        "int8_package_mb": f"{OURS} int8, disk mb",
        "int4_package_mb": f"{OURS} int4, disk mb",
        "int8_peak_mb": f"{OURS} int8, peak mb",
    }
    return {key: figures[name] for key, name in wanted.items() if name in figures}


def over_roofline(figures: dict[str, Any], config: dict[str, Any], rate: float) -> dict[str, float]:
    """The share of the products' own rate that int8 reaches end to end, at 256 tokens."""
    speed = figures.get(f"{OURS} int8, tokens/s at 256")
    if speed is None:
        return {}
    return {"int8_over_roofline_256": round(speed * 2 * linear_weights(config) / rate, 3)}


def main() -> None:
    """Measure, print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    shape_option(parser)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--seconds", type=float, default=1.5, help="a contender's time for a length and round"
    )
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="some contenders; nothing is kept"
    )
    args = parser.parse_args()
    trained = args.shape == TRAINED  # else its vectors say nothing
    checkpoint = CHECKPOINTS[args.shape]()
    shape = shape_of(checkpoint)
    config = json.loads((checkpoint / "config.json").read_text("utf-8"))
    tokenizer = Tokenizer(
        checkpoint / "tokenizer.json", final_token=shape.end, max_tokens=MAX_TEXT_TOKENS
    )
    texts = [text.ids for text in tokenizer.encode(parity_texts())]
    tokens = [token for text in texts for token in text[len(shape.begin) : -1]]

    contest = Contest(checkpoint, args.only or NAMES[args.shape], args.rounds, args.seconds)
    contest.prepare(lambda length: windows(tokens, length, shape), DOCUMENT_LENGTHS)
    contest.load()
    contest.queries(windows(tokens, QUERY_TOKENS, shape))
    roofline = Roofline(config)
    for length in DOCUMENT_LENGTHS:
        contest.documents(windows(tokens, length, shape), length, roofline.measure)
    contest.memory()
    if trained:
        say("transformers in float32 embeds the parity texts, then all contenders do")
        some = texts[::EVERY]
        wanted = reference.transformers_vectors(checkpoint, some, lambda done: None)
        contest.fidelity(some, wanted)
    contest.close()

    figures, rates = contest.figures, roofline.rates()
    _print(contest, trained=trained)
    summary = {
        **ratios(figures),
        **over_roofline(figures, config, max(rates.values())),
        **sizes(figures),
        **{f"roofline_gops_{rows}": round(rate / 1e9) for rows, rate in rates.items()},
        "absent": contest.absent,
    }
    flat = {flat_key(name): value for name, value in figures.items()}
    used = versions(*PACKAGES, *OTHER_PACKAGES)
    measured = {"shape": args.shape, "rounds": args.rounds}
    result = {**machine(), **used, **measured, **summary, **flat}
    finish(result_name("embedding", args.shape), result, keep=not args.only)


def _print(contest: Contest, *, trained: bool) -> None:
    columns = [
        *(f"tokens/s at {length}" for length in DOCUMENT_LENGTHS),
        *("query p50 ms", "query p99 ms", "load s", "rss mb", "peak mb", "disk mb"),
        *(("mean cosine", "min cosine") if trained else ()),
    ]
    figures = contest.figures
    rows = [
        [name, *(figures.get(f"{name}, {column}", "-") for column in columns)]
        for name in contest.names
    ]
    print_table(["", *columns], rows)
    for name, reason in contest.absent.items():
        print(f"absent: {name}: {reason}")


if __name__ == "__main__":
    main()
