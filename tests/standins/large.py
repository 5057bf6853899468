"""A checkpoint in the 27B's exact shape, shards and index included, that needs little disk.

Run as `python -m standins.large FOLDER`.

Its values are random, taken from one long row of them that begins elsewhere for each tensor, since
ONNX Runtime keeps what is the same only once. Only so many rows of a tensor are written as is asked
for: the rest of it is a hole in the file, which reads as zeros.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from zlib import crc32

import ml_dtypes
import numpy as np
import numpy.typing as npt

from standins.folder import full_tokenizer, whole, write_json, write_sentence_files
from standins.random_checkpoint import Config, gemma3_27b, sliding_pattern, tensor_shapes

SHARD_BYTES = 5 * 10**9  # as Hugging Face cuts them
DENSE = 1 / 8
_RANDOM_VALUES = 2**22  # that all weights are taken from
_RUN_BYTES = 2**20  # rows are written and left out in runs of this size

Shapes = dict[str, tuple[int, ...]]


def large_checkpoint(
    target: Path, *, config: Config, tokenizer: Path, dense: float = DENSE
) -> Path:
    """Write the Hugging Face folder `target` in bfloat16; `dense` of its bytes are on the disk."""
    values = np.random.default_rng(0).standard_normal(_RANDOM_VALUES, np.float32)
    shards = list(_shards(tensor_shapes(config)))
    with whole(target) as folder:
        write_json(folder / "config.json", config)
        write_sentence_files(folder, config["hidden_size"])
        shutil.copyfile(tokenizer, folder / "tokenizer.json")
        places = {}
        for number, shapes in enumerate(shards, 1):
            file = f"model-{number:05}-of-{len(shards):05}.safetensors"
            _write_shard(folder / file, shapes, values, dense)
            places.update(dict.fromkeys(shapes, file))
        index = {"metadata": {}, "weight_map": places}
        write_json(folder / "model.safetensors.index.json", index)
    return target


def _shards(shapes: Shapes) -> Iterator[Shapes]:
    """The tensors in their order, in shards of SHARD_BYTES at most."""
    shard: Shapes = {}
    for name, shape in shapes.items():
        if shard and sum(2 * math.prod(s) for s in (*shard.values(), shape)) > SHARD_BYTES:
            yield shard
            shard = {}
        shard[name] = shape
    yield shard


def _write_shard(path: Path, shapes: Shapes, values: npt.NDArray[np.float32], dense: float) -> None:
    """One safetensors file: https://huggingface.co/docs/safetensors."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        begin = file.tell()
        for name, shape in shapes.items():
            _write_tensor(file, shape, np.roll(values, crc32(name.encode())), dense)
        file.truncate(begin + end)


def _write_tensor(
    file: IO[bytes], shape: tuple[int, ...], values: npt.NDArray[np.float32], dense: float
) -> None:
    """Runs of rows, of which the first `dense` part is written, from the file's position on."""
    start = file.tell()
    if len(shape) == 1:  # norms, around 0 as Gemma has them
        file.write((values[: shape[0]] * 0.2).astype(ml_dtypes.bfloat16).tobytes())
        return
    rows = max(1, _RUN_BYTES // (2 * shape[1]))
    written = max(1, round(rows * dense))
    scale = np.float32((shape[1] * dense) ** -0.5)
    size = written * shape[1]
    some = (values * scale).astype(ml_dtypes.bfloat16).view(np.uint16)
    for number, row in enumerate(range(0, shape[0], rows)):
        file.seek(start + 2 * row * shape[1])
        at = number * 4999 % (len(some) - size)
        file.write(some[at : at + min(written, shape[0] - row) * shape[1]].data)
    file.seek(start + 2 * math.prod(shape))


def shape_of_27b(layers: int | None = None) -> Config:
    """Harrier-27B's shape, or only its first `layers` layers."""
    config = gemma3_27b()
    if layers:
        config |= {"num_hidden_layers": layers, "layer_types": sliding_pattern(layers)}
    return config


def main() -> None:
    """Write a checkpoint of the 27B's shape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, help="fewer than 62")
    parser.add_argument("--dense", type=float, default=DENSE, help="share of bytes that are there")
    args = parser.parse_args()
    config, tokenizer = shape_of_27b(args.layers), full_tokenizer("gemma3")
    print(large_checkpoint(args.folder, config=config, tokenizer=tokenizer, dense=args.dense))


if __name__ == "__main__":
    main()
