"""The server, over real sockets."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr
from served import Served, served

from harrier_edge.cli import main
from harrier_edge.embedder import Embedder
from harrier_edge.package import find_package
from harrier_edge.vectors import Vectors
from harrier_edge.wire import from_wire

TEXTS = ["A falcon.", "", "日本語のテキスト", "word " * 150, "\0", "A falcon."]


@pytest.fixture(scope="module")
def server(tiny_package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of the tiny model under two names, for whoever asks under an allowed name."""
    folder = tmp_path_factory.mktemp("server")
    arguments = (tiny_package, "--alias", "text-embedding-3-small=tiny-gemma", "-v")
    with served(folder, *arguments, "--allow-host", "harrier.lan") as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[openai.OpenAI]:
    """OpenAI's own client."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def vectors_of(answer: Any) -> Vectors:
    """The vectors in an answer of OpenAI's interface."""
    return from_wire([row["embedding"] for row in answer.json()["data"]])


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until it holds; half a minute at most."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def metric(server: Served, name: str) -> float:
    """The value of a metric without labels."""
    found = re.search(rf"^{name} (\S+)$", server.get("/metrics").text, re.MULTILINE)
    assert found, name
    return float(found[1])


def test_openais_client_gets_the_bits_of_the_embedder(
    client: openai.OpenAI, tiny_embedder: Embedder
) -> None:
    """For a text, a list, token ids and lists of them; as floats and in base64."""
    wanted = tiny_embedder.encode(TEXTS)
    ids = [text.ids for text in tiny_embedder.tokenize(TEXTS)]
    assert ids[0][0] == 2 and ids[0][-1] == 1
    for encoding in ("float", "base64"):
        for texts in (TEXTS, ids, [one[1:-1] or one for one in ids]):
            answer = client.embeddings.create(
                model="tiny-gemma",
                input=texts,
                encoding_format=encoding,
                user="me",
            )
            rows = [np.frombuffer(d.embedding, "<f4") if isinstance(d.embedding, bytes)
                    else d.embedding for d in answer.data]  # fmt: skip
            if encoding == "float":
                assert np.array_equal(np.array(rows, np.float32), wanted)
            assert [row.index for row in answer.data] == list(range(len(TEXTS)))
            assert answer.usage.prompt_tokens == sum(map(len, ids))
    for one in (TEXTS[0], ids[0]):
        # Without a format the client asks for base64, and decodes it.
        answer = client.embeddings.create(model="text-embedding-3-small", input=one)
        assert np.array_equal(np.array(answer.data[0].embedding, np.float32), wanted[0])


def test_base64_is_little_endian_float32(server: Served, tiny_embedder: Embedder) -> None:
    """And holds every bit; numbers in lists do too."""
    for encoding in ("float", "base64"):
        answer = server.post("/v1/embeddings", {"input": TEXTS, "encoding_format": encoding})
        assert np.array_equal(vectors_of(answer), tiny_embedder.encode(TEXTS))


def test_langchains_client_works(server: Served, tiny_embedder: Embedder) -> None:
    """Its class for OpenAI's embeddings, pointed here."""
    client = OpenAIEmbeddings(
        model="tiny-gemma",
        base_url=f"{server.url}/v1",
        api_key=SecretStr("none"),
        check_embedding_ctx_length=False,  # else it fetches OpenAI's tokenizer
    )
    documents = client.embed_documents(["a falcon", "an oak"])
    assert np.array_equal(
        np.array(documents, np.float32), tiny_embedder.encode(["a falcon", "an oak"])
    )


def test_prompts_are_put_by_the_server(server: Served, tiny_embedder: Embedder) -> None:
    """By kind of input, by name, by task or verbatim; never by themselves."""
    e = tiny_embedder
    for said, wanted in (
        ({}, e.encode("oaks")),
        ({"input_type": "document"}, e.encode_document("oaks")),
        ({"input_type": "query"}, e.encode_query("oaks")),
        ({"prompt_name": "sts_query"}, e.encode("oaks", prompt_name="sts_query")),
        ({"input_type": "query", "task": "Find trees"}, e.encode_query("oaks", task="Find trees")),
        ({"input_type": "query", "prompt": ""}, e.encode("oaks")),
    ):
        answer = server.post("/v1/embeddings", {"input": "oaks", **said})
        assert np.array_equal(vectors_of(answer)[0], wanted), said


def test_fewer_dimensions_are_cut_and_of_unit_length(server: Served) -> None:
    """As `truncate_dim` gives them."""
    whole = vectors_of(server.post("/v1/embeddings", {"input": "a"}))[0]
    cut = vectors_of(server.post("/v1/embeddings", {"input": "a", "dimensions": 8}))[0]
    np.testing.assert_allclose(cut, whole[:8] / np.linalg.norm(whole[:8]), rtol=1e-6)
    assert server.post("/v1/embeddings", {"input": "a", "dimensions": 65}).status_code == 400


