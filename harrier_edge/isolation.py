"""Work in a process of its own, which may die without harm to this one."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harrier_edge.errors import HarrierError, ModelError

_CHILD = "from harrier_edge.isolation import _answer; _answer()"


def in_own_process(work: Callable[..., Any], *arguments: object) -> Any:
    """What `work` returns, called in a fresh process, which starts with none of our memory.

    Raises ModelError, in the words of what went wrong, where it raises or its process dies.
    """
    process = subprocess.Popen(
        python_command(_CHILD), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        answer, _ = process.communicate(pickle.dumps((work, arguments)))
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        raise ModelError(
            f"its process ended with exit code {process.returncode}. If that is the system's "
            "answer to a lack of memory, close other programs or take a smaller package."
        )
    error, result = pickle.loads(answer)
    if error:
        raise ModelError(error)
    return result


def _answer() -> None:
    """In the other process: do the work that comes on stdin and give what it returns on stdout."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer; it kills us
    with os.fdopen(os.dup(1), "wb") as stdout:
        os.dup2(2, 1)  # what a library prints is no answer
        work, arguments = pickle.load(sys.stdin.buffer)
        try:
            answer = "", work(*arguments)
        except HarrierError as error:
            answer = str(error), None
        except Exception as error:  # ONNX Runtime's have no common base class of their own
            answer = f"{type(error).__name__}: {error}", None
        pickle.dump(answer, stdout)


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
