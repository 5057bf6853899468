"""`harrier-edge serve`: models over HTTP."""

from __future__ import annotations

import argparse
import os
import sys

from harrier_edge.cli.common import byte_size
from harrier_edge.errors import UsageError

HELP = "serve models over HTTP, as OpenAI's and TEI's clients expect it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help="packages' folders or models' names; the first is for requests that name none",
    )
    parser.add_argument("--precision", help="which of several packages of these models")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8765, help="0 for any that is free (8765)")
    parser.add_argument(
        "--api-key",
        default=os.environ.get("HARRIER_EDGE_API_KEY") or None,
        metavar="KEY",
        help="what clients have to send; better in $HARRIER_EDGE_API_KEY, which no list of "
        "processes shows. Required where other machines can reach the server",
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name under which, or for whose web pages, the server may be asked for",
    )
    parser.add_argument(
        "--alias",
        action="append",
        default=[],
        metavar="NAME=MODEL",
        help="another name for a model, such as text-embedding-3-small=harrier-270m",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="that embed (one a core)")
    parser.add_argument(
        "--providers", metavar="NAMES", help="ONNX Runtime's, in order of preference: CUDA,CPU"
    )
    parser.add_argument(
        "--memory",
        type=byte_size,
        metavar="SIZE",
        help="what the packages of all loaded models may have together, like 4GB (no limit)",
    )
    parser.add_argument(
        "--idle",
        type=float,
        default=900.0,
        metavar="SECONDS",
        help="after which an unused model is unloaded; 0 for never (900)",
    )
    parser.add_argument(
        "--max-waiting-tokens",
        type=int,
        default=2**18,
        metavar="N",
        help="after which further requests are told to come later (262144)",
    )


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C, which are its normal ends."""
    from harrier_edge.package import default_package, find_package

    try:
        from harrier_edge.server.models import Models
        from harrier_edge.server.serve import ServerOptions, serve
    except ModuleNotFoundError as error:
        raise UsageError(
            f"serving needs {error.name}. Install it with: pip install 'harrier-edge[server]'"
        ) from error

    for name in ("threads", "max_waiting_tokens"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} is {value}; wanted 1 or more.")
    folders = [find_package(model, args.precision) for model in args.models]
    models = Models(
        folders or [default_package(args.precision)],
        aliases=dict(map(_alias, args.alias)),
        threads=args.threads,
        providers=args.providers.split(",") if args.providers else None,
        memory_bytes=args.memory,
        idle_seconds=args.idle or None,
    )
    options = ServerOptions(
        host=args.host,
        port=args.port,
        api_key=args.api_key,
        allowed_hosts=args.allow_host,
        threads=args.threads,
        max_waiting_tokens=args.max_waiting_tokens,
    )
    serve(models, options, lambda url: print(f"serving on {url}", file=sys.stderr, flush=True))
    return 0


def _alias(text: str) -> tuple[str, str]:
    name, equals, model = text.partition("=")
    if not (name and equals and model):
        raise UsageError(f"--alias is {text!r}; wanted NAME=MODEL.")
    return name, model
