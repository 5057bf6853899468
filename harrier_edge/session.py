"""Token ids to unit vectors, through ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from harrier_edge.errors import PackageError, UsageError

INPUTS = {"input_ids": "tensor(int64)", "attention_mask": "tensor(int64)"}
OUTPUT = "sentence_embedding"


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
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = available_cores() if threads is None else threads
        options.log_severity_level = 3  # errors; the rest is for those who make graphs
        if options.intra_op_num_threads < 1:
            raise UsageError(f"threads is {threads}; wanted 1 or more.")
        names = _provider_names(providers or ["CPU"])
        try:
            self._session = onnxruntime.InferenceSession(str(model), options, providers=names)
        except Exception as error:  # ONNX Runtime has no common base class of its own
            raise PackageError(
                f"{model}: ONNX Runtime {onnxruntime.__version__} cannot load it: {error}. "
                "Export the model again, or install a newer onnxruntime."
            ) from error
        self.dimension = dimension
        self._pad_token = pad_token
        self._check(model)

    def _check(self, model: Path) -> None:
        inputs = {i.name: i.type for i in self._session.get_inputs()}
        outputs = {o.name: (o.type, o.shape[-1:]) for o in self._session.get_outputs()}
        if inputs != INPUTS:
            raise PackageError(f"{model}: its inputs are {inputs}, wanted {INPUTS}.")
        if outputs.get(OUTPUT) != ("tensor(float)", [self.dimension]):
            raise PackageError(
                f"{model}: its outputs are {outputs}, wanted {OUTPUT} of float, dimension "
                f"{self.dimension}."
            )

    def run(self, batch: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        """Embed texts given as token ids: (len(batch), dimension) float32, of unit length.

        Shorter texts are padded on the right, which their vectors do not see.
        """
        width = max(map(len, batch))
        ids = np.full((len(batch), width), self._pad_token, np.int64)
        mask = np.zeros((len(batch), width), np.int64)
        for row, text in enumerate(batch):
            ids[row, : len(text)] = text
            mask[row, : len(text)] = 1
        feeds = {"input_ids": ids, "attention_mask": mask}
        vectors: npt.NDArray[np.float32] = self._session.run([OUTPUT], feeds)[0]
        return vectors


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
