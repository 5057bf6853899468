"""One long text to its vector, a layer at a time: what one layer needs is all that is in memory.

The graphs are those of `harrier_export.layers`, which tells of their inputs and outputs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from harrier_edge.errors import PackageError
from harrier_edge.runtime import giving_back

Array = npt.NDArray[np.float32]

PIECE_TOKENS = 512
LAST_PIECE_TOKENS = 64  # the least: products of a few rows take other ways, with other bits
_INPUTS = {"input_ids", "start", "kept", "past_key", "past_value", "is_end"}


class LayerByLayer:
    """A package's graphs of single layers. Safe to share between threads; one text at a time."""

    def __init__(
        self,
        layers: Sequence[Path],
        load: Callable[[Path], onnxruntime.InferenceSession],
        on_tokens: Callable[[int], object],
    ) -> None:
        """`layers` are the graphs in order, each of which `load` opens when its turn comes.

        `on_tokens` is told how many tokens are looked up next in the table.
        """
        self._layers = layers
        self._load = load
        self._on_tokens = on_tokens
        self._one_text = threading.Lock()

    def run(self, text: Sequence[int]) -> Array:
        """Embed one text given as token ids: (1, dimension) float32, the bits of one pass.

        Memory is for its states, (tokens, hidden) float32, for one layer's keys and values, and
        for what a piece needs. Raises PackageError for a graph that is not a layer's.
        """
        with self._one_text:
            ids = np.array([text], np.int64)
            hidden: Array | None = None
            for place, path in enumerate(self._layers):
                last = place + 1 == len(self._layers)
                layer = _Layer(path, self._load(path), bool(place))
                hidden = layer.run(ids, hidden, only_end=last, on_tokens=self._on_tokens)
            assert hidden is not None
            return hidden


class _Layer:
    """One layer's graph."""

    def __init__(self, path: Path, graph: onnxruntime.InferenceSession, follows: bool) -> None:
        inputs = {given.name: given for given in graph.get_inputs()}
        if inputs.keys() != _INPUTS | ({"hidden"} if follows else set()):
            raise PackageError(f"{path}: its inputs are {sorted(inputs)}. Export the model again.")
        self._graph = graph
        self._output = graph.get_outputs()[0]
        _, self._kv_heads, _, self._head_dim = inputs["past_key"].shape

    def run(
        self,
        ids: npt.NDArray[np.int64],
        hidden: Array | None,
        *,
        only_end: bool,
        on_tokens: Callable[[int], object] = lambda count: None,
    ) -> Array:
        """What the layer makes of `hidden` (1, tokens, hidden), which is overwritten and returned.

        With `only_end`, its output for the last piece. Then of all others only keys and values are
        needed, for which each may see itself alone. `on_tokens` is told what is looked up.
        """
        count = ids.shape[1]
        cuts = [*range(0, max(1, count - LAST_PIECE_TOKENS), PIECE_TOKENS), count]
        past = self._room(count)
        alone = self._room(PIECE_TOKENS)
        made = hidden
        for start, stop in pairwise(cuts):
            feeds = {
                "input_ids": ids[:, start:stop],
                "start": np.array(start, np.int64),
                "is_end": np.array(stop == count),
            }
            if hidden is not None:
                feeds["hidden"] = np.ascontiguousarray(hidden[:, start:stop])
            else:
                on_tokens(stop - start)
            if only_end and stop < count:
                self._run(self._bound(feeds, alone, 0))
                for kept, new in zip(past, alone, strict=True):
                    kept[:, :, start:stop] = new[:, :, : stop - start]
                continue
            if only_end:
                return self._end(feeds, past, start)
            output = self._run(self._bound(feeds, past, start))
            if made is None:
                made = np.empty((1, count, output.shape[-1]), np.float32)
            made[:, start:stop] = output
        assert made is not None
        return made

    def _room(self, tokens: int) -> tuple[Array, Array]:
        """Memory for the keys and values of so many tokens."""
        shape = (1, self._kv_heads, tokens, self._head_dim)
        return np.zeros(shape, np.float32), np.zeros(shape, np.float32)

    def _bound(
        self, feeds: dict[str, npt.NDArray[Any]], past: tuple[Array, Array], kept: int
    ) -> onnxruntime.IOBinding:
        """The inputs for one piece, which leaves its keys and values behind `kept` rows of `past`.

        ONNX Runtime works in the memory that it is given: no copy grows with the text.
        """
        binding = self._graph.io_binding()
        for name, value in {**feeds, "kept": np.array(kept, np.int64)}.items():
            binding.bind_cpu_input(name, value)
        for name, rows in zip(("key", "value"), past, strict=True):
            shared = onnxruntime.OrtValue.ortvalue_from_numpy(rows)
            binding.bind_ortvalue_input(f"past_{name}", shared)
            binding.bind_ortvalue_output(f"present_{name}", shared)
        return binding

    def _run(self, binding: onnxruntime.IOBinding) -> Array:
        """The output for one piece."""
        binding.bind_output(self._output.name)
        self._graph.run_with_iobinding(binding)
        output: Array = binding.get_outputs()[-1].numpy()  # the last that was bound
        return output

    def _end(
        self, feeds: dict[str, npt.NDArray[Any]], past: tuple[Array, Array], kept: int
    ) -> Array:
        """The text's vector, which does not lie in the memory of the graphs: that is given back."""
        vector = np.empty((1, self._output.shape[-1]), np.float32)
        binding = self._bound(feeds, past, kept)
        bound = onnxruntime.OrtValue.ortvalue_from_numpy(vector)
        binding.bind_ortvalue_output(self._output.name, bound)
        self._graph.run_with_iobinding(binding, giving_back())
        return vector
