"""Texts to vectors: prompts, batches and limits around one loaded model."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harrier_edge.budget import memory_limit
from harrier_edge.encoding import (
    Embeddings,
    OnOverflow,
    TextEncoder,
    behind,
    check_batch_size,
    check_on_overflow,
    progress_bar,
)
from harrier_edge.errors import TextTooLongError, UsageError
from harrier_edge.graphs import table_rows
from harrier_edge.package import MODEL, TOKENIZER, find_package, open_package
from harrier_edge.prompts import choose_prompt
from harrier_edge.tokens import TokenizedText, Tokenizer
from harrier_edge.vectors import Vectors

if TYPE_CHECKING:
    from harrier_edge.session import Session

logger = logging.getLogger(__name__)

_LIMITED_TEXTS = 512  # that are tokenized at once where memory is limited


class Embedder(TextEncoder):
    """A loaded model package. Safe to share between threads.

    A forked process cannot use it, and gets UsageError: it loads its own.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        precision: str | None = None,
        threads: int | None = None,
        memory: str | int | None = None,
        providers: Sequence[str] | None = None,
    ) -> None:
        """Load a package, given its folder or the name of a model in the cache.

        `precision` chooses among several packages of one name. `threads` defaults to
        `$HARRIER_EDGE_THREADS`, else to the cores that this process may use. `memory` limits what
        is resident of this process, all that runs in it included: "512MB", "1.5GB", "800MiB" or
        bytes; it defaults to `$HARRIER_EDGE_MEMORY`, else to no limit. With it, calls wait for one
        another, and take longer where they would take more. `providers` are ONNX Runtime's
        execution providers, by default CPU.

        Raises ModelNotFoundError, SpecError or PackageError where there is no sound package, and
        UsageError where `threads` or `providers` cannot be had, or `memory` does not suffice: it
        names the least that does.
        """
        package = open_package(find_package(model, precision))
        manifest = package.manifest
        self.package = package.folder.resolve()
        self.manifest = manifest
        self.name = manifest.name
        self.fingerprint = manifest.fingerprint
        self.precision = manifest.precision.name
        self.dimension = manifest.dimension
        self.max_tokens = manifest.tokens.max_tokens
        self.prompts = dict(manifest.prompts)
        self.query_preset = manifest.query_prompt
        self.document_prompt = choose_prompt(self.prompts, manifest.document_prompt)
        limit = memory_limit(memory)
        self._texts_at_once = _LIMITED_TEXTS if limit else None

        def load_session() -> Session:
            # Here, so that importing ONNX Runtime too goes on while the tokenizer is loaded.
            from harrier_edge.packing import MOST_WEIGHTS, packed_graphs, weight_bytes
            from harrier_edge.session import Session

            load: Callable[..., Session] = Session
            if limit is not None:
                from harrier_edge.limited import LimitedSession

                load = partial(LimitedSession, limit=limit)
            return load(
                package.folder / MODEL,
                dimension=manifest.dimension,
                pad_token=manifest.tokens.pad,
                query=package.query,
                layers=package.layers,
                packed=packed_graphs(package) if not providers else None,
                optimized=manifest.optimized,
                once=weight_bytes(package) > MOST_WEIGHTS,
                padding=manifest.padding,
                batching=manifest.batching,
                vocab_size=manifest.vocab_size,
                threads=_threads(threads),
                providers=providers,
            )

        # Side by side, since neither holds Python's lock for long. Not where memory is limited:
        # what the session takes is measured.
        with ThreadPoolExecutor(1, "harrier-edge-load") as pool:
            session = pool.submit(load_session) if limit is None else None
            self._tokenizer = Tokenizer(
                package.folder / TOKENIZER,
                final_token=manifest.tokens.final,
                max_tokens=self.max_tokens,
                compiled=manifest.compiled_tokenizer,
            )
            self._session = session.result() if session else load_session()

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text, special tokens included, before any cut."""
        return self._tokenizer.count(texts)

    def embed(
        self,
        texts: Sequence[str],
        *,
        prompt: str = "",
        batch_size: int | None = None,
        show_progress_bar: bool = False,
        on_overflow: OnOverflow = "truncate",
    ) -> Embeddings:
        """Embed texts behind `prompt` and tell how many tokens each had and lost.

        This is what `encode` and its fellows call; arguments and errors are theirs.
        """
        check_batch_size(batch_size)
        self._session.refuse_fork()
        vectors = np.empty((len(texts), self.dimension), np.float32)
        tokens: list[int] = []
        cut: list[int] = []
        with progress_bar(len(texts), show_progress_bar) as advance:
            for part in self._parts(texts, on_overflow):
                tokenized = self.tokenize(part, prompt=prompt, on_overflow=on_overflow)
                ids = [text.ids for text in tokenized]
                rows = slice(len(tokens), len(tokens) + len(ids))
                vectors[rows] = self._run(ids, prompt, batch_size, advance)
                tokens += map(len, ids)
                cut += (text.cut_tokens for text in tokenized)
        return Embeddings(vectors, tuple(tokens), tuple(cut))

    def _parts(self, texts: Sequence[str], on_overflow: OnOverflow) -> Iterator[Sequence[str]]:
        """Texts as many at a time as may be tokenized: token ids take more memory than texts."""
        if self._texts_at_once is None or on_overflow == "error" or isinstance(texts, str):
            yield texts
            return
        for start in range(0, len(texts), self._texts_at_once):
            yield texts[start : start + self._texts_at_once]

    def tokenize(
        self, texts: Sequence[str], *, prompt: str = "", on_overflow: OnOverflow = "truncate"
    ) -> list[TokenizedText]:
        """The token ids that `embed` would embed, special tokens included, one entry a text.

        Raises what `embed` raises for the same arguments.
        """
        check_on_overflow(on_overflow)
        tokenized = self._tokenizer.encode(behind(prompt, texts))
        self._report_overflow(tokenized, on_overflow)
        return tokenized

    def complete(
        self, texts: Sequence[Sequence[int]], *, on_overflow: OnOverflow = "truncate"
    ) -> list[TokenizedText]:
        """Texts given as token ids, as `tokenize` gives texts: with the special tokens they lack.

        Raises TextTooLongError as `embed` does, and UsageError for an id that the model does not
        have.
        """
        self.require_known(texts)
        tokens = self.manifest.tokens
        first = [] if tokens.bos is None else [tokens.bos]
        whole = []
        for ids in map(list, texts):
            begun = ids if ids[:1] == first else [*first, *ids]
            ended = begun if begun[-1:] == [tokens.final] else [*begun, tokens.final]
            whole.append(self._tokenizer.fit(ended))
        self._report_overflow(whole, on_overflow)
        return whole

    def require_known(self, texts: Sequence[Sequence[int]]) -> None:
        """Raise UsageError for a token id that the model does not have."""
        count = self._token_count
        for ids in texts:
            if ids and not 0 <= min(ids) <= max(ids) < count:
                wrong = next(i for i in ids if not 0 <= i < count)
                raise UsageError(
                    f"token id {wrong} is none of {self.name}'s, which are 0 to {count - 1}. Use "
                    "the tokenizer of its package, and no text with special tokens that are not "
                    "this model's."
                )

    @cached_property
    def _token_count(self) -> int:
        rows = self.manifest.vocab_size or table_rows(self.package / MODEL)
        return rows or 2**31  # else ONNX Runtime looks itself

    def embed_batch(self, batch: Sequence[Sequence[int]], *, prompt: str = "") -> Vectors:
        """Embed texts given as the ids of `tokenize`, as one batch, where `embed` makes several.

        For who makes the batches: threads that call this side by side do not wait for each other.
        `prompt` is what all texts begin with; its own tokens are run only once, where that can be.
        Returns (len(batch), dimension) float32 of unit length, with the bits that `embed` gives.
        """
        if prompt and len(batch) == 1:
            vector = self._session.run_after(self._tokenizer.beginning(prompt), batch[0])
            if vector is not None:
                return vector
        return self._session.run_beside(batch)

    def give_back(self) -> None:
        """Give the memory back that long texts took. For who calls `embed_batch`."""
        self._session.give_back()

    def _run(
        self,
        texts: Sequence[list[int]],
        prompt: str,
        batch_size: int | None,
        advance: Callable[[int], object],
    ) -> Vectors:
        """Embed texts behind `prompt`, whose own tokens are run only once, where that can be."""
        if not prompt:
            return self._session.run_many(texts, batch_size=batch_size, on_texts=advance)
        beginning = self._tokenizer.beginning(prompt)
        vectors = np.empty((len(texts), self.dimension), np.float32)
        rest = []
        for row, text in enumerate(texts):
            vector = self._session.run_after(beginning, text)
            if vector is None:
                rest.append(row)
            else:
                vectors[row] = vector
                advance(1)
        vectors[rest] = self._session.run_many(
            [texts[row] for row in rest], batch_size=batch_size, on_texts=advance
        )
        return vectors

    def _report_overflow(self, texts: Sequence[TokenizedText], on_overflow: OnOverflow) -> None:
        over = [(row, text.cut_tokens) for row, text in enumerate(texts) if text.cut_tokens]
        if not over:
            return
        row, cut = over[0]
        if on_overflow == "error":
            raise TextTooLongError(
                f"text {row} has {self.max_tokens + cut} tokens, {self.name} takes "
                f"{self.max_tokens}; {len(over)} of {len(texts)} texts are too long. Split them, "
                "or allow on_overflow='truncate'."
            )
        logger.warning(
            "%d of %d texts were cut to %d tokens (text %d lost %d, all together %d)",
            len(over),
            len(texts),
            self.max_tokens,
            row,
            cut,
            sum(cut for _, cut in over),
        )


def _threads(threads: int | None) -> int | None:
    """The thread count asked for, by argument or environment."""
    value = os.environ.get("HARRIER_EDGE_THREADS")
    if threads is not None or not value:
        return threads
    if not value.isdecimal():
        raise UsageError(f"HARRIER_EDGE_THREADS is {value!r}; wanted a whole number above 0.")
    return int(value)
