"""Texts to vectors: prompts, batches and limits around one loaded model."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from harrier_edge.errors import TextTooLongError, UsageError
from harrier_edge.package import MODEL, QUERY, TOKENIZER, find_package, open_package
from harrier_edge.packing import packed_graphs
from harrier_edge.prompts import choose_prompt
from harrier_edge.session import Session, Vectors
from harrier_edge.tokens import TokenizedText, Tokenizer

logger = logging.getLogger(__name__)

OnOverflow = Literal["truncate", "error"]


@dataclass(frozen=True)
class Embeddings:
    """What embedding some texts gave, one row or entry a text, in order."""

    vectors: Vectors  # (n, dimension) float32, unit length
    tokens: tuple[int, ...]  # tokens embedded, prompt and special tokens included
    cut_tokens: tuple[int, ...]  # tokens that were over the limit and left out


class Embedder:
    """A loaded model package. Safe to share between threads.

    A forked process cannot use it, and gets UsageError: it loads its own.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        precision: str | None = None,
        threads: int | None = None,
        providers: Sequence[str] | None = None,
    ) -> None:
        """Load a package, given its folder or the name of a model in the cache.

        `precision` chooses among several packages of one name. `threads` defaults to
        `$HARRIER_EDGE_THREADS`, else to the cores that this process may use. `providers` are ONNX
        Runtime's execution providers, by default CPU.

        Raises ModelNotFoundError, SpecError or PackageError where there is no sound package, and
        UsageError where `threads` or `providers` cannot be had.
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
        self.document_prompt = choose_prompt(self.prompts, manifest.document_prompt)
        self._tokenizer = Tokenizer(
            package.folder / TOKENIZER,
            final_token=manifest.tokens.final,
            max_tokens=self.max_tokens,
            compiled=manifest.compiled_tokenizer,
        )
        self._session = Session(
            package.folder / MODEL,
            dimension=manifest.dimension,
            pad_token=manifest.tokens.pad,
            query=package.folder / QUERY if QUERY in manifest.files else None,
            layers=package.layers,
            packed=packed_graphs(package) if not providers else None,
            padding=manifest.padding,
            vocab_size=manifest.vocab_size,
            threads=_threads(threads),
            providers=providers,
        )

    def encode(
        self,
        texts: str | Sequence[str],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        truncate_dim: int | None = None,
        normalize: bool = True,
        on_overflow: OnOverflow = "truncate",
    ) -> Vectors:
        """Embed texts as they are, or each behind `prompt` or the preset `prompt_name`.

        Returns (n, dimension) float32 of unit length, one row a text, in order; for a single str
        (dimension,). `batch_size` limits the texts of a batch; by itself a batch is limited by its
        tokens. A text over `max_tokens` is cut and logged, or with `on_overflow="error"` refused
        with TextTooLongError. `truncate_dim` keeps the first dimensions, for which Harrier is not
        trained; the rest is scaled to unit length again unless `normalize` is False.

        Raises UsageError where an argument cannot work.
        """
        prefix = choose_prompt(self.prompts, "", prompt=prompt, prompt_name=prompt_name)
        single = isinstance(texts, str)
        vectors = self.embed(
            [texts] if isinstance(texts, str) else texts,
            prompt=prefix,
            batch_size=batch_size,
            show_progress_bar=bool(show_progress_bar),
            on_overflow=on_overflow,
        ).vectors
        if truncate_dim is not None:
            vectors = _cut_dimensions(vectors, truncate_dim, normalize)
        return vectors[0] if single else vectors

    def encode_query(
        self,
        texts: str | Sequence[str],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        task: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        truncate_dim: int | None = None,
        normalize: bool = True,
        on_overflow: OnOverflow = "truncate",
    ) -> Vectors:
        """Embed queries, by default behind the package's instruction for web search.

        Say otherwise with `prompt` (verbatim; "" for none), `prompt_name` (a preset) or `task`, a
        sentence such as "Retrieve parallel sentences" that becomes the instruction. The rest is as
        in `encode`.
        """
        return self.encode(
            texts,
            prompt=choose_prompt(
                self.prompts,
                self.manifest.query_prompt,
                prompt=prompt,
                prompt_name=prompt_name,
                task=task,
            ),
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            truncate_dim=truncate_dim,
            normalize=normalize,
            on_overflow=on_overflow,
        )

    def encode_document(
        self,
        texts: str | Sequence[str],
        *,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        truncate_dim: int | None = None,
        normalize: bool = True,
        on_overflow: OnOverflow = "truncate",
    ) -> Vectors:
        """Embed documents, behind the package's prompt for them, of which Harrier has none.

        The rest is as in `encode`.
        """
        return self.encode(
            texts,
            prompt=self.document_prompt,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            truncate_dim=truncate_dim,
            normalize=normalize,
            on_overflow=on_overflow,
        )

    def embed_query(self, text: str) -> list[float]:
        """One query as a list of floats: LangChain's `Embeddings` interface."""
        vector: list[float] = self.encode_query(text).tolist()
        return vector

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Documents as lists of floats: LangChain's `Embeddings` interface."""
        vectors: list[list[float]] = self.encode_document(texts).tolist()
        return vectors

    @staticmethod
    def similarity(a: npt.ArrayLike, b: npt.ArrayLike) -> Vectors:
        """Cosine of every row of `a` (n, dim) with every row of `b` (m, dim): (n, m) float32.

        A single vector (dim,) counts as one row.
        """
        x, y = (np.atleast_2d(np.asarray(v, np.float32)) for v in (a, b))
        return _unit(x) @ _unit(y).T

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text, special tokens included, before any cut."""
        return [len(text.ids) + text.cut_tokens for text in self._tokenizer.encode(texts)]

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
        if on_overflow not in ("truncate", "error"):
            raise UsageError(f"on_overflow is {on_overflow!r}; wanted 'truncate' or 'error'.")
        if batch_size is not None and batch_size < 1:
            raise UsageError(f"batch_size is {batch_size}; wanted 1 or more.")
        if isinstance(texts, str):
            raise UsageError("texts is one str; wanted a list of them.")
        self._session.refuse_fork()
        tokenized = self._tokenizer.encode([_behind(prompt, text) for text in texts])
        self._report_overflow(tokenized, on_overflow)
        with _progress(len(tokenized), show_progress_bar) as advance:
            vectors = self._run([text.ids for text in tokenized], prompt, batch_size, advance)
        return Embeddings(
            vectors,
            tuple(len(t.ids) for t in tokenized),
            tuple(t.cut_tokens for t in tokenized),
        )

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


def _behind(prompt: str, text: str) -> str:
    if not isinstance(text, str):
        raise UsageError(f"a text is {text!r}, a {type(text).__name__}; wanted a str.")
    return prompt + text


def _cut_dimensions(vectors: Vectors, dimension: int, normalize: bool) -> Vectors:
    if not 1 <= dimension <= vectors.shape[1]:
        raise UsageError(f"truncate_dim is {dimension}; wanted 1 to {vectors.shape[1]}.")
    warnings.warn(
        "Harrier is not trained for fewer dimensions (no Matryoshka): expect worse rankings. "
        "To save space, store vectors in int8 or bits instead.",
        stacklevel=4,
    )
    cut = vectors[:, :dimension]
    return _unit(cut) if normalize else cut


def _unit(rows: Vectors) -> Vectors:
    """Rows scaled to unit length; a zero row stays zero."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(norms == 0, 1, norms)).astype(np.float32, copy=False)


def _threads(threads: int | None) -> int | None:
    """The thread count asked for, by argument or environment."""
    value = os.environ.get("HARRIER_EDGE_THREADS")
    if threads is not None or not value:
        return threads
    if not value.isdecimal():
        raise UsageError(f"HARRIER_EDGE_THREADS is {value!r}; wanted a whole number above 0.")
    return int(value)


@contextmanager
def _progress(total: int, shown: bool) -> Iterator[Callable[[int], object]]:
    """A progress bar on stderr, or nothing."""
    if not shown:
        yield lambda count: None
        return
    from tqdm import tqdm  # only who wants a bar pays for its import

    with tqdm(total=total, unit="text") as bar:
        yield bar.update
