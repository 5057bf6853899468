"""Models of servers: this project's own, and those of others that a small stand-in plays."""

from __future__ import annotations

import base64
import inspect
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served import Served, served

from harrier_edge import Index, RemoteEmbedder
from harrier_edge import transport as module
from harrier_edge.cli import main
from harrier_edge.embedder import Embedder
from harrier_edge.encoding import is_url
from harrier_edge.errors import ModelMismatchError, RemoteError, TextTooLongError, UsageError
from harrier_edge.server.guard import Limits

TEXTS = ["A falcon.", "", "日本語のテキスト", "\ud800", *(f"{'word ' * n} {n}" for n in range(80))]

KEY = "voilà"  # in UTF-8 it ends with what Latin-1 takes for a space


@pytest.fixture(scope="module")
def server(tiny_package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of the tiny model, also under another name, with a key."""
    folder = tmp_path_factory.mktemp("server")
    arguments = (tiny_package, "--alias", "tiny=tiny-gemma")
    with served(folder, *arguments, HARRIER_EDGE_API_KEY=KEY) as server:
        yield server


@pytest.fixture
def remote(server: Served) -> RemoteEmbedder:
    """Its model."""
    return RemoteEmbedder(server.url, api_key=KEY)


def test_it_is_what_the_embedder_is(remote: RemoteEmbedder, tiny_embedder: Embedder) -> None:
    """The same vectors to the bit, the same counts, the same name and prompts."""
    e = tiny_embedder
    told = ("name", "fingerprint", "precision", "dimension", "max_tokens", "prompts")
    assert [getattr(remote, name) for name in told] == [getattr(e, name) for name in told]
    assert np.array_equal(remote.encode(TEXTS), e.encode(TEXTS))
    assert np.array_equal(remote.encode_query(TEXTS), e.encode_query(TEXTS))
    assert np.array_equal(
        remote.encode_query("oaks", task="Find trees"), e.encode_query("oaks", task="Find trees")
    )
    assert remote.embed_query("oaks") == e.embed_query("oaks")
    here, there = e.embed(TEXTS), remote.embed(TEXTS, batch_size=7)
    assert (there.tokens, there.cut_tokens) == (here.tokens, here.cut_tokens)
    assert remote.count_tokens(TEXTS) == e.count_tokens(TEXTS)
    assert remote.encode([]).shape == (0, 64)


def test_long_texts_are_as_they_are_here(
    remote: RemoteEmbedder, tiny_embedder: Embedder, caplog: pytest.LogCaptureFixture
) -> None:
    """Cut and told, or refused."""
    long = "word " * 1000
    cut = remote.embed([long])
    assert cut.cut_tokens == tiny_embedder.embed([long]).cut_tokens != (0,)
    assert "left out" in caplog.text
    with pytest.raises(TextTooLongError, match="tiny-gemma takes 4096"):
        remote.encode(long, on_overflow="error")


def test_a_model_goes_by_all_its_names(server: Served) -> None:
    """As an argument, in the URL, with "/v1" or without; the alias leads to the same model."""
    for url, model in (
        (f"{server.url}/v1", "tiny-gemma"),
        (f"{server.url}/v1/", "tiny"),
        (f"{server.url}#tiny-gemma-fp32", None),
    ):
        assert RemoteEmbedder(url, model, KEY).url == f"{server.url}#tiny-gemma"
    with pytest.raises(RemoteError, match="no model 'gpt' is served here"):
        RemoteEmbedder(server.url, "gpt", KEY)


def test_faults_are_told(
    server: Served, remote: RemoteEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No server, no key, wrong arguments, a forbidden network."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(RemoteError, match=r"cannot be reached .*refused"):
        RemoteEmbedder(f"http://127.0.0.1:{port}", retries=0)
    with pytest.raises(RemoteError, match=r"refused with 401.*HARRIER_EDGE_API_KEY"):
        RemoteEmbedder(server.url, api_key="wrong")
    for url in ("127.0.0.1:8765", "http://[::1:8765", "http://127.0.0.1:99999", "http://a:b"):
        with pytest.raises(UsageError, match="wanted http://HOST:PORT"):
            RemoteEmbedder(url)
    for key in ("secret\n", "sec\rret", " secret", "\udc80"):
        with pytest.raises(UsageError, match="the API key has a line's end"):
            RemoteEmbedder(server.url, api_key=key)
    for wrong in ({"batch_size": 0}, {"on_overflow": "x"}):
        with pytest.raises(UsageError):
            remote.embed(["a"], **wrong)
    monkeypatch.setenv("HARRIER_EDGE_OFFLINE", "1")
    with pytest.raises(UsageError, match="the network is forbidden"):
        RemoteEmbedder("http://box.lan:8765")
    assert is_url("https://box.lan") and not is_url(Path("http")) and not is_url("harrier-270m")


def test_an_index_is_made_and_searched_through_a_server(
    server: Served,
    tiny_package: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By the commands; with the vectors of the package itself, which may search it as well."""
    (tmp_path / "notes").mkdir()
    for name in ("falcon", "oak", "river"):
        (tmp_path / "notes" / f"{name}.md").write_text(f"# {name}\n\nAll about the {name}.\n" * 30)
    monkeypatch.setenv("HARRIER_EDGE_API_KEY", KEY)
    db, notes = str(tmp_path / "a.sqlite"), str(tmp_path / "notes")
    assert main(["add", "--db", db, "-m", server.url, notes]) == 0
    assert main(["search", "--db", db, "--json", "falcon"]) == 0  # it knows its server
    through = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert through[0]["title"] == "falcon"
    assert main(["search", "--db", db, "--json", "-m", str(tiny_package), "falcon"]) == 0
    assert json.loads(capsys.readouterr().out) == through
    with Index.open(tmp_path / "b.sqlite", model=tiny_package) as index:
        index.add(notes)
    with Index.open(tmp_path / "b.sqlite", model=server.url, create=False) as index:
        assert [hit.score for hit in index.search("falcon")] == [hit["score"] for hit in through]
    with Index.open(tmp_path / "c.sqlite", model="kestrel"):
        pass
    with pytest.raises(ModelMismatchError, match="was built by kestrel"):
        Index.open(tmp_path / "c.sqlite", model=server.url)


class Foreign(ThreadingHTTPServer):
    """A server of others: what it was asked, and how it answers."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.asked: list[dict[str, Any]] = []
        self.models: list[str] | None = ["microsoft/harrier-oss-v1-270m"]
        self.dimension = 640
        self.refuse: Callable[[dict[str, Any]], tuple[int, dict[str, str]] | None] = lambda _: None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: object) -> None:
        """Say nothing of a client that waits no longer."""


class _Handler(BaseHTTPRequestHandler):
    server: Foreign
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """A list of models, or TEI's /info."""
        if self.path == "/v1/models" and self.server.models is not None:
            self._send(200, {"data": [{"id": name} for name in self.server.models]})
        elif self.path == "/info" and self.server.models is None:
            self._send(200, {"model_id": "some/model", "dtype": "float32"})
        else:
            self._send(404, {})

    def do_POST(self) -> None:
        """Vectors of any length but one, in the wrong order."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(asked)
        if refusal := self.server.refuse(asked):
            self._send(refusal[0], {"error": {"message": "no", "type": "x"}}, refusal[1])
            return
        rows = []
        for index, text in enumerate(asked["input"]):
            vector = np.zeros(self.server.dimension, np.float32)
            vector[len(text) % self.server.dimension] = 3
            row: object = vector.tolist()
            if asked.get("encoding_format") == "base64":
                row = base64.b64encode(vector.tobytes()).decode()
            rows.append({"object": "embedding", "index": index, "embedding": row})
        answer = {"data": rows[::-1], "model": asked["model"], "usage": {"prompt_tokens": 10,
                  "total_tokens": 10}}  # fmt: skip
        self._send(200, answer)

    def _send(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def running(port: int = 0) -> Iterator[Foreign]:
    """A server of others, at any free port or at this one."""
    with Foreign(port) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def foreign() -> Iterator[Foreign]:
    """A server of others."""
    with running() as server:
        yield server


def test_a_known_model_of_others_gets_the_catalogues_prompts(foreign: Foreign) -> None:
    """Put here, into what is sent, of which nothing is an addition to OpenAI's interface."""
    remote = RemoteEmbedder(foreign.url)
    assert (remote.name, remote.dimension) == ("harrier-270m", 640)
    vectors = remote.encode_query(["a", "bcd"])
    web = remote.prompts["web_search_query"]
    (asked,) = foreign.asked
    assert asked == {
        "input": [f"{web}a", f"{web}bcd"],
        "model": "microsoft/harrier-oss-v1-270m",
        "encoding_format": "base64",
    }
    assert vectors.argmax(1).tolist() == [len(web) + 1, len(web) + 3], "in the order of the texts"
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1)
    assert remote.embed(["a", "b", "c"]).tokens == (4, 3, 3)
    remote.encode_document("oaks")
    assert foreign.asked[-1]["input"] == ["oaks"]