def test_teis_interface_is_there(server: Served, tiny_embedder: Embedder) -> None:
    """/embed gives bare lists, /health is 200."""
    for inputs in ("a falcon", ["a falcon", "b"]):
        rows = server.post("/embed", {"inputs": inputs}).json()
        texts = [inputs] if isinstance(inputs, str) else inputs
        assert np.array_equal(np.array(rows, np.float32), tiny_embedder.encode(texts))
    assert server.get("/health").status_code == 200


def test_models_tell_what_they_are(server: Served, tiny_embedder: Embedder) -> None:
    """In OpenAI's form, and with what an index wants to know; one that is not served is a 404."""
    (told,) = server.get("/v1/models").json()["data"]
    assert (told["id"], told["object"]) == ("tiny-gemma", "model")
    assert told["fingerprint"] == tiny_embedder.fingerprint
    assert server.get("/v1/models/text-embedding-3-small").json() == told
    for answer in (
        server.get("/v1/models/gpt"),
        server.post("/v1/embeddings", {"input": "a", "model": "gpt"}),
    ):
        assert answer.status_code == 404
        assert "no model 'gpt' is served here; there is: tiny-gemma" in answer.text


def test_tokens_are_counted(server: Served, tiny_embedder: Embedder) -> None:
    """As the embedder counts them."""
    answer = server.post("/v1/token_counts", {"input": TEXTS})
    assert answer.json()["counts"] == tiny_embedder.count_tokens(TEXTS)


def test_clients_at_once_get_the_bits_that_each_gets_alone(
    server: Served, tiny_embedder: Embedder
) -> None:
    """Thirty-two of them, of all lengths, queries among documents."""
    batches = metric(server, "harrier_batches_total")

    def ask(number: int) -> bool:
        texts = [f"{'word ' * (7 * number % 40)}{number} {n}" for n in range(4)]
        query = number % 4 == 0
        body = {"input": texts[0] if query else texts, "input_type": "query" if query else None}
        vectors = vectors_of(server.post("/v1/embeddings", body))
        wanted = tiny_embedder.encode_query(texts[:1]) if query else tiny_embedder.encode(texts)
        return np.array_equal(vectors, wanted)

    with ThreadPoolExecutor(32) as pool:
        assert all(pool.map(ask, range(64)))
    assert metric(server, "harrier_batches_total") > batches


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"input": []}, "there is no input"),
        ({"input": ["a", 1]}, "a mixture"),
        ({"input": [["a"]]}, "Expected `int`"),
        ({"input": [[]]}, "an empty list"),
        ({"input": [-1]}, "no token id"),
        ({"input": [2**40]}, "no token id"),
        ({"input": [2**31 - 1]}, "token id 2147483647 is none of tiny-gemma's"),
        ({"input": ["a"] * 2049}, "at most 2048"),
        ({"input": "a", "dimensions": 0}, "wanted 1 to 64"),
        ({"input": "a", "encoding_format": "int8"}, "Invalid enum value"),
        ({"input": "a", "prompt_name": "x"}, "prompt 'x' is unknown"),
        ({"input": "a", "task": "x", "prompt": "y"}, "more than one"),
        ({"input": [5], "input_type": "query"}, "not before token ids"),
        ({"input": "word " * 40_000}, "takes 4096"),
        ({}, "missing required field `input`"),
        ([], "Expected `object`"),
    ],
)
def test_wrong_requests_are_told_what_is_wrong(server: Served, body: object, message: str) -> None:
    """In OpenAI's form of an error, as 400."""
    answer = server.post("/v1/embeddings", body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert message in error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:8765"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "HARRIER.lan"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:3000"}, 200),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/json; charset=utf-8"}, 200),
        ({"Content-Type": ""}, 415),
    ],
)
def test_web_pages_of_others_are_refused(
    server: Served, headers: dict[str, str], status: int
) -> None:
    """By the name they ask under, where they come from, or what a page can send unasked."""
    answer = server.post("/v1/embeddings", {"input": "a"}, headers=headers)
    assert answer.status_code == status, answer.text


