"""Dumps as JSON Lines: the header in the first line, then a record in each, with its vector."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from harrier_edge.dumps.records import Header, Record, Stored, to_parts, to_records
from harrier_edge.errors import StoreError
from harrier_edge.store.rows import Part
from harrier_edge.vectors import STORES

LINES = 1024  # that are made documents of at once


@dataclass(frozen=True)
class _Line(Record):
    vector: list[float] | None = None


def write(file: Path, header: Header, parts: Iterable[Part]) -> None:
    """Write a dump, part by part."""
    encoder = msgspec.json.Encoder()
    with file.open("wb") as out:
        out.write(encoder.encode(header) + b"\n")
        for part in parts:
            records, stored = to_records(part, header.model.store)
            vectors: list[list[float] | None] = stored.tolist() or [None]
            for record, vector in zip(records, vectors, strict=True):
                line = {name: getattr(record, name) for name in Record.__dataclass_fields__}
                out.write(encoder.encode({**line, "vector": vector}) + b"\n")


def read_header(file: Path) -> Header:
    """The first line. Raises StoreError where it is no header that this release reads."""
    with file.open("rb") as lines:
        try:
            header = msgspec.json.decode(lines.readline(), type=Header)
        except msgspec.DecodeError as error:
            raise StoreError(f"{file}: is not a dump of an index: {error}.") from error
    return header.require_known(file)


def read(file: Path, header: Header) -> Iterator[Part]:
    """The parts of a dump. Raises StoreError, with the line, where one cannot be right."""
    decoder = msgspec.json.Decoder(_Line)
    some: list[_Line] = []
    place = 1
    with file.open("rb") as lines:
        lines.readline()
        try:
            for place, line in enumerate(lines, 2):  # noqa: B007  told where one is wrong
                some.append(decoder.decode(line))
                _check(some[-1], header)
                if len(some) == LINES:
                    yield from to_parts(some, _stored(some, header), header.model)
                    some = []
            yield from to_parts(some, _stored(some, header), header.model)
        except (msgspec.DecodeError, StoreError, OverflowError) as error:
            raise StoreError(
                f"{file}: line {place} or shortly before it: {error}. Dump the index again."
            ) from error


def _check(line: _Line, header: Header) -> None:
    wanted = None if line.number is None else header.model.dimension
    seen = None if line.vector is None else len(line.vector)
    if seen != wanted:
        raise StoreError(f"a vector of {line.path} has {seen} numbers; wanted {wanted}")


def _stored(lines: list[_Line], header: Header) -> Stored:
    vectors = [line.vector for line in lines if line.vector is not None]
    kind = STORES[header.model.store]
    return np.array(vectors, kind).reshape(len(vectors), header.model.dimension)
