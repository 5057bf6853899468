"""`harrier-edge embed`: texts in, vectors out as JSON."""

from __future__ import annotations

import argparse
import re
import sys

from harrier_edge.cli.common import model_options, prompt_options, to_json
from harrier_edge.errors import UsageError

_NO_UTF8 = re.compile("[\udc80-\udcff]+")  # what Python makes of such bytes

HELP = "embed texts, given as arguments or as lines on stdin"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("texts", nargs="*", metavar="TEXT")
    model_options(parser)
    parser.add_argument(
        "--query", action="store_true", help="these are queries: put the instruction before each"
    )
    prompt_options(parser)
    parser.add_argument(
        "--on-overflow", choices=["truncate", "error"], default="truncate", help="of a long text"
    )
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="one JSON array, not a line a text")
    shape.add_argument("--jsonl", action="store_true", help="one JSON line a text (the default)")


def run(args: argparse.Namespace) -> int:
    """Embed and print."""
    from harrier_edge.admission import find_model, loaded  # loads ONNX Runtime
    from harrier_edge.package import default_package
    from harrier_edge.prompts import choose_prompt

    if (args.instruct or args.prompt_name) and not args.query:
        raise UsageError("--instruct and --prompt-name are for queries; add --query.")
    texts = args.texts or [line.rstrip("\n") for line in sys.stdin]
    for number, text in enumerate(texts, 1):
        _require_utf8(text, number)
    model = args.model or default_package(args.precision)
    embedder = loaded(find_model(model, args.precision))
    prompt = embedder.document_prompt
    if args.query:
        prompt = choose_prompt(
            embedder.prompts,
            embedder.query_preset,
            prompt_name=args.prompt_name,
            task=args.instruct,
        )
    result = embedder.embed(texts, prompt=prompt, on_overflow=args.on_overflow)
    rows = [
        {
            "text": text,
            "tokens": tokens,
            "cut_tokens": cut_tokens,
            "embedding": vector.tolist(),
        }
        for text, tokens, cut_tokens, vector in zip(
            texts, result.tokens, result.cut_tokens, result.vectors, strict=True
        )
    ]
    if args.json:
        print(to_json(rows))
    else:
        for row in rows:
            print(to_json(row))
    return 0


def _require_utf8(text: str, number: int) -> None:
    """Raise UsageError for bytes that stood where UTF-8 is wanted; Python passes them through."""
    if found := _NO_UTF8.search(text):
        seen = found[0].encode("utf-8", "surrogateescape")
        raise UsageError(
            f"text {number} has {seen!r} at character {found.start() + 1}; wanted UTF-8. Convert "
            "it first, as with: iconv -f LATIN1 -t UTF-8"
        )