MALFORMED = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=100).map(lambda text: f'{{"input": "{text}"}}'.encode()),
    st.recursive(
        st.one_of(
            st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20),
            st.sampled_from(["input", "query", "base64"]),
        ),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.dictionaries(
                st.sampled_from(
                    ["input", "inputs", "model", "dimensions", "encoding_format", "prompt", "task",
                     "prompt_name", "input_type", "user", "on_overflow", "normalize", "x"]
                ),
                inner,
                max_size=6,
            ),
        ),
        max_leaves=12,
    ).map(lambda value: json.dumps(value).encode()),
    st.integers(1, 100_000).map(lambda deep: b'{"input": ' + b"[" * deep),
)  # fmt: skip
PATHS = st.sampled_from(["/v1/embeddings", "/embed", "/v1/token_counts", "/v1/models/%00%ff", "/"])
METHODS = st.sampled_from(["POST"] * 5 + ["GET", "PUT", "OPTIONS", "BREW"])
RAW = st.one_of(
    st.binary(min_size=1, max_size=300),
    st.sampled_from(
        [
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
            b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
            b"POST /embed HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Length: 9\r\nContent-Length: 8\r\n\r\n",
            b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n",
            b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
            b"GET /health HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            b"Connection: upgrade\r\n\r\n",
            b"GET /health HTTP/1.1\r\nHost: \xff\xfe\r\nOrigin: \xff\r\n\r\n",
        ]
    ),
)


def send_malformed(server: Served, request: tuple[str, str, bytes] | bytes) -> int:
    """Send it over a socket of its own; the status of the answer, 0 for none."""
    if isinstance(request, tuple):
        method, path, body = request
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        request = head.encode() + body
    with server.connect() as connection:
        try:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            first = connection.recv(100)
        except (ConnectionError, OSError):
            return 0
    found = re.match(rb"HTTP/1.1 (\d+)", first)
    return int(found[1]) if found else 0


def no_server_error(server: Served, examples: int) -> None:
    """Send that many malformed requests; none is answered by a 5xx, and normal ones go on."""

    @given(st.one_of(st.tuples(METHODS, PATHS, MALFORMED), RAW))
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def send(request: tuple[str, str, bytes] | bytes) -> None:
        assert send_malformed(server, request) < 500

    send()
    assert server.post("/v1/embeddings", {"input": "a"}).status_code == 200


def test_malformed_requests_are_nobodys_fault_but_theirs(server: Served) -> None:
    """Three hundred of them, JSON and raw bytes: no 5xx, no bug in the log."""
    no_server_error(server, 300)
    assert "bug" not in server.log.read_text()


def test_no_text_gets_into_the_log(server: Served) -> None:
    """Not even when everything is told."""
    server.post("/v1/embeddings", {"input": "Hugin and Munin"})
    server.post("/v1/embeddings", {"input": ["Hugin and Munin", 5]})
    log = server.log.read_text()
    assert "/v1/embeddings 200" in log
    assert "/v1/embeddings 400" in log
    assert "Hugin" not in log


def test_work_of_a_client_that_has_gone_is_dropped(server: Served) -> None:
    """Its texts leave the queue."""
    body = json.dumps({"input": ["word " * 100] * 200}).encode()
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    before = metric(server, "harrier_texts_total")
    with server.connect() as connection:
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        wait_until(lambda: metric(server, "harrier_waiting_tokens") > 0)
    wait_until(lambda: metric(server, "harrier_waiting_tokens") == 0)
    assert metric(server, "harrier_texts_total") < before + 200


def test_slow_clients_are_cut_off_and_hold_nobody_up(tiny_package: Path, tmp_path: Path) -> None:
    """Half a head or half a body in time, or the connection ends; meanwhile others are served."""
    head = b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with served(tmp_path, tiny_package, limits="head_seconds=0.5, body_seconds=0.5") as server:
        slow = [server.connect() for _ in range(64)]
        for number, connection in enumerate(slow):
            connection.sendall(head + b"Content-Length: 9\r\n\r\n{" if number % 2 else head)
        assert server.post("/embed", {"inputs": "a"}).status_code == 200
        for number, connection in enumerate(slow):
            with connection:
                assert connection.recv(20).startswith(b"HTTP/1.1 408" if number % 2 else b"")
                while connection.recv(2000):
                    pass


def test_a_body_is_bounded(tiny_package: Path, tmp_path: Path) -> None:
    """Whether its length is told or not; and so is what a prompt before all texts makes of it."""
    with served(tmp_path, tiny_package, limits="body_bytes=1000") as server:
        assert server.post("/embed", {"inputs": "a" * 1000}).status_code == 413
        head = b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        with server.connect() as connection:
            chunk = b"3e8\r\n" + b"a" * 1000 + b"\r\n"
            connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 2)
            assert connection.recv(20).startswith(b"HTTP/1.1 413")
        for prompt in ({"prompt": "p" * 400}, {"task": "p" * 400}):
            answer = server.post("/v1/embeddings", {"input": ["a"] * 50, **prompt})
            assert answer.status_code == 413
            assert "each of 50 texts makes 2" in answer.json()["error"]["message"]
            assert server.post("/embed", {"inputs": ["a"] * 2, **prompt}).status_code == 200


