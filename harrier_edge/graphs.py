"""An ONNX graph as it lies on disk, read with nothing but bounds before ONNX Runtime sees it.

The format is protobuf: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto. Only what can do
harm is read: operators, and where tensors say that their bytes are. Only that is ever rewritten.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harrier_edge.errors import PackageError

DOMAINS = ("", "ai.onnx", "com.microsoft")  # whose operators ONNX Runtime has built in
LARGEST_GRAPH = 2**31 - 1  # bytes, protobuf's own limit
MOST_NODES = 200_000
DEEPEST = 8  # branches inside branches

# Field numbers of onnx.proto.
_MODEL_GRAPH, _MODEL_TRAINING, _MODEL_FUNCTIONS = 7, 20, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_INPUT, _NODE_OP, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_INT = 1, 3
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE = (5, 10), (6, 11), (22, 23)
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 1, 2, 8, 13, 14
_WINDOW = "local_window_size"  # of GroupQueryAttention, in tokens; -1, or absent, for none
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types


@dataclass(frozen=True)
class ExternalTensor:
    """A tensor whose bytes are in another file than the graph."""

    type: int  # TensorProto.DataType
    shape: tuple[int, ...]
    entry: dict[str, str]  # what the graph says of where it is: location, offset, length, …


def external_tensors(path: Path) -> dict[str, ExternalTensor]:
    """Name -> tensor, of a sound graph's initializers that are in other files."""
    tensors = (value for field, value in _graph_fields(path) if field == _GRAPH_INITIALIZER)
    found = (_external_tensor(_message(tensor)) for tensor in tensors)
    return {name: tensor for name, tensor in found if tensor.entry}


def with_entries(path: Path, entries: Mapping[str, Mapping[str, str]]) -> bytes:
    """A sound model, but that its initializers of these names have other entries."""

    def initializer(data: memoryview) -> bytes:
        name, tensor = _external_tensor(data)
        own = [
            _written(_TENSOR_EXTERNAL, _written(1, key.encode()) + _written(2, value.encode()))
            for key, value in entries.get(name, tensor.entry).items()
        ]
        rest = _replaced(data, _TENSOR_EXTERNAL, lambda pair: b"")
        return _written(_GRAPH_INITIALIZER, b"".join([rest, *own]))

    def graph(data: memoryview) -> bytes:
        return _written(_MODEL_GRAPH, _replaced(data, _GRAPH_INITIALIZER, initializer))

    return _replaced(_bytes(path), _MODEL_GRAPH, graph)


def with_narrower_windows(path: Path) -> bytes:
    """A sound model, but that its attentions see one token less in each sliding window."""

    def attribute(data: memoryview) -> bytes:
        fields = dict(_fields(data))
        size = fields.get(_ATTRIBUTE_INT, 0)
        is_window = _text(fields.get(_ATTRIBUTE_NAME, b"")) == _WINDOW
        if is_window and isinstance(size, int) and 0 < size < 2**63:
            fields[_ATTRIBUTE_INT] = size - 1
            whole = b"".join(_written(field, value) for field, value in fields.items())
            return _written(_NODE_ATTRIBUTE, whole)
        for number in _ATTRIBUTE_GRAPHS:
            data = memoryview(_replaced(data, number, graph_in(number)))
        return _written(_NODE_ATTRIBUTE, data)

    def node(data: memoryview) -> bytes:
        return _written(_GRAPH_NODE, _replaced(data, _NODE_ATTRIBUTE, attribute))

    def graph_in(field: int) -> Callable[[memoryview], bytes]:
        return lambda data: _written(field, _replaced(data, _GRAPH_NODE, node))

    return _replaced(_bytes(path), _MODEL_GRAPH, graph_in(_MODEL_GRAPH))


