"""Markdown to a document: headings, blocks and front matter. The text stays as it is."""

from __future__ import annotations

import datetime
import re
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from harrier_edge.documents.document import Document, Heading, one_line, storable
from harrier_edge.documents.text import decode

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

_FRONT_MATTER = re.compile(r"---[ \t]*\n(.{0,65536}?)^(?:---|\.\.\.)[ \t]*$\n?", re.S | re.M)
_MOST_VALUES = 100  # of a list in the front matter
Outline = tuple[tuple[Heading, ...], tuple[int, ...]]


def read(data: bytes, name: str, media_type: str) -> Document:
    """Markdown; the front matter's scalars and lists of them are its metadata."""
    text = decode(data)
    front = _FRONT_MATTER.match(text)
    metadata = _metadata(front[1]) if front else {}
    headings, cuts = outline(text, front.end() if front else 0)
    title = metadata.get("title")
    if not isinstance(title, str) or not title.strip():
        title = next((h.title for h in headings), name)
    return Document(text, one_line(title), media_type, headings, (cuts,), metadata=metadata)


def outline(text: str, start: int = 0) -> Outline:
    """The headings of `text` from `start` on, and where its top-level blocks begin."""
    tokens = _parser().parse(text[start:])
    lengths = (len(line) + 1 for line in text[start:].split("\n"))
    offsets = list(accumulate(lengths, initial=start))
    headings, cuts = [], [start]
    for number, token in enumerate(tokens):
        if token.level or token.map is None:
            continue
        at = offsets[token.map[0]]
        cuts.append(at)
        if token.type == "heading_open":
            title = one_line(tokens[number + 1].content)
            headings.append(Heading(at, int(token.tag[1]), title))
    return tuple(headings), tuple(sorted(set(cuts)))


@cache
def _parser() -> MarkdownIt:
    """Blocks alone: what is inside of them is not looked at."""
    from markdown_it import MarkdownIt  # an update that finds nothing new does not need it

    return MarkdownIt("commonmark").enable("table").disable("inline")


def _metadata(front_matter: str) -> dict[str, Any]:
    """The values that a filter can use. Front matter that is not YAML has none."""
    import yaml  # few files have front matter

    try:
        values = yaml.safe_load(front_matter)
        pairs = values.items() if isinstance(values, dict) else ()
        plain = {storable(str(key)): _plain(value) for key, value in pairs}
    except Exception:  # PyYAML's own, a KeyError on `!!bool x`, an IndexError on `!!int ""`, …
        return {}
    return {key: value for key, value in plain.items() if value is not None}


def _plain(value: object) -> Any:
    if isinstance(value, list) and len(value) <= _MOST_VALUES:
        return [scalar for one in value if (scalar := _scalar(one)) is not None]
    return _scalar(value)


def _scalar(value: object) -> str | int | float | None:
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, float):
        return value if value - value == 0 else None  # JSON has neither inf nor nan
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, int):
        return value if abs(value) < 2**63 else None  # SQLite's are no larger
    return None
