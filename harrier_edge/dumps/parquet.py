"""Dumps as Parquet: a row for each record, its vector a list of fixed size, the header beside.

A record that is no chunk, of a document without text, has zeros for a vector: Arrow before 26 reads
no list of fixed size that is null.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from harrier_edge.dumps.records import FORMAT, Header, Record, Stored, to_parts, to_records
from harrier_edge.errors import StoreError, UsageError
from harrier_edge.store.rows import Part
from harrier_edge.vectors import STORES

ROWS = 4096  # of a row group, at the least: what is held in memory
KEY = b"harrier-edge"  # the header's, in the metadata of the schema
_KINDS = {  # of the columns that are no strings
    **dict.fromkeys(("size", "number", "line", "end_line", "start", "end"), "int64"),
    "modified": "float64",
    "complete": "bool",
}


def write(file: Path, header: Header, parts: Iterable[Part]) -> None:
    """Write a dump, row group by row group. Raises UsageError where pyarrow is not installed."""
    arrow, parquet = _pyarrow()
    schema = _schema(arrow, header)
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        records: list[Record] = []
        vectors: list[Stored] = []
        for part in parts:
            some, stored = to_records(part, header.model.store)
            records += some
            vectors.append(stored)
            if len(records) >= ROWS:
                writer.write_batch(_batch(arrow, schema, records, np.concatenate(vectors)))
                records, vectors = [], []
        if records:
            writer.write_batch(_batch(arrow, schema, records, np.concatenate(vectors)))


def read_header(file: Path) -> Header:
    """The header of a dump. Raises StoreError where it is none that this release reads."""
    arrow, parquet = _pyarrow()
    with _errors_named(arrow, file):
        metadata = parquet.read_schema(file).metadata or {}
        header = msgspec.json.decode(metadata.get(KEY, b"null"), type=Header)
    return header.require_known(file)


def read(file: Path, header: Header) -> Iterator[Part]:
    """The parts of a dump. Raises StoreError where one cannot be right."""
    arrow, parquet = _pyarrow()
    wanted = _schema(arrow, header)
    with _errors_named(arrow, file), parquet.ParquetFile(file) as source:
        if not source.schema_arrow.equals(wanted):
            raise StoreError(f"has other columns than a dump of format {FORMAT}")
        for batch in source.iter_batches(batch_size=ROWS):
            flat = batch.column("vector").flatten().to_numpy(zero_copy_only=False)
            vectors = flat.astype(STORES[header.model.store]).reshape(-1, header.model.dimension)
            if len(vectors) != batch.num_rows:
                raise StoreError("has a record without a vector")
            rows = batch.drop_columns(["vector"]).to_pylist()
            for row in rows:
                row["metadata"] = json.loads(row["metadata"])
            records = [Record(**row) for row in rows]
            yield from to_parts(records, vectors[_are_chunks(records)], header.model)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow  # heavy, and of an extra
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError(
            "Parquet needs pyarrow. Install it: pip install 'harrier-edge[parquet]', or name a "
            "file that ends in .jsonl."
        ) from error
    return pyarrow, parquet


@contextmanager
def _errors_named(arrow: Any, file: Path) -> Iterator[None]:
    try:
        yield
    except (arrow.ArrowException, msgspec.DecodeError, ValueError, StoreError) as error:
        raise StoreError(f"{file}: is not a sound dump of an index: {error}.") from error


def _schema(arrow: Any, header: Header) -> Any:
    kinds = {"float32": arrow.float32, "int8": arrow.int8, "float16": arrow.float16}
    vector = arrow.list_(kinds[header.model.store](), header.model.dimension)
    columns = [
        (name, arrow.type_for_alias(_KINDS.get(name, "string")))
        for name in Record.__dataclass_fields__
    ]
    schema = arrow.schema([*columns, ("vector", vector)])
    return schema.with_metadata({KEY: msgspec.json.encode(header)})


def _batch(arrow: Any, schema: Any, records: list[Record], stored: Stored) -> Any:
    """Records with their vectors, zeros where there is no chunk."""
    values: dict[str, list[Any]] = {
        name: [getattr(record, name) for record in records] for name in Record.__dataclass_fields__
    }
    values["metadata"] = [json.dumps(data, ensure_ascii=False) for data in values["metadata"]]
    columns = [
        arrow.array(values[name], arrow.type_for_alias(_KINDS.get(name, "string")))
        for name in values
    ]
    rows = np.zeros((len(records), stored.shape[1]), stored.dtype)
    rows[_are_chunks(records)] = stored
    kind = schema.field("vector").type
    vectors = arrow.FixedSizeListArray.from_arrays(arrow.array(rows.ravel()), type=kind)
    return arrow.record_batch([*columns, vectors], schema=schema)


def _are_chunks(records: list[Record]) -> npt.NDArray[np.bool_]:
    return np.array([record.number is not None for record in records], np.bool_)
