"""What is answered under which path."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from harrier_edge.embedder import Embedder
from harrier_edge.encoding import OnOverflow, cut_dimensions
from harrier_edge.errors import HarrierError, UsageError
from harrier_edge.prompts import choose_prompt
from harrier_edge.server.answers import RefusedError, answer, fault, fault_of
from harrier_edge.server.batching import BULK_NICENESS, Batcher
from harrier_edge.server.guard import Limits, gone, read_body
from harrier_edge.server.metrics import Metrics
from harrier_edge.server.models import Models
from harrier_edge.session import BATCH_TOKENS, CACHED_TEXT_TOKENS
from harrier_edge.tokens import TokenizedText
from harrier_edge.vectors import Vectors
from harrier_edge.wire import (
    CountRequest,
    Counts,
    Embedding,
    EmbeddingList,
    EmbeddingsRequest,
    EmbedRequest,
    Input,
    InputType,
    ModelList,
    Usage,
    decode,
    texts_or_ids,
    to_wire,
)

SMALL_BODY_BYTES = 16 * 2**10
SMALL_ANSWER_TEXTS = 16
IDLE_CHECK_SECONDS = 1.0
GONE = 499  # nginx's status, for the metrics: nobody hears it

logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Wanted:
    """What is to be embedded, whichever interface it came by."""

    model: str
    input: Input
    input_type: InputType | None
    prompt: str | None
    prompt_name: str | None
    task: str | None
    on_overflow: OnOverflow
    user: str | None = None


def _wanted(
    asked: EmbeddingsRequest | EmbedRequest,
    texts: Input,
    on_overflow: OnOverflow,
    user: str | None = None,
) -> Wanted:
    return Wanted(
        asked.model,
        texts,
        asked.input_type,
        asked.prompt,
        asked.prompt_name,
        asked.task,
        on_overflow,
        user,
    )


@dataclass(frozen=True)
class Embedded:
    """The vectors of a request, and what its texts were."""

    vectors: Vectors  # (n, dimension) float32
    texts: Sequence[TokenizedText]


class Service:
    """The handlers, and what they work with."""

    def __init__(self, models: Models, batcher: Batcher, limits: Limits) -> None:
        """Answer with `models`, through `batcher`. Both are the caller's to close."""
        self._models = models
        self._batcher = batcher
        self._limits = limits
        self._metrics = Metrics(batcher, models)
        # What is small does not wait for what is large; and what is large stands back.
        self._small = ThreadPoolExecutor(2, "harrier-edge-small")
        self._large = ThreadPoolExecutor(2, "harrier-edge-large", _stand_back)
        self._loading = ThreadPoolExecutor(1, "harrier-edge-loading")

    def application(self) -> Starlette:
        """The ASGI application."""
        routes = [
            ("/v1/embeddings", self.embeddings, "POST"),
            ("/v1/models", self.list_models, "GET"),
            ("/v1/models/{name:path}", self.tell_model, "GET"),
            ("/v1/token_counts", self.count_tokens, "POST"),
            ("/embed", self.embed, "POST"),
            ("/health", self.health, "GET"),
            ("/metrics", self.metrics, "GET"),
        ]
        return Starlette(
            routes=[
                Route(path, self._answered(path, handler), methods=[method])
                for path, handler, method in routes
            ],
            exception_handlers={HTTPException: _no_such_path},
            lifespan=self._alive,
        )

    async def embeddings(self, request: Request) -> Response:
        """OpenAI's POST /v1/embeddings."""
        body = await read_body(request, self._limits)
        asked = await self._aside(len(body), decode, body, EmbeddingsRequest)
        wanted = _wanted(asked, asked.input, asked.on_overflow, asked.user)
        embedded = await self._embedded(request, wanted, len(body))

        def written() -> Response:
            vectors = _cut(embedded.vectors, asked.dimensions, normalize=True)
            tokens = sum(len(text.ids) for text in embedded.texts)
            rows = to_wire(vectors, asked.encoding_format)
            data = [
                Embedding(index, row, tokens=len(text.ids), cut_tokens=text.cut_tokens)
                for index, (row, text) in enumerate(zip(rows, embedded.texts, strict=True))
            ]
            name = asked.model or self._models.told().id
            return answer(EmbeddingList(data, name, usage=Usage(tokens, tokens)))

        return await self._written(len(embedded.texts), written)

    async def embed(self, request: Request) -> Response:
        """TEI's POST /embed."""
        body = await read_body(request, self._limits)
        asked = await self._aside(len(body), decode, body, EmbedRequest)
        wanted = _wanted(asked, asked.inputs, "truncate" if asked.truncate else "error")
        embedded = await self._embedded(request, wanted, len(body))

        def written() -> Response:
            return answer(_cut(embedded.vectors, asked.dimensions, asked.normalize).tolist())

        return await self._written(len(embedded.texts), written)

    async def count_tokens(self, request: Request) -> Response:
        """POST /v1/token_counts, for who cuts documents to a number of tokens."""
        body = await read_body(request, self._limits)
        asked = await self._aside(len(body), decode, body, CountRequest)
        async with self._model(asked.model) as model:
            counts = await self._aside(len(body), model.count_tokens, asked.input)
        return answer(Counts(counts))

    async def list_models(self, request: Request) -> Response:
        """OpenAI's GET /v1/models."""
        return answer(ModelList(self._models.all_told()))

    async def tell_model(self, request: Request) -> Response:
        """OpenAI's GET /v1/models/NAME."""
        return answer(self._models.told(request.path_params["name"]))

    async def health(self, request: Request) -> Response:
        """200 for as long as requests are taken."""
        return answer({"status": "ok"})

    async def metrics(self, request: Request) -> Response:
        """Counters and gauges, as Prometheus reads them."""
        return Response(self._metrics.text(), media_type=self._metrics.media_type)

    async def _embedded(self, request: Request, wanted: Wanted, body_bytes: int) -> Embedded:
        """Tokenize, embed in common batches, and give up when the client goes."""
        told = self._models.told(wanted.model)
        texts, ids = texts_or_ids(wanted.input)
        presets = {"query": told.query_preset, "document": told.document_preset, None: ""}
        prompt = choose_prompt(
            told.prompts,
            presets[wanted.input_type],
            prompt=wanted.prompt,
            prompt_name=wanted.prompt_name,
            task=wanted.task,
        )
        if ids and prompt:
            raise UsageError("a prompt goes before texts, not before token ids; give texts.")
        characters = len(prompt) * len(texts)  # the texts alone are bounded by the body
        if characters > self._limits.body_bytes:
            raise RefusedError(
                413,
                f"the prompt before each of {len(texts)} texts makes {characters} characters; "
                f"wanted {self._limits.body_bytes} at most. Send fewer texts at once, or a shorter "
                "prompt.",
            )
        async with self._model(wanted.model) as model:
            if ids:
                run = partial(model.complete, ids, on_overflow=wanted.on_overflow)
            else:
                run = partial(model.tokenize, texts, prompt=prompt, on_overflow=wanted.on_overflow)
            tokenized = await self._aside(body_bytes, _known, model, run)
            whole = [text.ids for text in tokenized]
            future = self._batcher.submit(
                model,
                whole,
                client=_client(request, wanted.user),
                prompt=prompt,
                urgent=_urgent(tokenized, wanted.input_type),
            )
            return Embedded(await _unless_gone(request, future), tokenized)

    @asynccontextmanager
    async def _model(self, name: str) -> AsyncIterator[Embedder]:
        """The model called `name`, loaded beside everything else if need be."""
        using = self._models.using(name)
        if self._models.is_loaded(name):
            model = using.__enter__()
        else:
            loop = asyncio.get_running_loop()
            model = await loop.run_in_executor(self._loading, using.__enter__)
        try:
            yield model
        finally:
            using.__exit__(None, None, None)

    async def _aside(self, size: int, run: Callable[..., T], *args: object) -> T:
        """Run in a thread what would hold others up; `size` is of what it works on, in bytes."""
        pool = self._small if size <= SMALL_BODY_BYTES else self._large
        return await asyncio.get_running_loop().run_in_executor(pool, run, *args)

    async def _written(self, texts: int, write: Callable[[], Response]) -> Response:
        if texts <= SMALL_ANSWER_TEXTS:
            return write()
        return await asyncio.get_running_loop().run_in_executor(self._large, write)

    def _answered(
        self, path: str, handler: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """`handler`, its errors made answers, and all of it counted."""

        async def run(request: Request) -> Response:
            begun = time.perf_counter()
            response = await _or_fault(handler, request)
            seconds = time.perf_counter() - begun
            self._metrics.count(path, response.status_code, seconds)
            logger.info("%s %d %.1f ms", path, response.status_code, seconds * 1000)
            return response

        return run

    @asynccontextmanager
    async def _alive(self, app: Starlette) -> AsyncIterator[None]:
        """From start to end: idle models are unloaded meanwhile."""

        async def unload() -> None:
            while True:
                await asyncio.sleep(IDLE_CHECK_SECONDS)
                self._models.unload_idle()

        unloading = asyncio.create_task(unload())
        yield
        unloading.cancel()
        for pool in (self._small, self._large, self._loading):
            pool.shutdown()


def _stand_back() -> None:
    """Let the threads of queries go before this one."""
    if sys.platform == "linux":
        with suppress(OSError):  # some sandboxes forbid it
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), BULK_NICENESS)


