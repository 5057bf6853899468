"""Conditions on documents, as people write them and as SQL. No I/O.

`path=notes/**.md`, `type=text/markdown`, `collection=work`, `modified>=2025-01-31`, `size<1e6`,
`author=Zoë`, `year>=2020`, `tag!=draft`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from harrier_edge.errors import UsageError

_CONDITION = re.compile(r"\s*([^\s!<>=][^!<>=]*?)\s*(!=|<=|>=|=|<|>)(.*)", re.DOTALL)
_COLUMNS = {"collection": "collection", "type": "media_type"}
_SQL = {"=": "IS", "!=": "IS NOT"}
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Filter:
    """A condition in SQL on the table `documents`, with its bound values."""

    sql: str
    values: tuple[str | float, ...]


def parse_filters(conditions: Sequence[str]) -> Filter | None:
    """All `conditions` as one, None for none. Raises UsageError where one cannot be read.

    `path` and `type` take globs (`*` spans folders, a path that does not begin at the root may
    begin at any folder). `modified` takes an ISO 8601 date or time, local unless it has a zone;
    `size` bytes. Any other name is one of the metadata's: compared as a number where the value is
    one, else as text. `!=` also holds where a document has no such metadata.
    """
    if not conditions:
        return None
    filters = [_parse(condition) for condition in conditions]
    return Filter(
        " AND ".join(f"({one.sql})" for one in filters),
        tuple(value for one in filters for value in one.values),
    )


def _parse(condition: str) -> Filter:
    match = _CONDITION.fullmatch(condition)
    if not match:
        raise UsageError(
            f"filter {condition!r} is not a condition; wanted NAME=VALUE, or !=, <, <=, > or >= "
            "in the place of =."
        )
    name, operator, value = match[1], match[2], match[3].strip()
    if name in ("path", *_COLUMNS):
        if operator not in _SQL:
            raise UsageError(f"filter {condition!r}: {name} takes = or !=, not {operator}.")
        return _path(value, operator) if name == "path" else _named(name, value, operator)
    if name == "modified":
        return Filter(f"modified {operator} ?", (_time(condition, value),))
    if name == "size":
        size = _number(value)
        if size is None:
            raise UsageError(f"filter {condition!r}: wanted a number of bytes, not {value!r}.")
        return Filter(f"size {operator} ?", (size,))
    return _metadata(name, value, operator)


def _path(value: str, operator: str) -> Filter:
    pattern = value if value.startswith("/") or re.match(r"[A-Za-z]:[\\/]", value) else f"*/{value}"
    negation = "NOT " if operator == "!=" else ""
    if _GLOB.search(value):
        fixed = _GLOB.split(pattern, maxsplit=1)[0]
        if not fixed or negation:
            return Filter(f"path {negation}GLOB ?", (pattern,))
        # The range lets the index on paths be used.
        return Filter(
            "path >= ? AND path < ? AND path GLOB ?", (fixed, fixed + "\U0010ffff", pattern)
        )
    # A file, or all that is in a folder.
    inside = pattern.rstrip("/") + "/*"
    return Filter(f"{negation}(path GLOB ? OR path GLOB ?)", (pattern, inside))


def _named(name: str, value: str, operator: str) -> Filter:
    if name == "type" and _GLOB.search(value):
        return Filter(f"media_type {'NOT ' if operator == '!=' else ''}GLOB ?", (value,))
    return Filter(f"{_COLUMNS[name]} {operator} ?", (value,))


def _metadata(name: str, value: str, operator: str) -> Filter:
    """A path in SQLite's JSON, the name quoted so that nothing in it has a meaning."""
    field = "json_extract(metadata, ?)"
    path = '$."' + name.replace('"', '\\"') + '"'
    number = _number(value)
    operator = _SQL.get(operator, operator)
    if value.lower() in ("true", "false") and operator in _SQL.values():
        # json_extract makes them 1 and 0.
        joined = "AND" if operator == "IS NOT" else "OR"
        return Filter(
            f"(CAST({field} AS TEXT) {operator} ? {joined} json_type(metadata, ?) {operator} ?)",
            (path, value, path, value.lower()),
        )
    if number is None:
        return Filter(f"CAST({field} AS TEXT) {operator} ?", (path, value))
    if operator in _SQL.values():
        test = f"({field} {operator} ? OR {field} IS ?)"
        if operator == "IS NOT":
            test = f"({field} IS NOT ? AND {field} IS NOT ?)"
        return Filter(test, (path, number, path, value))
    # SQLite holds any text to be more than any number.
    return Filter(
        f"(typeof({field}) IN ('integer', 'real') AND {field} {operator} ?)", (path, path, number)
    )


def _number(value: str) -> float | None:
    try:
        whole = int(value)
        return whole if abs(whole) < 2**63 else float(whole)  # SQLite's integers have 64 bits
    except (ValueError, OverflowError):
        pass
    try:
        number = float(value)
    except ValueError:
        return None
    return number if abs(number) < float("inf") else None


def _time(condition: str, value: str) -> float:
    """Seconds since 1970."""
    try:
        return datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", value)).timestamp()
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            f"filter {condition!r}: {value!r} is not a time; wanted one such as 2025-01-31 or "
            "2025-01-31T18:00."
        ) from None