def test_an_unknown_model_of_others_gets_none(foreign: Foreign, tmp_path: Path) -> None:
    """Its dimension is found by trying; an index knows it by its name."""
    foreign.models, foreign.dimension = ["nomic-embed-text", "mxbai-embed-large"], 96
    remote = RemoteEmbedder(foreign.url, "mxbai-embed-large")
    assert remote.dimension == 96
    remote.encode_query("a")
    assert foreign.asked[-1]["input"] == ["a"]
    (tmp_path / "a.md").write_text("a falcon")
    with Index.open(tmp_path / "a.sqlite", model=remote) as index:
        index.add(tmp_path / "a.md")
        assert index.search("falcon")[0].title == "a"
    with pytest.raises(ModelMismatchError, match="mxbai-embed-large"):
        Index.open(tmp_path / "a.sqlite", model=f"{foreign.url}#nomic-embed-text")
    foreign.models = None
    assert RemoteEmbedder(foreign.url).name == "some/model", "as TEI tells it"


def test_a_busy_server_is_asked_again(foreign: Foreign) -> None:
    """After as long as it says; one that knows no base64 is asked for numbers."""
    tries = iter([(429, {"Retry-After": "0"}), (503, {}), (502, {})])
    foreign.refuse = lambda asked: next(tries, None)
    assert RemoteEmbedder(foreign.url).encode("abc").argmax() == 3
    assert len(foreign.asked) == 4
    foreign.refuse = lambda asked: (400, {}) if "encoding_format" in asked else None
    remote = RemoteEmbedder(foreign.url)
    assert remote.encode(["abc"]).argmax() == 3
    assert remote.encode(["abcd"]).argmax() == 4
    assert ["encoding_format" in asked for asked in foreign.asked[4:]] == [True, False, False]
    foreign.refuse = lambda asked: (400, {})
    with pytest.raises(RemoteError, match="refused with 400: no"):
        remote.encode("a")
    foreign.refuse = lambda asked: (503, {})
    with pytest.raises(RemoteError, match="refused with 503"):
        RemoteEmbedder(foreign.url, retries=1).encode("a")


