"""Answers in JSON, and errors in OpenAI's form."""

from __future__ import annotations

import math

import msgspec
from starlette.responses import Response

from harrier_edge.errors import (
    BusyError,
    HarrierError,
    ModelNotFoundError,
    TextTooLongError,
    UsageError,
)
from harrier_edge.wire import TOO_LONG, ErrorAnswer, Fault

JSON = "application/json"
STATUS = {ModelNotFoundError: 404, TextTooLongError: 400, UsageError: 400}


class RefusedError(Exception):
    """A request that is answered with `status` and a message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def answer(value: object) -> Response:
    """200, with `value` as JSON."""
    return Response(msgspec.json.encode(value), media_type=JSON)


def fault(status: int, message: str, code: str | None = None) -> Response:
    """An error that says `message`. The connection ends: part of the request may not be read."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    body = msgspec.json.encode(ErrorAnswer(Fault(message, kind, code)))
    return Response(body, status, {"connection": "close"}, JSON)


def fault_of(error: HarrierError) -> Response:
    """The answer to who caused, or met, an expected error."""
    if isinstance(error, BusyError):
        refusal = fault(429, str(error), "rate_limit_exceeded")
        refusal.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
        return refusal
    status = next((s for kind, s in STATUS.items() if isinstance(error, kind)), 500)
    codes = {ModelNotFoundError: "model_not_found", TextTooLongError: TOO_LONG}
    return fault(status, str(error), codes.get(type(error)))