def check_graph(path: Path, files: Mapping[str, int]) -> None:
    """Refuse a graph that reaches outside its package or is larger than it can be.

    `files` are the package's files and their sizes in bytes. Raises PackageError where `path` is
    not an ONNX model; where a tensor lies in another file than these, or past the end of one; where
    an operator is of a domain that ONNX Runtime does not have; and where a bound is passed.
    """
    if (size := path.stat().st_size) > LARGEST_GRAPH:
        raise PackageError(f"{path}: has {size} bytes; an ONNX graph has at most {LARGEST_GRAPH}.")
    try:
        _Check(path, files, size).model(_bytes(path))
    except _MalformedError as error:
        raise PackageError(
            f"{path}: is not an ONNX model ({error}). Export or pull the package again."
        ) from error


def table_rows(path: Path) -> int | None:
    """How many token ids a checked graph knows: the rows of the table that `input_ids` reads.

    None where it is read by no gathering operator directly. ONNX Runtime itself does not look
    whether an id is in a quantized table.
    """
    rows: dict[str, int] = {}
    tables = set()
    for field, value in _graph_fields(path):
        if field == _GRAPH_NODE:
            parts = list(_fields(_message(value)))
            inputs = [_text(part) for number, part in parts if number == _NODE_INPUT]
            op = next((_text(part) for number, part in parts if number == _NODE_OP), "")
            if op in ("Gather", "GatherBlockQuantized") and inputs[1] == "input_ids":
                tables.add(inputs[0])
        elif field == _GRAPH_INITIALIZER:
            name, tensor = _external_tensor(_message(value))
            rows[name] = tensor.shape[0] if tensor.shape else 0
    return min((rows[table] for table in tables if table in rows), default=None)


class _MalformedError(Exception):
    """Bytes that are not protobuf."""


class _Check:
    """A walk through one model."""

    def __init__(self, path: Path, files: Mapping[str, int], size: int) -> None:
        self._path = path
        self._files = files
        self._size = size
        self._nodes = 0

    def model(self, data: memoryview) -> None:
        graphs = 0
        for field, value in _fields(data):
            if field in (_MODEL_TRAINING, _MODEL_FUNCTIONS):
                raise self._refused("has functions or training parts of its own")
            if field == _MODEL_GRAPH:
                graphs += 1
                self._graph(_message(value), 0)
        if graphs != 1:
            raise _MalformedError(f"{graphs} graphs")

    def _graph(self, data: memoryview, depth: int) -> None:
        if depth > DEEPEST:
            raise self._refused(f"has graphs in graphs more than {DEEPEST} deep")
        for field, value in _fields(data):
            if field == _GRAPH_NODE:
                self._node(_message(value), depth)
            elif field == _GRAPH_INITIALIZER:
                self._tensor(_message(value))
            elif field == _GRAPH_SPARSE:
                raise self._refused("has sparse tensors")

    def _node(self, data: memoryview, depth: int) -> None:
        self._nodes += 1
        if self._nodes > MOST_NODES:
            raise self._refused(f"has more than {MOST_NODES} operators")
        domain = op = ""
        for field, value in _fields(data):
            if field == _NODE_DOMAIN:
                domain = _text(value)
            elif field == _NODE_OP:
                op = _text(value)
            elif field == _NODE_ATTRIBUTE:
                self._attribute(_message(value), depth)
        if domain not in DOMAINS:
            raise self._refused(
                f"has the operator {op!r} of {domain!r}, which foreign code has to run; known are "
                "those of ONNX and com.microsoft"
            )

    def _attribute(self, data: memoryview, depth: int) -> None:
        for field, value in _fields(data):
            if field in _ATTRIBUTE_TENSORS:
                self._tensor(_message(value))
            elif field in _ATTRIBUTE_GRAPHS:
                self._graph(_message(value), depth + 1)
            elif field in _ATTRIBUTE_SPARSE:
                raise self._refused("has sparse tensors")

    def _tensor(self, data: memoryview) -> None:
        name, tensor = _external_tensor(data)
        room = self._size
        if tensor.entry or (_TENSOR_LOCATION, 1) in _fields(data):
            room = self._external(name, tensor.entry)
        # 8 elements a byte: no type of ONNX is narrower than a bit.
        if (elements := math.prod(tensor.shape)) > 8 * room:
            raise self._refused(f"tensor {name!r} has {elements} elements in {room} bytes")

    def _external(self, name: str, entry: Mapping[str, str]) -> int:
        """Bytes of a tensor in another file."""
        file = entry.get("location", "")
        size = self._files.get(file)
        if size is None:
            raise self._refused(
                f"tensor {name!r} lies in {file!r}; wanted a file that the manifest lists"
            )
        numbers = [entry.get("offset", "0"), entry.get("length", "") or "0"]
        if not all(number.isascii() and number.isdecimal() for number in numbers):
            raise self._refused(f"tensor {name!r} lies at {numbers} of {file}")
        offset, length = map(int, numbers)
        if offset + length > size:
            raise self._refused(
                f"tensor {name!r} ends at byte {offset + length} of {file}, which has {size}"
            )
        return length or size - offset

    def _refused(self, what: str) -> PackageError:
        return PackageError(f"{self._path}: {what}. It is not loaded; get it from another source.")


