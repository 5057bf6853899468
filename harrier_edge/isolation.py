"""Work in a process of its own, which may die without harm to this one."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from harrier_edge.errors import HarrierError, ModelError


def in_own_process(work: Callable[..., Any], *arguments: object) -> Any:
    """What `work` returns, called in a fresh process.

    Raises ModelError, in the words of what went wrong, where it raises or its process dies.
    """
    context = multiprocessing.get_context("spawn")  # a fork would start with our memory
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, work, arguments), daemon=True)
    process.start()
    sender.close()  # the child has its own; with ours open, its death would not be seen
    try:
        error, result = receiver.recv()
    except EOFError:
        process.join()
        error = (
            f"its process ended with exit code {process.exitcode}. If that is the system's answer "
            "to a lack of memory, close other programs or take a smaller package."
        )
    finally:
        receiver.close()
        process.kill()
        process.join()
        process.close()
    if error:
        raise ModelError(error)
    return result


def _answer(sender: Connection, work: Callable[..., Any], arguments: Sequence[object]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer; it kills us
    try:
        sender.send(("", work(*arguments)))
    except HarrierError as error:
        sender.send((str(error), None))
    except Exception as error:  # ONNX Runtime's have no common base class of their own
        sender.send((f"{type(error).__name__}: {error}", None))


def python_command(program: str, *arguments: str) -> list[str]:
    """The command that runs `program`, a text in Python, in a process of its own.

    `arguments` are its `sys.argv[1:]`. It imports from where this process does, be that from what
    `pip install --user` or PYTHONPATH brought, but never from the working folder, whose files may
    be anybody's; only harrier_edge itself may stand there. It speaks UTF-8 and does not warn.
    """
    try:
        here: Path | None = Path.cwd()
    except FileNotFoundError:
        here = None  # it has been removed
    ours = Path(__file__).parents[1]
    folders = [
        folder
        for folder in sys.path
        if Path(folder).is_absolute() and (Path(folder) != here or Path(folder) == ours)
    ]
    # -I alone leaves out the user's folder too; without it Python 3.13 imports from the working
    # folder before the first line runs. In ASCII, since the two may decode arguments differently.
    first = f"import sys; sys.path[:] = {folders!a}\n"
    return [sys.executable, "-I", "-X", "utf8", "-W", "ignore", "-c", first + program, *arguments]
