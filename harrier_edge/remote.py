"""Models that a server runs, with Embedder's interface.

A server of harrier-edge is told which prompt to put and what to do with long texts. From any other
that has OpenAI's interface (vLLM, text-embeddings-inference, Ollama, …) the prompts of the
catalogue, where it knows the model, are put here; what becomes of long texts is up to it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Literal, TypeVar
from urllib.parse import SplitResult, urlsplit, urlunsplit

import msgspec
import numpy as np

from harrier_edge.catalog import load, names
from harrier_edge.encoding import (
    Embeddings,
    OnOverflow,
    TextEncoder,
    behind,
    check_batch_size,
    check_on_overflow,
    progress_bar,
    unit,
)
from harrier_edge.errors import RemoteError, TextTooLongError, UsageError
from harrier_edge.hub import is_offline
from harrier_edge.prompts import choose_prompt
from harrier_edge.spec import ModelSpec
from harrier_edge.transport import Transport
from harrier_edge.wire import (
    OWNER,
    TOO_LONG,
    CountRequest,
    Counts,
    EmbeddingList,
    EmbeddingsRequest,
    ErrorAnswer,
    ModelList,
    ServedModel,
    from_wire,
)

BATCH_TEXTS = 32  # of a request
BATCH_CHARACTERS = 2**16
BYTES_A_TOKEN = 3  # of UTF-8, where a server cannot be asked: rather too many tokens than too few
UNKNOWN_MAX_TOKENS = 8192
QUERY_PRESET = "web_search_query"  # of the catalogue's models
LOOPBACK = ("localhost", "127.0.0.1", "::1")

logger = logging.getLogger(__name__)
T = TypeVar("T", bound=msgspec.Struct)
R = TypeVar("R")


class RemoteEmbedder(TextEncoder):
    """A model on a server. Safe to share between threads.

    `name`, `fingerprint`, `precision` and `fidelity` are the package's on a server of
    harrier-edge; of any other, a model's name is all there is to tell it by.
    """

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = 3600.0,
        retries: int = 8,
        concurrency: int = 4,
    ) -> None:
        """Ask the server at `base_url`, with or without "/v1", what it has.

        `model` is one of its names; by default the part of `base_url` behind a "#", else its first
        one. `api_key` defaults to `$HARRIER_EDGE_API_KEY`. A request may take `timeout` seconds to
        begin its answer, which it does when all of it is embedded: with a large model that may be
        minutes. Where the server is busy or restarts, it is sent again up to `retries` times, ever
        later (8: in the course of a minute), or when Retry-After says. `concurrency` requests go at
        a time. What the server has is asked for with less patience.

        Raises UsageError where an argument cannot work or the network is forbidden, and
        RemoteError where the server cannot be reached, refuses, or has not that model.
        """
        parts = _parts(base_url)
        if parts.hostname not in LOOPBACK and is_offline():
            raise UsageError(
                f"{parts.hostname} is another machine, and the network is forbidden by "
                "$HARRIER_EDGE_OFFLINE or $HF_HUB_OFFLINE. Unset it, or name a model of this one."
            )
        key = api_key or os.environ.get("HARRIER_EDGE_API_KEY")
        if key and parts.scheme == "http" and parts.hostname not in LOOPBACK:
            logger.warning("the key goes to %s unencrypted; better use https", parts.hostname)
        path = parts.path.rstrip("/").removesuffix("/v1")
        self._root = urlunsplit((parts.scheme, parts.netloc, path, "", ""))
        self._http = Transport(
            self._root, key, timeout=timeout, retries=retries, connections=concurrency
        )
        self._concurrency = concurrency
        self._encoding: Literal["float", "base64"] = "base64"
        told = self._told(model or parts.fragment)
        self._model = told.id
        self._is_ours = told.owned_by == OWNER
        self.url = f"{self._root}#{told.id}"
        self.name = told.name
        self.fingerprint = told.fingerprint
        self.precision = told.precision
        self.fidelity = told.fidelity
        self.max_tokens = told.max_tokens
        self.prompts = told.prompts
        self.query_preset = told.query_preset
        self.document_prompt = choose_prompt(told.prompts, told.document_preset)
        self.dimension = told.dimension or self._found_dimension()

    def embed(
        self,
        texts: Sequence[str],
        *,
        prompt: str = "",
        batch_size: int | None = None,
        show_progress_bar: bool = False,
        on_overflow: OnOverflow = "truncate",
    ) -> Embeddings:
        """Embed texts behind `prompt`, `batch_size` of them a request (default: 32).

        A server of others tells only the tokens of a whole request, which are shared out evenly.

        Raises UsageError and TextTooLongError as `Embedder.embed` does, and RemoteError.
        """
        check_on_overflow(on_overflow)
        check_batch_size(batch_size)
        whole = behind("" if self._is_ours else prompt, texts)
        ask = partial(self._embedded, prompt=prompt, on_overflow=on_overflow)
        found = []
        with progress_bar(len(texts), show_progress_bar) as advance:
            for part in self._side_by_side(ask, list(_batches(whole, batch_size or BATCH_TEXTS))):
                found.append(part)
                advance(len(part.tokens))
        empty = np.empty((0, self.dimension), np.float32)
        embeddings = Embeddings(
            np.concatenate([empty, *(part.vectors for part in found)]),
            tuple(count for part in found for count in part.tokens),
            tuple(count for part in found for count in part.cut_tokens),
        )
        if cut := sum(embeddings.cut_tokens):
            logger.warning("texts were cut to %d tokens: %d left out", self.max_tokens, cut)
        return embeddings

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text, special tokens included, before any cut.

        From a server of others no more is known than the length of the text: it is a guess then.
        """
        if not self._is_ours:
            return [2 + len(t.encode("utf-8", "replace")) // BYTES_A_TOKEN for t in texts]

        def counted(batch: Sequence[str]) -> list[int]:
            asked = CountRequest([_encodable(text) for text in batch], self._model)
            return self._answer("/v1/token_counts", asked, Counts).counts

        batches = list(_batches(texts, 2**20))
        return [count for counts in self._side_by_side(counted, batches) for count in counts]

    def _side_by_side(
        self, ask: Callable[[Sequence[str]], R], batches: list[list[str]]
    ) -> Iterator[R]:
        """The answers for all batches, in order; several are asked for at a time."""
        if len(batches) < 2:
            yield from map(ask, batches)
            return
        pool = ThreadPoolExecutor(self._concurrency, "harrier-edge-remote")
        try:
            yield from pool.map(ask, batches)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # what is under way may take minutes

    def _embedded(
        self, texts: Sequence[str], *, prompt: str, on_overflow: OnOverflow
    ) -> Embeddings:
        """One request."""
        encoding = self._encoding  # that of `self` may be another when the answer comes
        asked = EmbeddingsRequest(
            input=[_encodable(text) for text in texts],
            model=self._model,
            encoding_format=encoding,
            prompt=(prompt or None) if self._is_ours else None,
            on_overflow=on_overflow if self._is_ours else "error",  # the default is not sent
        )
        try:
            answer = self._answer("/v1/embeddings", asked, EmbeddingList)
        except _RefusedError as error:
            if self._is_ours or encoding == "float" or error.status not in (400, 422):
                raise
            self._encoding = "float"  # some know no other
            return self._embedded(texts, prompt=prompt, on_overflow=on_overflow)
        data = sorted(answer.data, key=lambda one: one.index)
        try:
            vectors = from_wire([one.embedding for one in data])
        except ValueError:
            vectors = np.empty((0, 0), np.float32)
        wanted = (len(texts), getattr(self, "dimension", vectors.shape[-1]))
        if vectors.shape != wanted or not np.isfinite(vectors).all():
            raise RemoteError(
                f"{self._root}: answered {self._model} with vectors of shape {vectors.shape}, "
                f"wanted {wanted} and finite. Is it still the same model?"
            )
        share, more = divmod(answer.usage.prompt_tokens, len(data))
        return Embeddings(
            vectors if self._is_ours else unit(vectors),
            tuple(
                one.tokens if one.tokens is not None else share + (row < more)
                for row, one in enumerate(data)
            ),
            tuple(one.cut_tokens for one in data),
        )

    def _found_dimension(self) -> int:
        found = self._embedded(["harrier"], prompt="", on_overflow="error")
        return int(found.vectors.shape[1])

    def _told(self, name: str) -> ServedModel:
        """What the server, or else the catalogue, tells of the model `name`, or of its first."""
        try:
            served = self._answer("/v1/models", None, ModelList).data
        except _RefusedError as error:
            if error.status not in (404, 405):
                raise
            served = self._of_tei()
        chosen = next((one for one in served if name in ("", one.id)), None)
        if chosen is None and served and served[0].owned_by == OWNER:
            # Perhaps by an alias, which the list does not have.
            chosen = self._answer(f"/v1/models/{name}", None, ServedModel)
        if chosen is None and name:
            chosen = ServedModel(name)  # not every server has a list, or all in it
        if chosen is None:
            raise RemoteError(f"{self._root}: tells of no model. Name one: {self._root}#MODEL")
        return chosen if chosen.owned_by == OWNER else _of_catalogue(chosen.id)

    def _of_tei(self) -> list[ServedModel]:
        """The one model of a text-embeddings-inference server."""
        try:
            return [ServedModel(self._answer("/info", None, _Info).model_id)]
        except _RefusedError:
            return []

    def _answer(self, path: str, asked: object, kind: type[T]) -> T:
        """Send `asked`, or GET where it is None, and read the answer as `kind`."""
        if asked is None:
            status, data = self._http.get(path)
        else:
            status, data = self._http.post(path, msgspec.json.encode(asked))
        if status != 200:
            raise self._refusal(status, data)
        try:
            return msgspec.json.decode(data, type=kind)
        except ValueError as error:
            raise RemoteError(
                f"{self._root}{path}: answered what is no {kind.__name__}: {error}"
            ) from error

    def _refusal(self, status: int, body: bytes) -> Exception:
        try:
            fault = msgspec.json.decode(body, type=ErrorAnswer).error
            message, code = fault.message, fault.code
        except ValueError:
            message, code = body[:200].decode("utf-8", "replace"), None
        if code == TOO_LONG and self._is_ours:
            return TextTooLongError(message)
        if status in (401, 403):
            message += " Its key goes into $HARRIER_EDGE_API_KEY, or api_key=."
        return _RefusedError(f"{self._root}: refused with {status}: {message}", status)


class _RefusedError(RemoteError):
    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class _Info(msgspec.Struct):
    """The part of TEI's GET /info that matters here."""

    model_id: str


def _parts(base_url: str) -> SplitResult:
    """A server's URL, split. Raises UsageError where it is none."""
    try:
        parts = urlsplit(base_url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # brackets, or a port, that are none
        usable = False
    if not usable:
        raise UsageError(f"base_url is {base_url!r}; wanted http://HOST:PORT or https://HOST.")
    return parts


def _of_catalogue(model: str) -> ServedModel:
    """What the catalogue knows of a model that a server of others calls `model`."""
    spec = next(filter(partial(_is_called, model.lower()), map(load, names())), None)
    if spec is None:
        return ServedModel(
            id=model,
            name=model,
            fingerprint=f"served:{model}",
            precision="served",
            max_tokens=UNKNOWN_MAX_TOKENS,
        )
    return ServedModel(
        id=model,
        name=spec.name,
        fingerprint=f"served:{spec.source.repository}",
        precision="served",
        dimension=spec.dimension,
        max_tokens=spec.tokens.max_tokens,
        prompts=spec.prompts,
        query_preset=QUERY_PRESET if QUERY_PRESET in spec.prompts else "",
    )


def _is_called(model: str, spec: ModelSpec) -> bool:
    repository = spec.source.repository.lower()
    return model in (spec.name, repository, repository.partition("/")[2])


def _batches(texts: Sequence[str], most: int) -> Iterator[list[str]]:
    """Texts in order, `most` a batch and about BATCH_CHARACTERS."""
    batch: list[str] = []
    characters = 0
    for text in texts:
        if batch and (len(batch) == most or characters + len(text) > BATCH_CHARACTERS):
            yield batch
            batch, characters = [], 0
        batch.append(text)
        characters += len(text)
    if batch:
        yield batch


def _encodable(text: str) -> str:
    """Without lone surrogates, which no JSON in UTF-8 can hold: U+FFFD as the tokenizer has it."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