def _external_tensor(data: memoryview) -> tuple[str, ExternalTensor]:
    """A tensor's name, and what it is; without an entry where its bytes are in the graph."""
    name, kind = "", 0
    dims: list[int] = []
    entry: dict[str, str] = {}
    for field, value in _fields(data):
        if field == _TENSOR_DIMS:
            dims += [value] if isinstance(value, int) else _varints(value)
        elif field == _TENSOR_TYPE and isinstance(value, int):
            kind = value
        elif field == _TENSOR_NAME:
            name = _text(value)
        elif field == _TENSOR_EXTERNAL:
            pair = dict(_fields(_message(value)))
            entry[_text(pair.get(1, b""))] = _text(pair.get(2, b""))
    return name, ExternalTensor(kind, tuple(dims), entry)


def _graph_fields(path: Path) -> Iterator[tuple[int, int | memoryview]]:
    """The parts of a sound model's graph."""
    (graph,) = (value for field, value in _fields(_bytes(path)) if field == _MODEL_GRAPH)
    return _fields(_message(graph))


def _bytes(path: Path) -> memoryview:
    return memoryview(path.read_bytes())


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field of a message; numbers as int, all else as bytes."""
    at = 0
    while at < len(data):
        field, value, at = _field(data, at)
        yield field, value


def _field(data: memoryview, at: int) -> tuple[int, int | memoryview, int]:
    """Number and value of the field at `at`, and where the next one is."""
    key, at = _varint(data, at)
    field, wire = key >> 3, key & 7
    if wire == _VARINT:
        return field, *_varint(data, at)
    length = {_FIXED64: 8, _FIXED32: 4}.get(wire)
    if wire == _BYTES:
        length, at = _varint(data, at)
    if length is None or field == 0:
        raise _MalformedError(f"wire type {wire} of field {field}")
    if length > len(data) - at:
        raise _MalformedError(f"field {field} is cut short")
    return field, data[at : at + length], at + length


def _replaced(data: memoryview, field: int, new: Callable[[memoryview], bytes]) -> bytes:
    """A message with what `new` writes in the place of each `field`."""
    parts: list[bytes | memoryview] = []
    at = 0
    while at < len(data):
        start = at
        number, value, at = _field(data, at)
        parts.append(new(_message(value)) if number == field else data[start:at])
    return b"".join(parts)


def _written(field: int, value: int | bytes | memoryview) -> bytes:
    """A field, as it stands in a message."""
    if isinstance(value, int):
        return _number(field << 3 | _VARINT) + _number(value)
    return b"".join([_number(field << 3 | _BYTES), _number(len(value)), value])


def _number(value: int) -> bytes:
    """A number, as it stands in a message."""
    written = bytearray()
    while value >= 0x80:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise _MalformedError("a number is cut short")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _varints(data: memoryview) -> list[int]:
    numbers, at = [], 0
    while at < len(data):
        number, at = _varint(data, at)
        numbers.append(number)
    return numbers


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise _MalformedError("a number where a message is wanted")
    return value


def _text(value: int | memoryview | bytes) -> str:
    if isinstance(value, int):
        raise _MalformedError("a number where a text is wanted")
    return bytes(value).decode("utf-8", "backslashreplace")
