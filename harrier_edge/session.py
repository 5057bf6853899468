"""Token ids to unit vectors, through ONNX Runtime."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from harrier_edge.errors import PackageError, UsageError

Vectors = npt.NDArray[np.float32]

INPUTS = {"input_ids": "tensor(int64)", "attention_mask": "tensor(int64)"}
OUTPUT = "sentence_embedding"

# Tokens of a batch, padding included. On a CPU more at once are slower: what one operator leaves
# for the next no longer fits a core's own cache.
BATCH_TOKENS = 256
# Packages attend with another kernel in wider batches. Its bits follow from the width of the batch,
# so that longer texts are never padded: each is a batch of its own.
TILED_TOKENS = 512
# Texts longer than this are embedded one at a time, on all threads, for the memory they take.
LONG_TEXT_TOKENS = 4096


class Session:
    """A loaded graph. Safe to share between threads."""

    def __init__(
        self,
        model: Path,
        *,
        dimension: int,
        pad_token: int,
        threads: int | None = None,
        providers: Sequence[str] | None = None,
    ) -> None:
        """Load `model` on `threads` threads (default: the cores this process may use).

        `providers` are ONNX Runtime's, with or without "ExecutionProvider" (default: CPU).
        Raises UsageError for a provider that is not installed or a thread count below 1, and
        PackageError for a graph that does not load, or has other inputs, output or dimension than
        a package's.
        """
        self._threads = available_cores() if threads is None else threads
        if self._threads < 1:
            raise UsageError(f"threads is {threads}; wanted 1 or more.")
        self._providers = _provider_names(providers or ["CPU"])
        self._model = model
        self._session = self._load(self._threads)
        self._one_thread: onnxruntime.InferenceSession | None = None
        self._loading = threading.Lock()
        self.dimension = dimension
        self._pad_token = pad_token
        self._check()

    def _load(self, threads: int) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors; the rest is for those who make graphs
        try:
            return onnxruntime.InferenceSession(
                str(self._model), options, providers=self._providers
            )
        except Exception as error:  # ONNX Runtime has no common base class of its own
            raise PackageError(
                f"{self._model}: ONNX Runtime {onnxruntime.__version__} cannot load it: {error}. "
                "Export the model again, or install a newer onnxruntime."
            ) from error

    def _check(self) -> None:
        model = self._model
        inputs = {i.name: i.type for i in self._session.get_inputs()}
        outputs = {o.name: (o.type, o.shape[-1:]) for o in self._session.get_outputs()}
        if inputs != INPUTS:
            raise PackageError(f"{model}: its inputs are {inputs}, wanted {INPUTS}.")
        if outputs.get(OUTPUT) != ("tensor(float)", [self.dimension]):
            raise PackageError(
                f"{model}: its outputs are {outputs}, wanted {OUTPUT} of float, dimension "
                f"{self.dimension}."
            )

    def run(self, batch: Sequence[Sequence[int]]) -> Vectors:
        """Embed texts given as token ids at once: (len(batch), dimension) float32 of unit length.

        Shorter texts are padded on the right, which their vectors do not see.
        """
        return self._run(self._session, batch)

    def run_many(
        self,
        texts: Sequence[Sequence[int]],
        *,
        batch_size: int | None = None,
        on_texts: Callable[[int], object] = lambda count: None,
    ) -> Vectors:
        """Embed texts given as token ids: (len(texts), dimension) float32 of unit length, in order.

        Several batches are embedded side by side, each on a thread of its own, which is faster
        than one after the other on all threads. The first such call loads the graph once more,
        for one thread. `batch_size` limits the texts of a batch; `on_texts` is told how many more
        are done. Vectors are the same to the last bit as those of `run`.
        """
        vectors = np.empty((len(texts), self.dimension), np.float32)
        batches = list(token_batches([len(text) for text in texts], batch_size))
        long = [rows for rows in batches if len(texts[rows[0]]) > LONG_TEXT_TOKENS]
        others = batches[len(long) :]  # the longest come first
        side_by_side = self._threads > 1 and len(others) > 1 and self._on_cpu()
        for rows in long if side_by_side else batches:
            vectors[rows] = self._run(self._session, [texts[row] for row in rows])
            on_texts(len(rows))
        if not side_by_side:
            return vectors
        session = self._single()
        with ThreadPoolExecutor(self._threads, "harrier-edge") as pool:
            jobs = {
                pool.submit(self._run, session, [texts[row] for row in rows]): rows
                for rows in others
            }
            try:
                for job in as_completed(jobs):
                    vectors[jobs[job]] = job.result()
                    on_texts(len(jobs[job]))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return vectors

    def _on_cpu(self) -> bool:
        return self._providers == ["CPUExecutionProvider"]

    def _single(self) -> onnxruntime.InferenceSession:
        """The graph for one thread a call."""
        with self._loading:
            if self._one_thread is None:
                self._one_thread = self._load(1)
            return self._one_thread

    def _run(
        self, session: onnxruntime.InferenceSession, batch: Sequence[Sequence[int]]
    ) -> Vectors:
        width = max(map(len, batch))
        if width > TILED_TOKENS and len(batch) > 1:
            return np.concatenate([self._run(session, [text]) for text in batch])
        ids = np.full((len(batch), width), self._pad_token, np.int64)
        mask = np.zeros((len(batch), width), np.int64)
        for row, text in enumerate(batch):
            ids[row, : len(text)] = text
            mask[row, : len(text)] = 1
        vectors: Vectors = session.run([OUTPUT], {"input_ids": ids, "attention_mask": mask})[0]
        return vectors


def token_batches(lengths: Sequence[int], batch_size: int | None = None) -> Iterator[list[int]]:
    """Row numbers in batches of like length, longest first, within BATCH_TOKENS when padded.

    Longest first: if memory does not suffice, that shows at once and not at the end, and the
    threads that share the batches end together.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    start = 0
    while start < len(order):
        count = max(1, BATCH_TOKENS // lengths[order[start]])
        if batch_size is not None:
            count = min(count, batch_size)
        yield order[start : start + count]
        start += count


def available_cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _provider_names(names: Sequence[str]) -> list[str]:
    installed = onnxruntime.get_available_providers()
    by_name = {p.removesuffix("ExecutionProvider").lower(): p for p in installed}
    chosen = [by_name.get(n.removesuffix("ExecutionProvider").lower(), "") for n in names]
    if "" in chosen:
        raise UsageError(
            f"provider {names[chosen.index('')]!r} is not installed; this onnxruntime has "
            f"{', '.join(p.removesuffix('ExecutionProvider') for p in installed)}."
        )
    return chosen