def test_the_queue_is_bounded(tiny_package: Path, tmp_path: Path) -> None:
    """Too much at once is a 429 that says when to come again."""
    with (
        served(tmp_path, tiny_package, "--max-waiting-tokens", "9000", "--threads", "1") as server,
        ThreadPoolExecutor(16) as pool,
    ):
        body = {"input": ["word " * 100] * 4}
        answers = list(pool.map(lambda _: server.post("/v1/embeddings", body), range(16)))
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused and len(refused) < 16
        assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)


def test_told_to_end_it_finishes_what_is_under_way(tiny_package: Path, tmp_path: Path) -> None:
    """A request that has come before SIGTERM is answered, and the exit is orderly."""
    with served(tmp_path, tiny_package) as server, ThreadPoolExecutor(1) as pool:
        body = {"input": ["word " * 100] * 60}
        answer = pool.submit(server.post, "/v1/embeddings", body)
        wait_until(lambda: metric(server, "harrier_waiting_tokens") > 0)
        server.process.terminate()
        assert answer.result().status_code == 200
        assert server.process.wait(60) == 0


def test_a_key_is_asked_for(tiny_package: Path, tmp_path: Path) -> None:
    """Everywhere but at /health; behind it, any host name will do."""
    key = {"HARRIER_EDGE_API_KEY": "sésamà"}  # whose UTF-8 ends like a space of Latin-1
    with served(tmp_path, tiny_package, "--host", "0.0.0.0", **key) as found:
        server = Served(found.url.replace("0.0.0.0", "127.0.0.1"), found.process, found.log)
        assert server.get("/health").status_code == 200
        for given, status in (("", 401), ("Bearer sesame", 401), ("Bearer sésamà", 200)):
            headers = {"Authorization": given.encode(), "Host": "box.lan"}
            assert server.get("/v1/models", headers=headers).status_code == status


def test_others_are_not_served_without_a_key(
    tiny_package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor is a provider that is not there taken for another."""
    assert main(["serve", str(tiny_package), "--host", "0.0.0.0"]) == 2
    assert "there is no key" in capsys.readouterr().err
    assert main(["serve", str(tiny_package), "--providers", "CUDA,CPU", "--port", "0"]) == 2
    assert "provider 'CUDA' is not installed" in capsys.readouterr().err


def test_models_come_and_go(tiny_package: Path, tmp_path: Path) -> None:
    """Loaded when asked for, unloaded for another's memory and when nobody asks."""
    kestrel = find_package("kestrel")
    size = sum(file.stat().st_size for file in kestrel.iterdir())
    memory = f"{1 + size // 10**6}MB"  # enough for either, but not for both
    with served(tmp_path, tiny_package, kestrel, "--memory", memory, "--idle", "2") as server:

        def loaded() -> dict[str, str]:
            pattern = r'harrier_model_loaded{model="(.+)"} (\d)'
            return dict(re.findall(pattern, server.get("/metrics").text))

        assert loaded() == {"tiny-gemma": "1", "kestrel": "0"}
        assert server.post("/v1/embeddings", {"input": "a", "model": "kestrel"}).status_code == 200
        assert loaded() == {"tiny-gemma": "0", "kestrel": "1"}
        wait_until(lambda: set(loaded().values()) == {"0"})
        assert server.post("/v1/embeddings", {"input": "a"}).status_code == 200


@pytest.mark.long
def test_ten_thousand_malformed_requests(server: Served) -> None:
    """No 5xx, and the server's memory does not grow."""
    import psutil

    process = psutil.Process(server.process.pid)
    no_server_error(server, 2000)
    before = process.memory_info().rss
    no_server_error(server, 10_000)
    assert process.memory_info().rss < before + 20 * 2**20


@pytest.mark.long
def test_256_clients_at_a_byte_a_second(server: Served) -> None:
    """A normal query beside them takes less than a second."""
    head = b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    slow = [server.connect() for _ in range(256)]
    stop = threading.Event()

    def drip() -> None:
        for byte in head:
            for connection in slow:
                connection.send(bytes([byte]))
            if stop.wait(1):
                return

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        for _ in range(5):
            begun = time.perf_counter()
            answer = server.post("/v1/embeddings", {"input": "a", "input_type": "query"})
            assert answer.status_code == 200
            assert time.perf_counter() - begun < 1
    finally:
        stop.set()
        thread.join()
        for connection in slow:
            connection.close()
