"""A Hugging Face checkpoint folder as tensors, read one at a time."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import ml_dtypes  # noqa: F401  teaches NumPy the name "bfloat16", which safetensors asks it for
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from harrier_edge.errors import CheckpointError, UnsupportedModelError
from harrier_edge.package import TOKENIZER, sha256_of
from harrier_export.rounding import Feedback

Float32 = npt.NDArray[np.float32]
J = TypeVar("J", dict[str, Any], list[Any])

SINGLE = "model.safetensors"
SHARD_INDEX = "model.safetensors.index.json"
_DTYPES = ("BF16", "F16", "F32")
_BLOCK_BYTES = 32 * 2**20  # float32 bytes of a block of rows


@dataclass(frozen=True)
class Tensor:
    """A named float tensor that is still on disk."""

    name: str
    shape: tuple[int, ...]
    path: Path
    on_read: Callable[[int], None]  # is told how many elements were read
    feedback: Feedback | None = None  # what calibration knows of its inputs, for `rounding`

    def array(self) -> Float32:
        """All of it. Raises CheckpointError where a value is not finite."""
        return self._read(slice(None))

    def blocks(self) -> Iterator[Float32]:
        """Its rows in order, some 32 MiB at a time, so that a huge table never is in memory."""
        step = max(1, _BLOCK_BYTES // (4 * math.prod(self.shape[1:])))
        for start in range(0, self.shape[0], step):
            yield self._read(slice(start, min(start + step, self.shape[0])))

    def row(self, index: int) -> Float32:
        """One of its rows."""
        row: Float32 = self._read(slice(index, index + 1))[0]
        return row

    def uncounted(self) -> Tensor:
        """The same, whose reading counts for nothing: the whole is read besides."""
        return dataclasses.replace(self, on_read=lambda count: None)

    def _read(self, rows: slice) -> Float32:
        with safe_open(self.path, framework="np") as file:
            values: Float32 = file.get_slice(self.name)[rows].astype(np.float32)
        if not np.isfinite(values).all():
            raise CheckpointError(
                f"{self.path}: tensor {self.name} holds NaN or infinity; wanted finite weights. "
                "Download the checkpoint again, or take another revision."
            )
        self.on_read(values.size)
        return values


@dataclass(frozen=True)
class HeldTensor(Tensor):
    """A tensor that is in memory."""

    values: Float32 = field(default_factory=lambda: np.empty(0, np.float32))

    def _read(self, rows: slice) -> Float32:
        values = self.values[rows]
        self.on_read(values.size)
        return values


class Checkpoint:
    """A checkpoint folder: its config, its tensors and which of them have been asked for."""

    def __init__(
        self, folder: Path, on_read: Callable[[int, int], None] = lambda done, total: None
    ) -> None:
        """Open `folder`; `on_read` is told of elements read so far, of how many in all.

        Raises CheckpointError where the config or a weight file is unusable.
        """
        self.folder = folder
        self._on_read = on_read
        if not folder.is_dir():
            raise CheckpointError(
                f"{folder}: no such folder; wanted a Hugging Face checkpoint (config.json and "
                "safetensors files)."
            )
        self.config = self.json("config.json")
        self.weight_files = _weight_files(folder)
        self._shapes: dict[str, tuple[tuple[int, ...], Path]] = {}
        for path in self.weight_files:
            self._shapes.update(_headers(path))
        # A *Model checkpoint has bare names, a *ForCausalLM one has "model." before them.
        self._prefix = "" if "embed_tokens.weight" in self._shapes else "model."
        self._used: set[str] = set()
        self._read = 0
        self._total = sum(math.prod(shape) for shape, _ in self._shapes.values())

    def _count(self, elements: int) -> None:
        self._read += elements
        self._on_read(self._read, self._total)

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

    def tensor(self, name: str, *shape: int) -> Tensor:
        """The tensor `name`, which the config says has `shape`. Raises CheckpointError."""
        name = self._prefix + name
        if name not in self._shapes:
            raise CheckpointError(
                f"{self.folder}: tensor {name} is missing; config.json promises it. "
                "The config and the weights are of different models, or a file is lacking."
            )
        seen, path = self._shapes[name]
        if seen != shape:
            raise CheckpointError(
                f"{path}: tensor {name} is {list(seen)}, but config.json says {list(shape)}. "
                "The config and the weights are of different models."
            )
        self._used.add(name)
        return Tensor(name, shape, path, self._count)

    def refuse_unused(self, ignored: Callable[[str], bool]) -> None:
        """Raise UnsupportedModelError where a tensor was neither used nor is `ignored`."""
        unused = sorted(n for n in self._shapes.keys() - self._used if not ignored(n))
        if unused:
            raise UnsupportedModelError(
                f"{self.folder}: {len(unused)} tensors have no place in a "
                f"{self.config.get('model_type')} model, the first being {unused[0]}. "
                "The exporter never leaves weights out in silence: this checkpoint needs support "
                "of its own."
            )

    def fingerprint(self) -> str:
        """sha256 over what makes the vectors: config, weights and tokenizer, each by its sha256."""
        names = ["config.json", TOKENIZER, *(p.name for p in self.weight_files)]
        lines = "".join(f"{sha256_of(self.folder / n)}  {n}\n" for n in sorted(set(names)))
        return hashlib.sha256(lines.encode()).hexdigest()


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


def _headers(path: Path) -> dict[str, tuple[tuple[int, ...], Path]]:
    """Name -> (shape, file) of every tensor of one safetensors file."""
    try:
        with safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            for name, part in slices.items():
                if part.get_dtype() not in _DTYPES:
                    raise UnsupportedModelError(
                        f"{path}: tensor {name} is {part.get_dtype()}; wanted BF16, F16 or F32. "
                        "Take the unquantized checkpoint."
                    )
            return {name: (tuple(part.get_shape()), path) for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: is not a whole safetensors file ({error}). Download it again."
        ) from error
