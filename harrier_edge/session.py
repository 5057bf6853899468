"""Token ids to unit vectors, through ONNX Runtime."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from harrier_edge.beginnings import Beginnings
from harrier_edge.errors import PackageError, UsageError
from harrier_edge.layers import LayerByLayer
from harrier_edge.machine import available_cores, trim_memory
from harrier_edge.packing import PackedGraphs
from harrier_edge.runtime import giving_back, open_graph, provider_names

Vectors = npt.NDArray[np.float32]

INPUTS = {"input_ids": "tensor(int64)", "attention_mask": "tensor(int64)"}
OUTPUT = "sentence_embedding"
QUERY_INPUTS = {"input_ids": "tensor(int64)", "past": "tensor(float)"}

# Tokens of a batch, padding included. On a CPU more at once are slower: what one operator leaves
# for the next no longer fits a core's own cache.
BATCH_TOKENS = 256
# Packages attend with another kernel in wider batches. Its bits follow from the width of the batch,
# so that longer texts are never padded: each is a batch of its own, as BATCH_TOKENS has it anyway.
TILED_TOKENS = 128
# Texts longer than this are embedded one at a time, on all threads, and layer by layer where the
# package has graphs for it: for the memory they take. Shorter ones are not worth opening these.
LONG_TEXT_TOKENS = 4096
# After longer texts than this, the memory that ONNX Runtime holds for the next is given back.
GIVE_BACK_TOKENS = 512
# Up to this many tokens, products have the same bits whether a text comes at once or behind the
# past of its beginning, given that two tokens or more are left.
CACHED_TEXT_TOKENS = 64
# A token that is read brings more of the table into memory than its row: 64 to 256 KB.
FORGET_TOKENS = 256


class Session:
    """A loaded graph. Safe to share between threads."""

    _shares_memory = True  # with the graphs of other sessions

    def __init__(
        self,
        model: Path,
        *,
        dimension: int,
        pad_token: int,
        query: Path | None = None,
        layers: Sequence[Path] = (),
        packed: PackedGraphs | None = None,
        optimized: bool = False,
        one_pass_tokens: int = LONG_TEXT_TOKENS,
        once: bool = False,
        padding: bool = True,
        batching: bool = True,
        vocab_size: int | None = None,
        threads: int | None = None,
        providers: Sequence[str] | None = None,
    ) -> None:
        """Load a package's graph on `threads` threads (default: the cores this process may use).

        `query` is the package's graph that takes a past, if it has one: on a CPU, single texts go
        through it, and `model` is loaded when several come at once. `layers` are its graphs of
        single layers, if it has them: on a CPU, texts of more than `one_pass_tokens` go through
        these, with the bits of one pass. `packed` are the same graphs over mapped weights, for the
        CPU. Graphs that are `optimized` run on a CPU as they are written. With `once`, the graph is
        loaded only once, for all threads, and batches follow one another: for weights of which a
        second copy might not fit. Without `padding`, only texts of one length share a batch;
        without `batching` none do. Token ids from `vocab_size` on are refused. `providers` are ONNX
        Runtime's, with or without "ExecutionProvider" (default: CPU).
        Raises UsageError for a provider that is not installed or a thread count below 1, and
        PackageError for a graph that does not load, or has other inputs, output or dimension than a
        package's.
        """
        self._threads = available_cores() if threads is None else threads
        if self._threads < 1:
            raise UsageError(f"threads is {threads}; wanted 1 or more.")
        self._providers = provider_names(providers or ["CPU"])
        self._on_cpu = self._providers == ["CPUExecutionProvider"]
        self._model = model
        self._once = once
        self._query = query if self._on_cpu and not once else None
        self._packed = packed if self._on_cpu else None
        self._optimized = optimized and self._on_cpu
        self._one_pass_tokens = one_pass_tokens
        self._layers = None
        if layers and self._on_cpu:
            self._layers = LayerByLayer(layers, self._open, self._forget_table)
        self._whole: onnxruntime.InferenceSession | None = None
        self._one_thread: onnxruntime.InferenceSession | None = None
        self._beginnings = Beginnings(self._packed.folder if self._packed else None)
        self._loading = threading.RLock()
        self._process = os.getpid()
        self.dimension = dimension
        self._pad_token = pad_token
        self._padding = padding
        self._batching = batching
        self._vocab_size = vocab_size
        self._table_tokens = 0
        self._all_threads()

    def _open(self, model: Path, threads: int | None = None) -> onnxruntime.InferenceSession:
        return open_graph(
            model,
            threads=threads or self._threads,
            providers=self._providers,
            packed=self._packed,
            optimized=self._optimized,
            shares_memory=self._shares_memory,
        )

    def _load(self, model: Path, threads: int) -> onnxruntime.InferenceSession:
        session = self._open(model, threads)
        wanted = QUERY_INPUTS if model == self._query else INPUTS
        inputs = {i.name: i.type for i in session.get_inputs()}
        outputs = {o.name: (o.type, o.shape[-1:]) for o in session.get_outputs()}
        if inputs != wanted:
            raise PackageError(f"{model}: its inputs are {inputs}, wanted {wanted}.")
        dtype, last = outputs.get(OUTPUT, ("", []))
        # Others leave the dimension open, or name it.
        is_other = last == [] or (isinstance(last[0], int) and last[0] != self.dimension)
        if dtype != "tensor(float)" or is_other:
            raise PackageError(
                f"{model}: its outputs are {outputs}, wanted {OUTPUT} of float, dimension "
                f"{self.dimension}."
            )
        return session

    def run(self, batch: Sequence[Sequence[int]]) -> Vectors:
        """Embed texts given as token ids at once: (len(batch), dimension) float32 of unit length.

        Shorter texts are padded on the right, which their vectors do not see; where they might,
        texts of other lengths are run one after the other.
        """
        self._refuse_unknown(batch)
        if self._layers and max(map(len, batch)) > self._one_pass_tokens:
            return np.concatenate([self._alone(text) for text in batch])
        session = self._all_threads()
        if not self._query:
            return self._run(session, batch)
        return np.concatenate([self._alone(text) for text in batch])

    def _refuse_unknown(self, texts: Sequence[Sequence[int]]) -> None:
        """Raise PackageError for token ids beyond the table, which ONNX Runtime may read past."""
        if self._vocab_size is None or not texts:
            return
        largest = max(map(max, texts))
        if largest >= self._vocab_size:
            raise PackageError(
                f"{self._model}: a text has the token {largest}, and the model's table has "
                f"{self._vocab_size} rows. Its tokenizer is of another model: export or pull the "
                "package again."
            )

    def _alone(self, text: Sequence[int]) -> Vectors:
        """Embed one text by itself."""
        self.refuse_fork()
        if self._layers and len(text) > self._one_pass_tokens:
            return self._layers.run(text)
        options = giving_back() if len(text) > GIVE_BACK_TOKENS else None
        return self._one_pass(self._all_threads(), [text], options)

    def _one_pass(
        self,
        session: onnxruntime.InferenceSession,
        batch: Sequence[Sequence[int]],
        options: onnxruntime.RunOptions | None = None,
    ) -> Vectors:
        """Embed a batch at once; through either graph, if it is of one text.

        The vectors do not lie in the graph's memory, of which they would keep far more than theirs.
        """
        feeds = _padded(batch, self._pad_token)
        if session.get_inputs()[1].name == "past":
            feeds = {"input_ids": feeds["input_ids"], "past": _no_past(session)}
        vectors = np.empty((len(batch), self.dimension), np.float32)
        binding = session.io_binding()
        for name, value in feeds.items():
            binding.bind_cpu_input(name, value)
        binding.bind_ortvalue_output(OUTPUT, onnxruntime.OrtValue.ortvalue_from_numpy(vectors))
        session.run_with_iobinding(binding, options)
        self._forget_table(sum(map(len, batch)))
        return vectors

    def _forget_table(self, tokens: int) -> None:
        """Give the table's pages back after so many tokens; they are mapped again when needed."""
        self._table_tokens += tokens
        if self._packed and self._table_tokens >= FORGET_TOKENS:
            self._table_tokens = 0
            self._packed.forget()

    def run_after(self, beginning: Sequence[int], text: Sequence[int]) -> Vectors | None:
        """Embed one text, (1, dimension) float32, of which only what follows `beginning` is run.

        The first text with this `beginning` is run whole, and the keys and values of `beginning`
        are kept of it, for new processes too where the weights are packed. The vector has the bits
        that `run` gives. None where that cannot be: for a package without a graph for it, a text
        that begins otherwise, or one that is too long or too short.
        """
        start = len(beginning)
        if not (
            self._query
            and 0 < start <= len(text) - 2
            and len(text) <= CACHED_TEXT_TOKENS
            and list(text[:start]) == list(beginning)
        ):
            return None
        self._refuse_unknown([text])
        session = self._all_threads()
        vectors: Vectors
        past = self._beginnings.find(tuple(beginning), _past_shape(session, start))
        if past is None:
            # Not run by itself: its last token would be a text's last, which is rounded otherwise.
            feeds = {"input_ids": _row(text), "past": _no_past(session)}
            vectors, present = session.run([OUTPUT, "present"], feeds)
            self._beginnings.keep(tuple(beginning), present[..., :start, :].copy())
        else:
            feeds = {"input_ids": _row(text[start:]), "past": past}
            (vectors,) = session.run([OUTPUT], feeds)
        return vectors

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
        self._refuse_unknown(texts)
        if not self._batching:
            batch_size = 1
        vectors = np.empty((len(texts), self.dimension), np.float32)
        batches = list(token_batches([len(text) for text in texts], batch_size, self._padding))
        # One text alone, and a long one for the memory that it takes, has all threads.
        alone = [rows for rows in batches if len(texts[rows[0]]) > self._one_pass_tokens]
        others = batches[len(alone) :]  # the longest come first
        if len(texts) == 1 or not self._on_cpu or (len(others) < 2 and not self._query):
            alone, others = batches, []
        for rows in alone:
            vectors[rows] = self.run([texts[row] for row in rows])
            on_texts(len(rows))
        if not others:
            return vectors
        if len(others) == 1:
            shares = [others[0][start :: self._threads] for start in range(self._threads)]
            others = [rows for rows in shares if rows]
        session = self._single()
        with ThreadPoolExecutor(self._side_by_side(), "harrier-edge") as pool:
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
        if len(texts[others[0][0]]) > GIVE_BACK_TOKENS:
            self.give_back()  # once for all: each would have to ask for its memory again
        return vectors

    def run_beside(self, batch: Sequence[Sequence[int]]) -> Vectors:
        """Embed one batch on the calling thread, side by side with others: what `run_many` does.

        Texts of more than `one_pass_tokens`, and all where the CPU is not the only provider, go
        through `run`. The same shape and the same bits as there.
        """
        if not self._on_cpu or max(map(len, batch)) > self._one_pass_tokens:
            return self.run(batch)
        self._refuse_unknown(batch)
        return self._run(self._single(), batch)

    def _side_by_side(self) -> int:
        """How many batches may run at the same time."""
        return 1 if self._once else self._threads

    def give_back(self) -> None:
        """Give the memory back that the batches of single threads took."""
        self._give_back_of(self._single())
        trim_memory()

    def _give_back_of(self, session: onnxruntime.InferenceSession) -> None:
        """Have a graph give its memory to the C library, by the shortest text."""
        Session._one_pass(self, session, [[self._pad_token]], giving_back())

    def _all_threads(self) -> onnxruntime.InferenceSession:
        """The graph for all threads in one call."""
        self.refuse_fork()
        with self._loading:
            if self._whole is None:
                self._whole = self._load(self._query or self._model, self._threads)
            return self._whole

    def _single(self) -> onnxruntime.InferenceSession:
        """The graph for one thread a call, if there is one of its own."""
        if self._once:
            return self._all_threads()
        self.refuse_fork()
        with self._loading:
            if self._one_thread is None:
                self._one_thread = self._load(self._model, 1)
            return self._one_thread

    def refuse_fork(self) -> None:
        """Raise UsageError in a forked child: it has none of the threads that would do the work."""
        if self._process != os.getpid():
            raise UsageError(
                f"this model was loaded by process {self._process}, and process {os.getpid()} was "
                "forked from that: its threads are gone. Load the model in the new process, or "
                'start it with multiprocessing.get_context("spawn").'
            )

    def _run(
        self, session: onnxruntime.InferenceSession, batch: Sequence[Sequence[int]]
    ) -> Vectors:
        width = max(map(len, batch))
        fits = width <= TILED_TOKENS and (self._padding or width == min(map(len, batch)))
        if len(batch) > 1 and not (fits and self._batching):
            return np.concatenate([self._run(session, [text]) for text in batch])
        return self._one_pass(session, batch)