def test_a_server_that_restarts_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """For longer than it drains; but an address where nothing was is given up at once."""
    waited: list[float] = []
    with ExitStack() as restarted:
        with running() as server:
            remote = RemoteEmbedder(server.url)
            port = server.server_address[1]
        remote._http.pool.clear()  # of the connection, which the thread of the old server still has

        def sleep(seconds: float) -> None:
            waited.append(seconds)
            if sum(waited[:-1]) <= Limits.drain_seconds < sum(waited):
                restarted.enter_context(running(port))

        monkeypatch.setattr(time, "sleep", sleep)
        assert remote.encode("abc").argmax() == 3
    del waited[:]
    with pytest.raises(RemoteError, match=r"cannot be reached .*refused"):
        RemoteEmbedder(f"http://127.0.0.1:{port}")
    assert sum(waited) < 2


def test_a_slow_model_is_waited_for(foreign: Foreign, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than for a connection, or for what the server has: an hour, or as long as one says."""
    for name in ("CONNECT_SECONDS", "TELL_SECONDS", "SEND_SECONDS"):
        monkeypatch.setattr(module, name, 0.5)
    foreign.refuse = lambda asked: time.sleep(0.8)
    remote = RemoteEmbedder(foreign.url)
    assert remote.encode("abc").argmax() == 3
    with pytest.raises(RemoteError, match=r"read timeout=0\.6"):
        RemoteEmbedder(foreign.url, timeout=0.6, retries=0).encode("abc")
    assert inspect.signature(RemoteEmbedder).parameters["timeout"].default >= 3600
    kept: Any = remote._http.pool.connection_from_url(foreign.url)._get_conn()
    asked = kept.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    kept.close()
    assert asked, "whether the server is alive"


def test_a_fault_is_told_while_other_requests_are_under_way(foreign: Foreign) -> None:
    """Which may take minutes."""
    asked_for, told, done = threading.Event(), threading.Event(), threading.Event()

    def refuse(asked: dict[str, Any]) -> tuple[int, dict[str, str]] | None:
        if asked["input"] == ["slow"]:
            asked_for.set()
            told.wait(20)
            done.set()
            return None
        asked_for.wait(20)
        return 403, {}

    foreign.refuse = refuse
    with pytest.raises(RemoteError, match="refused with 403"):
        RemoteEmbedder(foreign.url).encode(["fault", "slow"], batch_size=1)
    assert not done.is_set()
    told.set()


def test_one_that_knows_no_base64_may_get_several_requests_at_once(foreign: Foreign) -> None:
    """Each that was refused for it is sent again, also when another has found out before."""
    together = threading.Barrier(4, timeout=20)

    def refuse(asked: dict[str, Any]) -> tuple[int, dict[str, str]] | None:
        if "encoding_format" not in asked:
            return None
        together.wait()
        return 400, {}

    foreign.refuse = refuse
    texts = ["x" * n for n in range(8)]
    vectors = RemoteEmbedder(foreign.url, concurrency=4).encode(texts, batch_size=1)
    assert vectors.argmax(1).tolist() == list(range(8))
    assert len(foreign.asked) == 12


def test_vectors_of_another_size_are_refused(foreign: Foreign) -> None:
    """Whatever the server says that it is."""
    remote = RemoteEmbedder(foreign.url)
    foreign.dimension = 384
    with pytest.raises(RemoteError, match=r"shape \(1, 384\), wanted \(1, 640\)"):
        remote.encode("a")


def test_many_texts_go_in_requests_side_by_side_and_in_order(foreign: Foreign) -> None:
    """At most so many texts a request, and so many characters."""
    remote = RemoteEmbedder(foreign.url, concurrency=3)
    texts = ["x" * (n % 640) for n in range(500)]
    assert remote.encode(texts, batch_size=10).argmax(1).tolist() == [len(t) for t in texts]
    assert len(foreign.asked) == 50
    del foreign.asked[:]
    remote.encode(["x" * 50_000] * 3)
    assert [len(asked["input"]) for asked in foreign.asked] == [1, 1, 1]
