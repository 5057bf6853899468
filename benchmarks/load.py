"""Clients of a server, light enough to run on its own cores: bare HTTP/1.1 on one event loop."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

PAUSE_SECONDS = 0.05  # of a client between two requests, in the mean; exponential, as in Poisson's


@dataclass(frozen=True)
class Payload:
    """The body of a request, and the tokens of its texts."""

    body: bytes
    tokens: int


def payload(texts: Sequence[str], counts: Mapping[str, int], **options: object) -> Payload:
    """What asks for the vectors of `texts`, with token counts by text."""
    body = json.dumps({"model": "", "input": list(texts), **options}).encode()
    return Payload(body, sum(counts[text] for text in texts))


@dataclass
class Seen:
    """What clients saw from the end of the warm-up on."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)  # seconds a request, sorted
    tokens: list[int] = field(default_factory=list)  # embedded for each client
    failed: int = 0
    cpu_share: float = 0.0  # of one core, that the clients themselves took

    @property
    def tokens_a_second(self) -> float:
        """Of all clients together."""
        return sum(self.tokens) / self.seconds

    @property
    def fairness(self) -> float:
        """Jain's index of the clients' tokens: 1 if all got the same, 1/n if one got all.

        Jain, Chiu and Hawe, A quantitative measure of fairness, 1984.
        """
        squares = sum(one * one for one in self.tokens)
        return sum(self.tokens) ** 2 / (len(self.tokens) * squares) if squares else 0.0

    def percentile_ms(self, percent: int) -> float:
        """A percentile of the latencies."""
        if len(self.latencies) < 2:
            return float("nan")
        return statistics.quantiles(self.latencies, n=100)[percent - 1] * 1000


class Connection:
    """One client."""

    def __init__(self, url: str, path: str = "/v1/embeddings") -> None:
        """To the server at `url`, whose interface is at `path`."""
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._head = f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\n".encode()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, body: bytes) -> bool:
        """Send a request and read its answer whole; whether it was a 200."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port, limit=2**24)
        reader, writer = self._streams
        head = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        writer.write(self._head + head + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        (length,) = (line[15:] for line in answer.split(b"\r\n") if line[:15] == b"content-length:")
        await reader.readexactly(int(length))
        if b"\r\nconnection: close" in answer:
            self.close()
        return answer[9:12] == b"200"

    def close(self) -> None:
        """Leave; what was asked for is not waited for."""
        if self._streams:
            self._streams[1].close()
            self._streams = None


def run(
    url: str,
    clients: Sequence[Iterator[Payload]],
    seconds: float,
    *,
    warm_seconds: float = 5.0,
    pause_seconds: float = PAUSE_SECONDS,
    beside: Sequence[Iterator[Payload]] = (),
) -> Seen:
    """Let clients send what they have, one request after the other, and see what comes of it.

    Those of `beside` send without a pause, and what they see is not told.
    """
    return asyncio.run(_run(url, clients, seconds, warm_seconds, pause_seconds, beside))


async def _run(
    url: str,
    clients: Sequence[Iterator[Payload]],
    seconds: float,
    warm_seconds: float,
    pause_seconds: float,
    beside: Sequence[Iterator[Payload]],
) -> Seen:
    seen = Seen(seconds, tokens=[0] * len(clients))
    begun = time.perf_counter() + warm_seconds
    chance = random.Random(0)

    async def client(number: int, payloads: Iterator[Payload]) -> None:
        connection = Connection(url)
        try:
            for one in payloads:
                if pause_seconds:
                    await asyncio.sleep(chance.expovariate(1 / pause_seconds))
                asked = time.perf_counter()
                is_answered = await connection.ask(one.body)
                now = time.perf_counter()
                if now < begun or number < 0:
                    continue
                if is_answered:
                    seen.latencies.append(now - asked)
                    seen.tokens[number] += one.tokens
                else:
                    seen.failed += 1
        finally:
            connection.close()

    tasks = [asyncio.create_task(client(n, payloads)) for n, payloads in enumerate(clients)]
    tasks += [asyncio.create_task(client(-1, payloads)) for payloads in beside]
    await asyncio.sleep(warm_seconds)
    cpu = time.process_time()
    await asyncio.sleep(seconds)
    seen.cpu_share = (time.process_time() - cpu) / seconds
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError):
            await task
    seen.latencies.sort()
    return seen
