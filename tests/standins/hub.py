"""A model hub on this machine: the routes of the real one, and its failures on demand."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

TINY = "owner/tiny"  # what tests call their repository
LARGE = (".safetensors", ".onnx", ".onnx_data", "tokenizer.json")  # in LFS, behind a redirect


@dataclass
class Fault:
    """What happens to the next requests for a file or for the listing."""

    status: int = 0  # answer with it in place of the bytes
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None  # close the connection after so many bytes
    wrong: bool = False  # flip a bit
    slow_s: float = 0.0  # before the bytes
    times: int = 1
    then: Fault | None = None  # what follows


@dataclass
class FakeHub:
    """Repositories by name; `faults` by file name, "" for the listing; every request is noted."""

    url: str = ""
    repositories: dict[str, tuple[str, dict[str, bytes]]] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    announced: dict[str, Any] = field(default_factory=dict)  # replaces what the listing tells
    token: str = ""  # wanted, if not empty

    def add(self, name: str, folder: Path, commit: str = "c" * 40) -> str:
        """Publish the files of a folder; returns the commit."""
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        self.repositories[name] = (commit, files)
        return commit

    def asked(self, method: str, part: str) -> list[dict[str, str]]:
        """The headers of the requests so far whose path has `part` in it."""
        return [headers for verb, path, headers in self.requests if verb == method and part in path]


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """A hub that serves until the block ends."""
    hub = FakeHub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, {**self.headers}))
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path):
            self._listing(*match.groups())
        elif match := re.fullmatch(r"/cdn/([^/]+/[^/]+)/(.+)", path):
            self._bytes(match[2], self.hub.repositories[match[1]][1][match[2]], {})
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(*match.groups())
        else:
            self._fail(404, {"X-Error-Code": "RepoNotFound"})

    def _fail(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": "0", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def _fault(self, name: str) -> Fault:
        fault = self.hub.faults.get(name)
        while fault is not None and fault.times == 0:
            fault = fault.then
        if fault is None:
            return Fault()
        fault.times -= 1
        return fault

    def _allowed(self) -> bool:
        wanted = self.hub.token
        if wanted and self.headers.get("Authorization") != f"Bearer {wanted}":
            self._fail(401, {"X-Error-Code": "GatedRepo"})
            return False
        return True

    def _listing(self, name: str, revision: str) -> None:
        fault = self._fault("")
        if fault.status:
            return self._fail(fault.status, fault.headers)
        if not self._allowed():
            return None
        if name not in self.hub.repositories:
            return self._fail(404, {"X-Error-Code": "RepoNotFound"})
        commit, files = self.hub.repositories[name]
        if revision not in (commit, "main"):
            return self._fail(404, {"X-Error-Code": "RevisionNotFound"})
        body = json.dumps(
            {
                "id": name,
                "sha": commit,
                "siblings": [self._sibling(file, data) for file, data in files.items()],
                **self.hub.announced,
            }
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        return None

    def _sibling(self, name: str, data: bytes) -> dict[str, Any]:
        sibling: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": _git_sha1(data)}
        if name.endswith(LARGE):
            sibling["lfs"] = {"size": len(data), "sha256": _sha256(data), "pointerSize": 134}
        return sibling

    def _resolve(self, name: str, commit: str, file: str) -> None:
        if not self._allowed():
            return None
        own, files = self.hub.repositories[name]
        if commit != own or file not in files:
            return self._fail(404, {"X-Error-Code": "EntryNotFound"})
        data = files[file]
        headers = {"X-Repo-Commit": commit}
        if not file.endswith(LARGE):
            return self._bytes(file, data, {**headers, "ETag": f'"{_git_sha1(data)}"'})
        self.send_response(302)
        for key, value in {
            **headers,
            "X-Linked-Size": str(len(data)),
            "X-Linked-Etag": f'"{_sha256(data)}"',
            "Location": f"{self.hub.url}/cdn/{name}/{file}",
            "Content-Length": "0",
        }.items():
            self.send_header(key, value)
        self.end_headers()
        return None

    def _bytes(self, file: str, data: bytes, headers: dict[str, str]) -> None:
        fault = self._fault(file) if self.command == "GET" else Fault()
        if fault.status:
            return self._fail(fault.status, fault.headers)
        time.sleep(fault.slow_s)
        start = 0
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(match[1])
        if fault.wrong:
            data = data[:-1] + bytes([data[-1] ^ 1])
        body = data[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[: fault.cut_after])
        return None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
