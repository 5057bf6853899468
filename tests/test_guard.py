"""What the server takes of nobody, and whom it waits for no longer."""

from __future__ import annotations

import json
import socket
import time
from contextlib import suppress
from http.client import HTTPResponse
from pathlib import Path

import psutil
import pytest
from served import Served, served

from harrier_edge.cli import main
from harrier_edge.errors import UsageError
from harrier_edge.package import find_package
from harrier_edge.server.models import Models


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "99999"], "the port is 99999; wanted 0 (any that is free) to 65535"),
        (["--port", "-1"], "the port is -1"),
        (["--api-key", "secret\n", "--port", "-1"], "the API key has a line's end"),
        (["--alias", "a=gpt"], "alias 'a' is for 'gpt', which is not served here; there is: tiny"),
    ],
)
def test_arguments_that_cannot_work_are_refused(
    tiny_package: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    """As wrong usage, before anything is served."""
    assert main(["serve", str(tiny_package), *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "secret" not in said


def test_an_alias_may_be_of_any_name(tiny_package: Path) -> None:
    """Of a former alias too; one for no model is wrong usage, as from the command line."""
    models = Models([tiny_package], aliases={"a": "tiny-gemma-fp32", "b": "a"})
    assert models.told("b").id == "tiny-gemma"
    with pytest.raises(UsageError, match="alias 'a' is for ''"):
        Models([tiny_package], aliases={"a": ""})


def asked_for_much(server: Served, *, close: bool) -> socket.socket:
    """A connection that is owed 7 MB, more than any system takes of an answer by itself."""
    body = json.dumps({"inputs": [[3]] * 1000}).encode()
    head = "POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Connection: {'close' if close else 'keep-alive'}\r\n"
    connection = server.connect()
    connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return connection


def is_whole(connection: socket.socket, pause: float = 0.0) -> bool:
    """Read an answer in parts of a megabyte with a pause after each; whether all of it came."""
    received = 0
    with connection, HTTPResponse(connection) as answer:
        answer.begin()
        with suppress(ConnectionError):
            while part := answer.read(2**20):
                received += len(part)
                time.sleep(pause)
        return received == int(answer.headers["Content-Length"])


def test_who_does_not_read_is_cut_off(tmp_path: Path) -> None:
    """With all that is left for it, at once; who reads slowly gets everything."""
    with served(tmp_path, find_package("kestrel"), limits="send_seconds=1.0") as server:
        silent = [asked_for_much(server, close=close) for close in (True, False)]
        slow = asked_for_much(server, close=True)
        assert is_whole(slow, pause=0.25)
        mine = {connection.getsockname()[1] for connection in silent}
        process = psutil.Process(server.process.pid)

        def open_ports() -> set[int]:
            return {one.raddr.port for one in process.net_connections("tcp") if one.raddr}

        end = time.monotonic() + 30
        while mine & open_ports():
            assert time.monotonic() < end
            time.sleep(0.02)
        for connection in silent:
            assert not is_whole(connection)
