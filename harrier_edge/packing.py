"""Weights in the form in which this processor multiplies, mapped from the cache.

ONNX Runtime brings weights into that form at every load, in memory of each process's own. Here it
does so once. What it makes is kept in the cache with its optimized graphs, and every process maps
the same pages. What is not multiplied, the embedding table, is mapped from the package as it is.

A folder in the cache is for one package, release of ONNX Runtime and processor, by its name. It is
there whole or not at all, and made anew where a file of it was written to since.
"""

from __future__ import annotations

import hashlib
import logging
import math
import mmap
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime

from harrier_edge.errors import SpecError
from harrier_edge.graphs import ExternalTensor, external_tensors, with_entries
from harrier_edge.isolation import python_command
from harrier_edge.machine import available_memory, this_machine
from harrier_edge.package import MODEL, MODEL_DATA, Package, Stamps, open_package, stamps_of
from harrier_edge.places import cache_folder, lacking_space
from harrier_edge.releases import given
from harrier_edge.spec import MANIFEST_NAME, PackageManifest, read_table

logger = logging.getLogger(__name__)

FORMAT = 3
# In bytes of weights. Smaller packages load at once anyway, and of larger ones no second copy fits,
# neither on the disk nor in memory.
LEAST_WEIGHTS, MOST_WEIGHTS = 64 * 10**6, 4 * 10**9
_WEIGHTS = "weights"
_NOTE = "packed.json"
_TABLE_BYTES = 2**20  # from which on a tensor that is not multiplied stays in the package
_IN_GRAPH_BYTES = 4096  # up to which ONNX Runtime writes a tensor into the graph
_PACKING_SECONDS = 600
_CHILD = "from harrier_edge.packing import main; main()"
_BLOCK = 2**22  # bytes that are copied at once
# In so many bytes, or so many parts if they are fewer, a table is brought into memory: Linux grants
# a process 65,530 areas of memory.
_PART, _MOST_PARTS = 2**16, 2**13
# TensorProto.DataType -> what numpy calls it, of those that numpy knows.
_TYPES = {1: "float32", 2: "uint8", 3: "int8", 10: "float16", 11: "float64"}
_PACKED = "prepacked_"  # begins the entries by which ONNX Runtime finds what it made of a tensor:
_OFFSET = re.compile(r"\|\d+;")  # kernel+hash|offset;length;…|offset;length;…


class Table(msgspec.Struct, frozen=True):
    """A tensor of the package that is mapped as it is."""

    name: str
    type: str  # numpy's
    shape: tuple[int, ...]
    file: str  # of the package
    offset: int  # in bytes


class Note(msgspec.Struct, frozen=True):
    """What a folder of packed weights tells of itself."""

    package: str  # its folder, which may be gone
    tables: list[Table]
    stamps: Stamps


