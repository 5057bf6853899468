"""CSV and JSON Lines to a document: a block a record, its fields by name."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator

from harrier_edge.documents.document import Builder, Document
from harrier_edge.documents.text import decode
from harrier_edge.errors import DocumentError

_DELIMITERS = ",;\t|"
_LONGEST_FIELD = 16 * 2**20  # characters


def read_table(data: bytes, name: str, media_type: str) -> Document:
    """CSV or TSV. The first row names the fields; the delimiter is the commonest in it."""
    text = decode(data)
    first = text.partition("\n")[0]
    delimiter = (
        "\t" if media_type == "text/tab-separated-values" else max(_DELIMITERS, key=first.count)
    )
    csv.field_size_limit(_LONGEST_FIELD)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    builder = Builder()
    try:
        header = next(rows, [])
        line = rows.line_num + 1
        for row in rows:
            names = [*header, *(f"field {i + 1}" for i in range(len(header), len(row)))]
            builder.block(_lines(zip(names, row, strict=False)), line)
            line = rows.line_num + 1
    except csv.Error as error:
        raise DocumentError(f"is not a table (line {rows.line_num}: {error})") from error
    return builder.document(name, media_type, records=True)


def read_json_lines(data: bytes, name: str, media_type: str) -> Document:
    """JSON Lines; fields inside of fields are named as in `author.name`."""
    builder = Builder()
    for number, line in enumerate(decode(data).split("\n"), 1):
        if line.strip():
            try:
                builder.block(_lines(_flat("", json.loads(line))), number)
            except (ValueError, RecursionError) as error:
                raise DocumentError(f"is not JSON Lines (line {number}: {error})") from error
    return builder.document(name, media_type, records=True)


def _lines(fields: Iterator[tuple[str, str]]) -> str:
    return "\n".join(
        f"{name.strip()}: {value.strip()}" if name.strip() else value.strip()
        for name, value in fields
        if value.strip()
    )


def _flat(name: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}" if name else key, inner)
    elif isinstance(value, list) and any(isinstance(one, dict | list) for one in value):
        for inner in value:
            yield from _flat(name, inner)
    elif isinstance(value, list):
        yield name, ", ".join(_scalar(one) for one in value)
    else:
        yield name, _scalar(value)


def _scalar(value: object) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value)
