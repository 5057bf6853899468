"""The command `harrier-edge`: reads the arguments, calls one command, turns errors into exit codes.

0 done, 1 an expected failure, 2 wrong usage, 3 a bug, 130 interrupted.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import NoReturn

from harrier_edge.errors import HarrierError, UsageError

COMMANDS = (
    "pull",
    "models",
    "package",
    "export",
    "embed",
    "add",
    "update",
    "watch",
    "search",
    "remove",
    "status",
    "reembed",
    "compact",
    "backup",
    "dump",
    "load",
    "bench",
    "doctor",
    "serve",
)
DONE, FAILURE, USAGE, BUG, INTERRUPTED = 0, 1, 2, 3, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    args = _parser(argv).parse_args(argv)
    logging.basicConfig(
        format="harrier-edge: %(message)s",
        level={-1: logging.ERROR, 0: logging.WARNING}.get(
            max(-1, args.verbose - args.quiet), logging.DEBUG
        ),
    )
    if memory := getattr(args, "model_memory", None):
        os.environ["HARRIER_EDGE_MEMORY"] = memory  # for the model, wherever it is loaded
    try:
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except UsageError as error:
        return _fail(USAGE, error)
    except HarrierError as error:
        return _fail(FAILURE, error)
    except KeyboardInterrupt:
        return _fail(INTERRUPTED, "interrupted; what was committed is kept, run again to go on")
    except BrokenPipeError:
        # The reader of our output has gone (`| head`): not an error, but nothing more to print.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception:
        traceback.print_exc()
        return _fail(BUG, "that was a bug; please report the lines above")


def program() -> NoReturn:
    """What the command runs: `main`, as a process of its own.

    After a search it ends at once: to free tokenizer and weights piece by piece takes a tenth of
    the time that one waits for.
    """
    _speak_utf8()
    code = main()
    if sys.argv[1:2] == ["search"]:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # whoever read it has gone
                stream.flush()
        os._exit(code)
    sys.exit(code)


def _speak_utf8() -> None:
    """Have files and pipes read and written in UTF-8, whatever the system's own encoding is.

    A terminal keeps its own, and shows a question mark for what that does not have.
    """
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None where there is no console
            stream.reconfigure(
                encoding=stream.encoding if stream.isatty() else "utf-8",
                errors="surrogateescape" if stream is sys.stdin else "replace",
            )


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """For all commands; where `argv` begins with one, for that alone, and no other is imported."""
    parser = argparse.ArgumentParser(
        prog="harrier-edge", description="Semantic search on this device, with Harrier embeddings."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the release")
    both = argparse.ArgumentParser(add_help=False)
    both.add_argument("-q", "--quiet", action="count", default=0, help="no progress, only errors")
    both.add_argument("-v", "--verbose", action="count", default=0, help="tell more on stderr")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name in [name for name in argv[:1] if name in COMMANDS] or COMMANDS:
        module = import_module(f"{__name__}.{name}")
        command = commands.add_parser(
            name, help=module.HELP, description=module.HELP, parents=[both]
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


class _Version(argparse.Action):
    """Looks the version up only when asked, since that costs more than all other imports here."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"harrier-edge {version('harrier-edge')}")
        parser.exit()


def _fail(code: int, message: object) -> int:
    print(f"harrier-edge: {message}", file=sys.stderr)
    return code
