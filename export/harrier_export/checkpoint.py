"""A Hugging Face checkpoint folder as tensors, read one at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from harrier_edge.errors import CheckpointError, UnsupportedModelError
from harrier_edge.package import TOKENIZER, fingerprint_of, sha256_of
from harrier_export.rounding import Feedback

Float32 = npt.NDArray[np.float32]
J = TypeVar("J", dict[str, Any], list[Any])

SINGLE = "model.safetensors"
SHARD_INDEX = "model.safetensors.index.json"
_DTYPES = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}  # as they are read
_BLOCK_BYTES = 4 * 2**20  # float32 bytes of a block of rows
_MANY_ROWS = 32 * 2**20  # likewise, where every column costs a step, however few the rows


@dataclass(frozen=True)
class Tensor:
    """A named float tensor that is still on disk."""

    name: str
    shape: tuple[int, ...]
    path: Path
    dtype: str  # one of safetensors' BF16, F16, F32
    offset: int  # bytes before it in its file
    feedback: Feedback | None = None  # what calibration knows of its inputs, for `rounding`

    def array(self) -> Float32:
        """All of it. Raises CheckpointError where a value is not finite."""
        return self.rows(slice(0, self.shape[0]))

    def blocks(self, nbytes: int | None = None) -> list[slice]:
        """Its rows in blocks of `nbytes` in float32, so that a huge one never is in memory.

        By default few, or many where its rounding goes column by column.
        """
        if nbytes is None:
            nbytes = _BLOCK_BYTES if self.feedback is None else _MANY_ROWS
        step = max(1, nbytes // (4 * math.prod(self.shape[1:])))
        ends = range(step, self.shape[0] + step, step)
        return [slice(end - step, min(end, self.shape[0])) for end in ends]

    def rows(self, rows: slice) -> Float32:
        """Some of its rows, from `start` to `stop`. Raises CheckpointError."""
        width = math.prod(self.shape[1:])
        stored = np.dtype(_DTYPES[self.dtype]).newbyteorder("<")
        # Reading does not hold up other threads, as mapping would, nor does it count as memory.
        raw = np.fromfile(
            self.path,
            stored,
            (rows.stop - rows.start) * width,
            offset=self.offset + rows.start * width * stored.itemsize,
        )
        values = _widened(raw) if self.dtype == "BF16" else raw.astype(np.float32, copy=False)
        with np.errstate(all="ignore"):
            total = values.sum()  # one look instead of a mask: a value that is not finite stays
        if not np.isfinite(total) and not np.isfinite(values).all():
            raise CheckpointError(
                f"{self.path}: tensor {self.name} holds NaN or infinity; wanted finite weights. "
                "Download the checkpoint again, or take another revision."
            )
        return values.reshape(-1, *self.shape[1:])


@dataclass(frozen=True)
class HeldTensor(Tensor):
    """A tensor that is in memory."""

    values: Float32 = field(default_factory=lambda: np.empty(0, np.float32))

    def rows(self, rows: slice) -> Float32:
        """See Tensor."""
        return self.values[rows]


def held(name: str, values: Float32, feedback: Feedback | None = None) -> HeldTensor:
    """`values` as a tensor."""
    return HeldTensor(name, values.shape, Path(), "F32", 0, feedback, values)


class ModelFolder:
    """A model's folder: its config and whatever else it says in JSON."""

    def __init__(self, folder: Path) -> None:
        """Open `folder`. Raises CheckpointError where its config cannot be read."""
        self.folder = folder
        if not folder.is_dir():
            raise CheckpointError(
                f"{folder}: no such folder; wanted a Hugging Face checkpoint (config.json and "
                "safetensors files)."
            )
        self.config = self.json("config.json")

    def json(self, name: str) -> dict[str, Any]:
        """A JSON object of the folder, by file name. Raises CheckpointError."""
        return self._json(name, dict)

    def json_list(self, name: str) -> list[Any]:
        """A JSON array of the folder, by file name. Raises CheckpointError."""
        return self._json(name, list)

    def _json(self, name: str, kind: type[J]) -> J:
        path = self.folder / name
        try:
            value = json.loads(path.read_bytes())
        except OSError as error:
            raise CheckpointError(
                f"{path}: {error.strerror}; wanted a Hugging Face checkpoint folder with this file."
            ) from error
        except ValueError as error:
            raise CheckpointError(f"{path}: is not JSON ({error}). Download it again.") from error
        if not isinstance(value, kind):
            raise CheckpointError(
                f"{path}: holds a {type(value).__name__}, wanted a {kind.__name__}. "
                "Download it again."
            )
        return value


