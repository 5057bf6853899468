"""HTTP to a server: connections that are kept, and patience while it works, is busy or restarts."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from harrier_edge.errors import RemoteError, UsageError
from harrier_edge.wire import key_bytes

if TYPE_CHECKING:
    import urllib3

CONNECT_SECONDS = 10.0  # to the address that was given
TELL_SECONDS = 60.0  # for a server to tell what it has, which some do once a model is loaded
SEND_SECONDS = 30.0  # urllib3 takes the limit for connecting for sending a request as well
FEW = 2  # times that something is sent again which hardly goes better later
LONGEST_WAIT_SECONDS = 60  # whatever a server's Retry-After says
# A server that has died under a request is noticed after two minutes, where the platform has these;
# TCP_KEEPALIVE is macOS's TCP_KEEPIDLE.
KEEP_ALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPALIVE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}


class Transport:
    """Requests to one server. Safe to share between threads."""

    def __init__(
        self, root: str, key: str | None, *, timeout: float, retries: int, connections: int
    ) -> None:
        """`root` is the URL below which all paths are; `connections` are kept at a time.

        An answer may take `timeout` seconds to begin, and a request is sent again up to `retries`
        times while there is hope. Raises UsageError where no header holds `key`, or there is no
        urllib3.
        """
        try:
            import urllib3  # an extra
        except ModuleNotFoundError as error:
            raise UsageError(
                "a server's models need urllib3. Install it with: pip install "
                "'harrier-edge[remote]'"
            ) from error

        self._root, self._timeout, self._retries = root, timeout, retries
        # http.client writes a header in Latin-1, and thus the key's own bytes.
        bearer = f"Bearer {key_bytes(key).decode('latin-1')}" if key else None
        self.pool = urllib3.PoolManager(
            maxsize=connections,
            headers={"Authorization": bearer} if bearer else None,
            timeout=urllib3.Timeout(connect=SEND_SECONDS, read=timeout),
            retries=_retry(retries, unconnected=retries),
            socket_options=[
                (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),  # urllib3's own, which these replace
                (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
                *(
                    (socket.IPPROTO_TCP, getattr(socket, name), value)
                    for name, value in KEEP_ALIVE.items()
                    if hasattr(socket, name)
                ),
            ],
        )

    def get(self, path: str) -> tuple[int, bytes]:
        """Ask what the server has, with less patience: status and body. Raises RemoteError."""
        import urllib3

        limits = urllib3.Timeout(connect=CONNECT_SECONDS, read=min(TELL_SECONDS, self._timeout))
        retries = _retry(self._retries, unconnected=FEW)
        return self._request("GET", path, timeout=limits, retries=retries)

    def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Send JSON: status and body. Raises RemoteError where the server cannot be reached."""
        headers = {**self.pool.headers, "Content-Type": "application/json"}
        return self._request("POST", path, body=body, headers=headers)

    def _request(self, method: str, path: str, **options: object) -> tuple[int, bytes]:
        import urllib3

        try:
            response = self.pool.request(method, f"{self._root}{path}", **options)  # type: ignore[arg-type]
        except urllib3.exceptions.HTTPError as error:
            raise RemoteError(
                f"{self._root}: cannot be reached ({_reason(error)}). Check the address, and "
                "whether the server runs."
            ) from error
        return response.status, response.data


def _retry(retries: int, unconnected: int) -> urllib3.Retry:
    """Send again up to `retries` times, where there is no connection up to `unconnected` times."""
    import urllib3

    return urllib3.Retry(
        total=retries,
        connect=min(unconnected, retries),
        read=min(FEW, retries),
        status_forcelist=(429, 502, 503, 504),
        allowed_methods=None,  # to embed once more changes nothing
        backoff_factor=0.25,  # the second time after 0.5 s, then 1 s, 2 s, …
        backoff_jitter=0.25,
        backoff_max=LONGEST_WAIT_SECONDS,
        retry_after_max=LONGEST_WAIT_SECONDS,
        raise_on_status=False,
    )


def _reason(error: Exception) -> str:
    """What is at the bottom of one of urllib3's errors."""
    inner = getattr(error, "reason", None)
    return str(inner) if inner else str(error)