def _padded(batch: Sequence[Sequence[int]], pad_token: int) -> dict[str, npt.NDArray[Any]]:
    """The graph's inputs for a batch."""
    ids = np.full((len(batch), max(map(len, batch))), pad_token, np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(batch):
        ids[row, : len(text)] = text
        mask[row, : len(text)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def token_batches(
    lengths: Sequence[int],
    batch_size: int | None = None,
    padding: bool = True,
    tokens: int = BATCH_TOKENS,
) -> Iterator[list[int]]:
    """Row numbers in batches of like length, longest first, within so many `tokens` when padded.

    Without `padding`, of the same length.

    Longest first: if memory does not suffice, that shows at once and not at the end, and the
    threads that share the batches end together.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    start = 0
    while start < len(order):
        count = max(1, tokens // lengths[order[start]])
        if batch_size is not None:
            count = min(count, batch_size)
        if not padding:
            following = order[start : start + count]
            count = sum(lengths[row] == lengths[order[start]] for row in following)
        yield order[start : start + count]
        start += count


def _past_shape(session: onnxruntime.InferenceSession, tokens: int) -> tuple[int, ...]:
    """That of the keys and values of `tokens` tokens of one text."""
    pair, one, heads, _, size = session.get_inputs()[1].shape
    return pair, one, heads, tokens, size


def _no_past(session: onnxruntime.InferenceSession) -> Vectors:
    return np.empty(_past_shape(session, 0), np.float32)


def _row(text: Sequence[int]) -> npt.NDArray[np.int64]:
    return np.array([text], np.int64)