class Checkpoint(ModelFolder):
    """A checkpoint folder: its config, its tensors and which of them have been asked for."""

    def __init__(self, folder: Path) -> None:
        """Open `folder`. Raises CheckpointError where the config or a weight file is unusable."""
        super().__init__(folder)
        self.weight_files = _weight_files(folder)
        self._tensors: dict[str, Tensor] = {}
        for path in self.weight_files:
            self._tensors.update(read_header(path))
        # A *Model checkpoint has bare names, a *ForCausalLM one has "model." before them.
        self._prefix = "" if "embed_tokens.weight" in self._tensors else "model."
        self._used: set[str] = set()
        self._hashing: ThreadPoolExecutor | None = None
        self._digests: dict[str, Future[str]] = {}

    def has(self, name: str) -> bool:
        """Whether there is a tensor `name`."""
        return self._prefix + name in self._tensors

    def tensor(self, name: str, *shape: int) -> Tensor:
        """The tensor `name`, which the config says has `shape`. Raises CheckpointError."""
        name = self._prefix + name
        tensor = self._tensors.get(name)
        if tensor is None:
            raise CheckpointError(
                f"{self.folder}: tensor {name} is missing; config.json promises it. "
                "The config and the weights are of different models, or a file is lacking."
            )
        if tensor.shape != shape:
            raise CheckpointError(
                f"{tensor.path}: tensor {name} is {list(tensor.shape)}, but config.json says "
                f"{list(shape)}. The config and the weights are of different models."
            )
        self._used.add(name)
        if self._hashing:
            self._hash(self._hashing, tensor.path.name)
        return tensor

    def ending_in(self, end: str) -> dict[str, Tensor]:
        """The tensors whose names end in `end`, by name."""
        found = {name: t.shape for name, t in self._tensors.items() if name.endswith(end)}
        bare = {name.removeprefix(self._prefix): shape for name, shape in found.items()}
        return {name: self.tensor(name, *shape) for name, shape in bare.items()}

    def refuse_unused(self, ignored: Callable[[str], bool]) -> None:
        """Raise UnsupportedModelError where a tensor was neither used nor is `ignored`."""
        unused = sorted(n for n in self._tensors.keys() - self._used if not ignored(n))
        if unused:
            raise UnsupportedModelError(
                f"{self.folder}: {len(unused)} tensors have no place in a "
                f"{self.config.get('model_type')} model, the first being {unused[0]}. "
                "The exporter never leaves weights out in silence: this checkpoint needs support "
                "of its own."
            )

    @contextmanager
    def hashed_beside(self) -> Iterator[None]:
        """Hash each weight file from when its first tensor is asked for, on a thread.

        So that the disk is read once for both, where the file fits in the system's cache.
        """
        self._hashing = ThreadPoolExecutor(1, "harrier-edge-hash")
        try:
            yield
        finally:
            self._hashing.shutdown(cancel_futures=True)
            self._hashing = None

    def _hash(self, hashing: ThreadPoolExecutor, name: str) -> None:
        if name not in self._digests:
            self._digests[name] = hashing.submit(sha256_of, self.folder / name)

    def fingerprint(self) -> str:
        """sha256 over what makes the vectors: config, weights and tokenizer, each by its sha256."""
        names = {"config.json", TOKENIZER, *(p.name for p in self.weight_files)}
        digests = {name: future.result() for name, future in self._digests.items()}
        return fingerprint_of(
            {n: digests.get(n) or sha256_of(self.folder / n) for n in sorted(names)}
        )


def _widened(bits: npt.NDArray[np.uint16]) -> Float32:
    """bfloat16 as float32, of which it is the upper half."""
    return np.left_shift(bits, 16, dtype=np.uint32).view(np.float32)


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files: the one, or the shards that the index names."""
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    index = folder / SHARD_INDEX
    if not index.exists():
        raise CheckpointError(
            f"{folder}: has neither {SINGLE} nor {SHARD_INDEX}; wanted weights in safetensors."
        )
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: is not a shard index ({error!r}).") from error
    for name in names:
        if Path(name).name != name or not (folder / name).exists():
            raise CheckpointError(
                f"{folder}: shard {name} is missing; {SHARD_INDEX} names it. "
                "Download the checkpoint again."
            )
    return [folder / name for name in names]


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of one safetensors file, by name.

    The format is https://huggingface.co/docs/safetensors: the length of a JSON header, the header,
    then the data, to which its offsets count. Raises CheckpointError or UnsupportedModelError.
    """
    try:
        with safe_open(path, framework="np"):  # checks the header and that the file is whole
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: is not a whole safetensors file ({error}). Download it again."
        ) from error
    header.pop("__metadata__", None)
    for name, entry in header.items():
        if entry["dtype"] not in _DTYPES:
            raise UnsupportedModelError(
                f"{path}: tensor {name} is {entry['dtype']}; wanted BF16, F16 or F32. "
                "Take the unquantized checkpoint."
            )
    return {
        name: Tensor(
            name,
            tuple(entry["shape"]),
            path,
            entry["dtype"],
            8 + length + entry["data_offsets"][0],
        )
        for name, entry in header.items()
    }
