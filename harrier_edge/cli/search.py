"""`harrier-edge search`: the passages that answer a query."""

from __future__ import annotations

import argparse

from harrier_edge.cli.common import index_option, model_options, prompt_options, to_json

HELP = "find passages by meaning and by word"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("query", nargs="+", metavar="WORD", help="what to look for")
    parser.add_argument("-n", "--limit", type=int, default=10, metavar="N", help="hits (10)")
    parser.add_argument("--mode", choices=["hybrid", "vector", "text"], default="hybrid")
    parser.add_argument("--min-score", type=float, metavar="SCORE", help="leave out what is below")
    prompt_options(parser)
    index_option(parser)
    model_options(parser)
    parser.add_argument("--full", action="store_true", help="whole passages, not snippets")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="one JSON array")
    shape.add_argument("--jsonl", action="store_true", help="one JSON line a hit")


def run(args: argparse.Namespace) -> int:
    """Search and print. No hit is not a failure."""
    from harrier_edge.index import Index
    from harrier_edge.places import index_file

    with Index.open(
        args.db or index_file(), model=args.model, precision=args.precision, create=False
    ) as index:
        hits = index.search(
            " ".join(args.query),
            top_k=args.limit,
            mode=args.mode,
            min_score=args.min_score,
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
            text = hit.text if args.full else hit.snippet
            print("".join(f"      {line}\n" for line in text.splitlines()))
    return 0
