"""A server's life: from its socket to its last answer."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from signal import SIGINT, SIGTERM

import uvicorn

from harrier_edge.errors import UsageError
from harrier_edge.machine import available_cores
from harrier_edge.server.app import Service
from harrier_edge.server.batching import Batcher
from harrier_edge.server.guard import LOOPBACK, BoundedProtocol, Guard, Limits
from harrier_edge.server.models import Models
from harrier_edge.wire import key_bytes

LAST_PORT = 2**16 - 1
MAX_WAITING_TOKENS = 2**18  # a minute or so of a 270M's work on two cores


@dataclass(frozen=True)
class ServerOptions:
    """Where and for whom to serve, and within which limits."""

    host: str = "127.0.0.1"
    port: int = 8765  # 0: any that is free
    api_key: str | None = None
    allowed_hosts: Collection[str] = ()  # besides those of the loopback
    threads: int | None = None  # that embed; by default the cores that this process may use
    max_waiting_tokens: int = MAX_WAITING_TOKENS
    limits: Limits = field(default_factory=Limits)


def serve(
    models: Models,
    options: ServerOptions,
    on_ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Answer until SIGTERM or SIGINT, then finish what is under way, and return.

    The first model is loaded before; `on_ready` gets the URL that is then served.

    Has to be called by the main thread, which is the one that signals reach.

    Raises UsageError where the address cannot be had, or is open to others and there is no key,
    or where no client could send the key, and what `Embedder` raises.
    """
    loopback = options.host in LOOPBACK
    if not loopback and not options.api_key:
        raise UsageError(
            f"{options.host} can be reached from other machines, and there is no key. Set "
            "HARRIER_EDGE_API_KEY (or --api-key), which clients then send as their API key."
        )
    key = key_bytes(options.api_key) if options.api_key else None
    # Behind a key, whoever knows it may come by any name.
    names = {*LOOPBACK, options.host, *options.allowed_hosts}
    hosts = {name.lower() for name in names} if loopback or options.allowed_hosts else None
    with _listen(options.host, options.port) as listener:
        with models.using():
            pass
        batcher = Batcher(options.threads or available_cores(), options.max_waiting_tokens)
        try:
            app = Service(models, batcher, options.limits).application()
            host, port = listener.getsockname()[:2]
            server = _Server(
                _config(Guard(app, hosts, key, options.limits), options.limits),
                lambda: on_ready(f"http://{f'[{host}]' if ':' in host else host}:{port}"),
            )
            server.run(sockets=[listener])
        finally:
            batcher.close()


class _Server(uvicorn.Server):
    """uvicorn's server, telling when it is ready, and to which a signal is a normal end."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End by a signal, which uvicorn would raise again once all is done."""
        before = {one: signal.signal(one, self.handle_exit) for one in (SIGINT, SIGTERM)}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and tell."""
        await super().startup(sockets)
        if self.started:
            self._on_started()


def _config(app: Guard, limits: Limits) -> uvicorn.Config:
    # Its warnings are about malformed requests, of which there may be many.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)

    class Protocol(BoundedProtocol):
        head_seconds = limits.head_seconds
        send_seconds = limits.send_seconds

    return uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=limits.head_bytes,
        limit_concurrency=limits.connections,
        timeout_graceful_shutdown=round(limits.drain_seconds),
    )


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= LAST_PORT:
        raise UsageError(f"the port is {port}; wanted 0 (any that is free) to {LAST_PORT}.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise UsageError(
            f"{host}:{port} cannot be listened on: {error.strerror or error}. Choose another "
            "--port, or end what has it."
        ) from error
