"""A server in a process of its own, as its users start it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

PROGRAM = """
import dataclasses, sys
from harrier_edge.cli import main
from harrier_edge.server import guard, serve
changed = eval(f"dict({sys.argv[1]})")
limits = dataclasses.replace(guard.Limits(), **changed)
make = serve.ServerOptions
serve.ServerOptions = lambda **options: make(**options, limits=limits)
sys.exit(main(["serve", *sys.argv[2:]]))
"""


@dataclass(frozen=True)
class Served:
    """A running server."""

    url: str
    process: subprocess.Popen[str]
    log: Path

    def post(self, path: str, body: object, **options: object) -> httpx.Response:
        """POST `body` as JSON."""
        return httpx.post(f"{self.url}{path}", json=body, timeout=60, **options)  # type: ignore[arg-type]

    def get(self, path: str, **options: object) -> httpx.Response:
        """GET."""
        return httpx.get(f"{self.url}{path}", timeout=60, **options)  # type: ignore[arg-type]

    def connect(self) -> socket.socket:
        """A connection of its own, for what no client would send."""
        port = int(self.url.rpartition(":")[2])
        return socket.create_connection(("127.0.0.1", port), timeout=60)


@contextmanager
def served(
    folder: Path, *arguments: str | Path, limits: str = "", **variables: str
) -> Iterator[Served]:
    """`harrier-edge serve ARGUMENTS` on any free port, ended by SIGTERM; its log is in `folder`.

    `limits` are other arguments of `Limits` than the default.
    """
    log = folder / "server.log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, limits, "--port", "0", *map(str, arguments)],
            stderr=stderr,
            text=True,
            env={**os.environ, "HARRIER_EDGE_CACHE_DIR": str(folder / "cache"), **variables},
        )
    try:
        while not (found := re.search(r"serving on (\S+)", log.read_text())):
            if process.poll() is not None:
                raise RuntimeError(log.read_text())
            time.sleep(0.02)
        yield Served(found[1], process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