async def _or_fault(
    handler: Callable[[Request], Awaitable[Response]], request: Request
) -> Response:
    try:
        return await handler(request)
    except RefusedError as error:
        return fault(error.status, str(error))
    except ClientDisconnect:
        return fault(GONE, "the client has gone.")
    except HarrierError as error:
        return fault_of(error)
    except Exception as error:
        # Without the message, which may hold a part of a text.
        where = "".join(traceback.format_tb(error.__traceback__))
        logger.error("%s, a bug; please report it:\n%s", type(error).__name__, where)
        return fault(500, "that was a bug of the server; its log has more.")


async def _no_such_path(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    refusal = fault(error.status_code, error.detail)
    refusal.headers.update(error.headers or {})
    return refusal


async def _unless_gone(request: Request, future: Future[Vectors]) -> Vectors:
    """The result. Raises ClientDisconnect, and cancels `future`, when the client goes before."""
    result = asyncio.wrap_future(future)
    leaving = asyncio.create_task(gone(request))
    either: set[asyncio.Future[Any]] = {result, leaving}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            raise ClientDisconnect
        return result.result()
    finally:
        leaving.cancel()
        result.cancel()


def _known(model: Embedder, tokenize: Callable[[], list[TokenizedText]]) -> list[TokenizedText]:
    """What `tokenize` gives. Raises UsageError where the model does not have all of its ids."""
    tokenized = tokenize()
    model.require_known([text.ids for text in tokenized])
    return tokenized


def _client(request: Request, user: str | None) -> Hashable:
    """For whom the queue is fair: who says so, else each connection from here, or address."""
    if user:
        return user
    host, port = request.client or ("", 0)
    return (host, port) if host in ("127.0.0.1", "::1") else host


def _urgent(texts: Sequence[TokenizedText], input_type: InputType | None) -> bool:
    """Whether somebody waits for it: one query, or what is as short as one."""
    tokens = sum(len(text.ids) for text in texts)
    if input_type == "query" and len(texts) == 1:
        return tokens <= BATCH_TOKENS
    return tokens <= CACHED_TEXT_TOKENS


def _cut(vectors: Vectors, dimensions: int | None, normalize: bool) -> Vectors:
    if dimensions in (None, vectors.shape[1]):
        return vectors
    return cut_dimensions(vectors, dimensions, normalize)
