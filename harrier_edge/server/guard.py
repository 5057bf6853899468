"""Who may ask, and how much: the checks that stand before every answer, and bounded bodies."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from harrier_edge.server.answers import RefusedError, fault

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
OPEN_PATHS = ("/health",)  # for whoever watches over the server, without a key


@dataclass(frozen=True)
class Limits:
    """What a client may take of the server, besides the queue."""

    body_bytes: int = 8 * 2**20
    head_bytes: int = 16 * 2**10
    head_seconds: float = 10.0  # from the connection or the former answer to a whole head
    body_seconds: float = 30.0
    send_seconds: float = 30.0  # to take a part of the answer
    drain_seconds: float = 30.0  # for what is under way when the server is told to end
    connections: int = 2048


class Guard:
    """An application behind the checks of host, origin and key, and the limit on sending."""

    def __init__(
        self, app: ASGIApp, hosts: Collection[str] | None, key: bytes | None, limits: Limits
    ) -> None:
        """`hosts` are the names under which the server may be asked for; None for any.

        `key` is what clients have to send, if anything, as `key_bytes` gives it.

        A web page can have its own name point to 127.0.0.1 (DNS rebinding), but not ask under
        another name than that, nor hide its origin.
        """
        self._app = app
        self._hosts = hosts
        self._key = key
        self._send_seconds = limits.send_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse to."""

        async def send_in_time(message: Message) -> None:
            await asyncio.wait_for(send(message), self._send_seconds)

        if scope["type"] == "http" and (refusal := self._refusal(scope)):
            await refusal(scope, receive, send_in_time)
        else:
            await self._app(scope, receive, send_in_time)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if self._hosts is not None:
            for name, value in (
                ("Host", f"//{headers.get('host', '')}"),
                ("Origin", headers.get("origin")),
            ):
                if value is not None and _hostname(value) not in self._hosts:
                    return fault(403, f"{name} is not one of this server's; see --allow-host.")
        if self._key and scope["path"] not in OPEN_PATHS:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            given_key = given.encode("latin-1").strip()  # the bytes that came
            if scheme.lower() != "bearer" or not hmac.compare_digest(given_key, self._key):
                refusal = fault(401, "wanted this server's key: Authorization: Bearer KEY.")
                refusal.headers["WWW-Authenticate"] = "Bearer"
                return refusal
        return None


def _hostname(url: str) -> str:
    """The name in a URL, without its port; "" where there is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


async def read_body(request: Request, limits: Limits) -> bytearray:
    """The whole JSON body. Raises RefusedError where it is none, too large or too slow."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise RefusedError(415, "the body's Content-Type has to be application/json.")
    length = request.headers.get("content-length", "0")
    too_large = RefusedError(413, f"the body may have {limits.body_bytes} bytes at most.")
    if int(length) > limits.body_bytes:  # the protocol has checked that it is a number
        raise too_large
    body = bytearray()

    async def read() -> None:
        async for part in request.stream():
            body.extend(part)
            if len(body) > limits.body_bytes:
                raise too_large

    try:
        await asyncio.wait_for(read(), limits.body_seconds)
    except asyncio.TimeoutError:
        raise RefusedError(408, f"the body has not come in {limits.body_seconds} s.") from None
    return body


async def gone(request: Request) -> None:
    """Return when the client has closed the connection. For after the body was read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class BoundedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, but that a head has to come, and an answer be read, in time.

    uvicorn itself waits without end for the rest of a request of which a byte has come, and for a
    client to read what asyncio has taken of an answer, which is all of it. This is h11's and not
    httptools' protocol since that has no limit on the size of a head.
    """

    head_seconds = Limits.head_seconds
    send_seconds = Limits.send_seconds
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to wait for the first head."""
        super().connection_made(transport)  # type: ignore[arg-type]  # as asyncio hands it over
        self._awaited = self.loop.call_later(self.head_seconds, self._end_headless)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._awaited.cancel()
        if self._unread:
            self._unread.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Start to wait for the next head, and for the answer to be read."""
        self._awaited.cancel()
        self._awaited = self.loop.call_later(self.head_seconds, self._end_headless)
        self._end_unread()
        super().on_response_complete()

    def _end_headless(self) -> None:
        """Close the connection, unless a request is being answered."""
        cycle: Any = self.cycle
        if cycle is None or cycle.response_complete:
            self.transport.close()  # once all is read, to which `_end_unread` sees

    def _end_unread(self, before: int | None = None) -> None:
        """Cut the connection where no less is left to send than `before`; else look again later."""
        if self._unread:
            self._unread.cancel()
        left = self.transport.get_write_buffer_size()
        if before is not None and left >= before:
            self.transport.abort()
        elif left:
            self._unread = self.loop.call_later(self.send_seconds, self._end_unread, left)