@dataclass(frozen=True)
class PackedGraphs:
    """Optimized graphs whose weights are mapped."""

    folder: Path
    tables: Mapping[str, onnxruntime.OrtValue]  # what the graphs have to be given
    _maps: Sequence[mmap.mmap]  # over which these lie
    _steps: Sequence[tuple[int, int]]  # bytes of a row of each table, and of a part of it

    def forget(self) -> None:
        """Give the pages of the tables back; they are mapped again when they are read again."""
        if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            for mapped in self._maps:
                mapped.madvise(mmap.MADV_DONTNEED)

    def bytes_of(self, tokens: Sequence[int]) -> int:
        """What reading the rows of `tokens` brings into memory."""
        rows = np.unique(np.asarray(tokens))
        return sum(part * np.unique(rows * row // part).size for row, part in self._steps)

    def graph(self, original: Path) -> Path | None:
        """What takes the place of one of the package's graphs, if something does."""
        found = self.folder / original.name
        return found if found.exists() else None


@dataclass(frozen=True)
class PackedFolder:
    """A folder of packed weights in the cache."""

    folder: Path
    package: Path | None  # which may be gone; None where the folder does not tell
    bytes: int  # on the disk
    is_needed: bool  # whether it is for a package that is there, on this machine as it is now


def packed_graphs(package: Package) -> PackedGraphs | None:
    """A package's graphs over mapped weights, which are packed now if they are not yet.

    None, with the reason in the log, where that is not worth it or the cache has no room for it.
    """
    size = weight_bytes(package)
    if not LEAST_WEIGHTS <= size <= MOST_WEIGHTS:
        return None
    folder = _place(package)
    note = _read(folder)
    if note is None:
        logger.info("%s: packing its weights for this processor, once", package.folder)
        try:
            _in_child(package)
        except (OSError, subprocess.SubprocessError) as error:
            logger.info("%s: its weights are not packed: %s", package.folder, error)
        note = _read(folder)
    return _mapped(package, folder, note) if note else None


def main() -> None:
    """Pack the package in the folder that is named, for `packed_graphs`."""
    package = open_package(Path(sys.argv[1]))
    _pack(package, _place(package))


def packed_folders() -> Iterator[PackedFolder]:
    """All packed weights in the cache, also those that no package or processor needs any more."""
    for folder in sorted(_home().glob("*")):
        note = _decode(folder / _NOTE)
        blocks = sum(_on_disk(path) for path in folder.rglob("*"))
        package = Path(note.package) if note else None
        is_needed = package is not None and _is_for(folder, package)
        yield PackedFolder(folder, package, blocks, is_needed)


def packed_bytes(package: Path) -> int:
    """The room on the disk that the packed weights of the package in that folder take."""
    return sum(found.bytes for found in packed_folders() if found.package == package.resolve())


def remove_packed(package: Path) -> None:
    """Remove what was packed of the package in that folder."""
    for found in list(packed_folders()):
        if found.package == package.resolve():
            shutil.rmtree(found.folder, ignore_errors=True)


def _is_for(folder: Path, package: Path) -> bool:
    try:
        manifest = read_table(package / MANIFEST_NAME, PackageManifest)
    except SpecError:
        return False
    return folder == _place(Package(package, manifest))


def weight_bytes(package: Package) -> int:
    """The bytes of its weights, in however many files they are."""
    files = package.manifest.files.items()
    return sum(record.size for name, record in files if name.startswith(MODEL_DATA))


def _other_graphs(package: Package) -> list[str]:
    """The graphs over the same weights: that for queries, and those of single layers."""
    query = [package.query] if package.query else []
    return [path.name for path in [*query, *package.layers]]


def _home() -> Path:
    return cache_folder() / "packed"


def _place(package: Package) -> Path:
    """The folder for what package, runtime and processor give."""
    files = package.manifest.files
    contents = [
        record.sha256
        for name, record in sorted(files.items())
        if name in (MODEL, *_other_graphs(package)) or name.startswith(MODEL_DATA)
    ]
    machine = this_machine()
    on = [onnxruntime.__version__, machine.system, machine.processor, str(machine.extensions)]
    where = str(package.folder.resolve())
    key = "\n".join([str(FORMAT), where, *contents, *on])
    return _home() / hashlib.sha256(key.encode()).hexdigest()[:32]


def _read(folder: Path) -> Note | None:
    """The note of a whole folder; None where there is none, or a file of it was written to."""
    note = _decode(folder / _NOTE)
    try:
        return note if note and stamps_of(folder, note.stamps) == note.stamps else None
    except OSError:
        return None


def _decode(path: Path) -> Note | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Note)
    except (OSError, msgspec.DecodeError):
        return None


def _in_child(package: Package) -> None:
    """Pack in a process of its own: it takes the memory of several copies. Raises OSError."""
    needed = 3 * weight_bytes(package)
    home = _home()
    home.mkdir(parents=True, exist_ok=True)
    if lacking := lacking_space(home, needed):
        raise OSError(lacking)
    free = available_memory()
    if free is not None and free < needed:
        raise OSError(f"{free / 1e6:.0f} MB of memory are free, wanted {needed / 1e6:.0f}")
    if getattr(sys, "frozen", False):
        raise OSError("there is no Python to do it with")
    # Not by multiprocessing, which would run a script again that does not guard against it.
    command = python_command(_CHILD, str(package.folder.resolve()))
    subprocess.run(command, check=True, capture_output=True, timeout=_PACKING_SECONDS)


def _pack(package: Package, target: Path) -> None:
    """Make the folder `target`, whole or not at all; one that is there and whole stays.

    Another process that packed at the same time may be loading from it.
    """
    part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        tables = _write(package, part)
        names = sorted(path.name for path in part.iterdir())
        note = Note(str(package.folder.resolve()), tables, stamps_of(part, names))
        (part / _NOTE).write_bytes(msgspec.json.encode(note))
        if _read(target) is None:
            shutil.rmtree(target, ignore_errors=True)
            _move(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _move(part: Path, target: Path) -> None:
    """Give a whole folder its place, unless another process was faster."""
    try:
        part.replace(target)
    except OSError:
        if _read(target) is None:
            raise


def _write(package: Package, part: Path) -> list[Table]:
    """Write the graphs and their one file of weights to `part`; what it leaves in the package."""
    (part / "made").mkdir()
    _optimize(package.folder / MODEL, part / "made")
    made = external_tensors(part / "made" / MODEL)
    tables = dict(_tables(package, made, part / "made"))
    (part / "made" / MODEL).rename(part / MODEL)
    left_out = [(int(made[name].entry["offset"]), _size(made[name])) for name in tables]
    _copy(part / "made" / _WEIGHTS, part / _WEIGHTS, left_out)
    for name in _other_graphs(package):
        _optimize(package.folder / name, part / "made")
        same = _places(name, external_tensors(part / "made" / name), made)
        (part / name).write_bytes(with_entries(part / "made" / name, same))
    shutil.rmtree(part / "made")
    return list(tables.values())


def _optimize(model: Path, folder: Path) -> None:
    """Have ONNX Runtime write what it makes of a graph and its weights."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.optimized_model_filepath = str(folder / model.name)
    for key, value in (
        ("save_external_prepacked_constant_initializers", "1"),
        ("optimized_model_external_initializers_file_name", _WEIGHTS),
        ("optimized_model_external_initializers_min_size_in_bytes", str(_IN_GRAPH_BYTES)),
    ):
        options.add_session_config_entry(f"session.{key}", value)
    onnxruntime.InferenceSession(given(model, options), options, providers=["CPUExecutionProvider"])


def _tables(
    package: Package, made: Mapping[str, ExternalTensor], folder: Path
) -> Iterator[tuple[str, Table]]:
    """The large tensors that were written as the package has them, and not packed."""
    written = np.memmap(folder / _WEIGHTS, mode="r")
    for name, tensor in external_tensors(package.folder / MODEL).items():
        same = made.get(name)
        size, kind = _size(tensor), _TYPES.get(tensor.type)
        if same is None or kind is None or size < _TABLE_BYTES or _is_packed(same):
            continue
        file, start = tensor.entry["location"], int(tensor.entry.get("offset", 0))
        at = int(same.entry["offset"])
        blocks = (slice(i, min(i + _BLOCK, size)) for i in range(0, size, _BLOCK))
        before = np.memmap(package.folder / file, mode="r", offset=start, shape=size)
        after = written[at : at + size]
        if all(np.array_equal(before[block], after[block]) for block in blocks):
            yield name, Table(name, kind, tensor.shape, file, start)


def _size(tensor: ExternalTensor) -> int:
    return int(tensor.entry["length"])


def _is_packed(tensor: ExternalTensor) -> bool:
    return any(key.startswith(_PACKED) for key in tensor.entry)


def _places(
    graph: str, tensors: Mapping[str, ExternalTensor], made: Mapping[str, ExternalTensor]
) -> dict[str, dict[str, str]]:
    """Where the file of `made` has the same tensors, which ONNX Runtime writes in any order."""
    for name, tensor in tensors.items():
        if name not in made or _content(tensor) != _content(made[name]):
            raise OSError(f"{graph} has another tensor {name!r} than {MODEL}")
    return {name: made[name].entry for name in tensors}


def _content(tensor: ExternalTensor) -> tuple[object, ...]:
    """What it is, wherever it lies; of what was packed, ONNX Runtime's hash is part of it."""
    rest = {k: _OFFSET.sub("|", v) for k, v in tensor.entry.items() if k != "offset"}
    return tensor.type, tensor.shape, rest


def _copy(source: Path, target: Path, left_out: list[tuple[int, int]]) -> None:
    """Copy a file, with holes, which take no room on the disk, for (offset, length) in it."""
    size = source.stat().st_size
    with source.open("rb") as reader, target.open("wb") as writer:
        start = 0
        for hole, length in sorted([*left_out, (size, 0)]):
            reader.seek(start)
            writer.seek(start)
            while start < hole:
                block = reader.read(min(_BLOCK, hole - start))
                start += writer.write(block)
            start = hole + length
        writer.truncate(size)
        writer.flush()
        os.fsync(writer.fileno())  # before the folder has its name, by which it counts as whole


def _mapped(package: Package, folder: Path, note: Note) -> PackedGraphs:
    maps = {}
    for name in {table.file for table in note.tables}:
        with (package.folder / name).open("rb") as file:
            maps[name] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    values, steps = {}, []
    for table in note.tables:
        count = math.prod(table.shape)
        array = np.frombuffer(maps[table.file], table.type, count, table.offset)
        array = array.reshape(table.shape)
        part = max(_PART, 2 ** math.ceil(math.log2(array.nbytes / _MOST_PARTS)))
        _divide(maps[table.file], table.offset, array.nbytes, part)
        steps.append((array.nbytes // max(1, len(array)), part))
        values[table.name] = onnxruntime.OrtValue.ortvalue_from_numpy(array)
    return PackedGraphs(folder, values, list(maps.values()), steps)


def _divide(mapped: mmap.mmap, offset: int, size: int, part: int) -> None:
    """Have a byte that is read bring `part` bytes of its table into memory, at the most.

    Linux maps all around it that it has in one piece, mostly 256 KB, but nothing that lies in an
    area with other advice. For every second part it is told what changes nothing else here: that
    reading ahead from the disk is no use. That takes 4 ms for 170 MB.
    """
    if sys.platform == "linux":
        for start in range(offset // part * part, offset + size, 2 * part):
            mapped.madvise(mmap.MADV_RANDOM, start, min(part, len(mapped) - start))


def _on_disk(path: Path) -> int:
    """The bytes that a file takes, without its holes where the system tells."""
    stat = path.stat()
    return stat.st_blocks * 512 if hasattr(stat, "st_blocks") else stat.st_size
