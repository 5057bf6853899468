"""`harrier-edge search`: the passages that answer a query."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from harrier_edge.cli.common import index_option, model_options, open_index, prompt_options, to_json

if TYPE_CHECKING:
    from harrier_edge.searching import Explanation

HELP = "find passages by meaning and by word"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("query", nargs="+", metavar="WORD", help="what to look for")
    parser.add_argument("-n", "--limit", type=int, default=10, metavar="N", help="hits (10)")
    parser.add_argument("--mode", choices=["hybrid", "vector", "text"], default="hybrid")
    parser.add_argument("--min-score", type=float, metavar="SCORE", help="leave out what is below")
    parser.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="CONDITION",
        help="only documents with path=GLOB, type=, collection=, modified>=DATE, KEY=VALUE, …",
    )
    parser.add_argument(
        "--all", action="store_true", help="all passages, not only the best of each document"
    )
    parser.add_argument(
        "--candidates",
        type=int,
        default=None,
        metavar="N",
        help="how many vectors to compare as a whole: more find more of the true best",
    )
    parser.add_argument("--exact", action="store_true", help="compare all vectors as a whole")
    prompt_options(parser)
    index_option(parser)
    model_options(parser)
    parser.add_argument("--full", action="store_true", help="whole passages, not snippets")
    parser.add_argument(
        "--line-numbers", action="store_true", help="before each line that is shown"
    )
    parser.add_argument("--explain", action="store_true", help="how each hit came to its place")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="one JSON array")
    shape.add_argument("--jsonl", action="store_true", help="one JSON line a hit")


def run(args: argparse.Namespace) -> int:
    """Search and print. No hit is not a failure."""
    from harrier_edge.searching import place_of  # which --help does not pay for

    with open_index(args) as index:
        hits = index.search(
            " ".join(args.query),
            top_k=args.limit,
            mode=args.mode,
            min_score=args.min_score,
            filters=args.filter,
            every_chunk=args.all,
            candidates=args.candidates,
            exact=args.exact,
            prompt_name=args.prompt_name,
            task=args.instruct,
        )
    if args.json:
        print(to_json(hits))
    elif args.jsonl:
        for hit in hits:
            print(to_json(hit))
    else:
        for rank, hit in enumerate(hits, 1):
            print(f"{rank:2}  {hit.score:.4f}  {hit.path}:{hit.line}  {hit.title}")
            if args.explain:
                print(f"      {_explained(hit.explanation)}")
            text, first = (hit.text, hit.line) if args.full else (hit.snippet, hit.snippet_line)
            for offset, line in enumerate(text.split("\n")):
                number = first + place_of(0, hit.end_line - hit.line, hit.text, offset)
                print(f"      {f'{number:5}  ' if args.line_numbers else ''}{line}")
            print()
    return 0


def _explained(explanation: Explanation) -> str:
    """Both ranks, in words."""
    ranks = (
        ("vector", explanation.vector_rank, explanation.vector_score),
        ("text", explanation.text_rank, explanation.text_score),
    )
    return "; ".join(
        f"{name}: not found" if score is None else f"{name}: rank {rank}, score {score:.4f}"
        for name, rank, score in ranks
    )
