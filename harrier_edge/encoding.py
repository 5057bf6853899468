"""Texts to vectors as their user sees it: `encode` and its fellows, over one `embed`."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from harrier_edge.errors import UsageError
from harrier_edge.prompts import choose_prompt
from harrier_edge.vectors import Vectors

OnOverflow = Literal["truncate", "error"]


@dataclass(frozen=True)
class Embeddings:
    """What embedding some texts gave, one row or entry a text, in order."""

    vectors: Vectors  # (n, dimension) float32, unit length
    tokens: tuple[int, ...]  # tokens embedded, prompt and special tokens included
    cut_tokens: tuple[int, ...]  # tokens that were over the limit and left out


def is_url(model: object) -> bool:
    """Whether a model is named by its server's URL."""
    return isinstance(model, str) and model.startswith(("http://", "https://"))


class TextEncoder(ABC):
    """What embeds texts: a model loaded here (Embedder), or a server's (RemoteEmbedder)."""

    name: str
    fingerprint: str  # the same for the same model in every precision
    precision: str
    dimension: int
    max_tokens: int
    prompts: Mapping[str, str]  # presets by name
    query_preset: str  # the preset that a query gets by itself; empty for none
    document_prompt: str  # what a document gets by itself

    @abstractmethod
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

    @abstractmethod
    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text, special tokens included, before any cut."""

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
            vectors = cut_dimensions(vectors, truncate_dim, normalize)
            warnings.warn(
                "Harrier is not trained for fewer dimensions (no Matryoshka): expect worse "
                "rankings. To save space, store vectors in int8 or bits instead.",
                stacklevel=3,
            )
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
                self.query_preset,
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
        return unit(x) @ unit(y).T


def cut_dimensions(vectors: Vectors, dimension: int, normalize: bool = True) -> Vectors:
    """The first dimensions of vectors (n, any), scaled to unit length if `normalize`.

    Raises UsageError where there are not so many.
    """
    if not 1 <= dimension <= vectors.shape[1]:
        raise UsageError(f"truncate_dim is {dimension}; wanted 1 to {vectors.shape[1]}.")
    cut = vectors[:, :dimension]
    return unit(cut) if normalize else cut


def unit(rows: Vectors) -> Vectors:
    """Rows scaled to unit length; a zero row stays zero."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: Vectors = (rows / np.where(norms == 0, 1, norms)).astype(np.float32, copy=False)
    return scaled


def check_on_overflow(value: str) -> None:
    """Raise UsageError for what is no OnOverflow."""
    if value not in ("truncate", "error"):
        raise UsageError(f"on_overflow is {value!r}; wanted 'truncate' or 'error'.")


def check_batch_size(value: int | None) -> None:
    """Raise UsageError for a batch of no texts."""
    if value is not None and value < 1:
        raise UsageError(f"batch_size is {value}; wanted 1 or more.")


def behind(prompt: str, texts: Sequence[str]) -> list[str]:
    """Each text behind `prompt`. Raises UsageError where `texts` is not a list of str."""
    if isinstance(texts, str):
        raise UsageError("texts is one str; wanted a list of them.")
    for text in texts:
        if not isinstance(text, str):
            raise UsageError(f"a text is {text!r}, a {type(text).__name__}; wanted a str.")
    return [prompt + text for text in texts]


@contextmanager
def progress_bar(total: int, shown: bool) -> Iterator[Callable[[int], object]]:
    """A progress bar on stderr, or nothing."""
    if not shown:
        yield lambda count: None
        return
    from tqdm import tqdm  # only who wants a bar pays for its import

    with tqdm(total=total, unit="text") as bar:
        yield bar.update
