"""Document: what a file says, with its structure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

HEADING_CHARACTERS = 160  # of a heading's title: one line, however long the heading is


@dataclass(frozen=True)
class Heading:
    """A heading: where its line begins in the text, its level (1 is the highest), its words.

    A heading without words ends what stands above it, as the end of a function does.
    """

    start: int
    level: int
    title: str


@dataclass(frozen=True)
class Document:
    r"""The text of a file, and where it may be cut.

    Where a format is text itself (Markdown, source code, …), `text` is the decoded file with "\n"
    at line ends, so characters and lines count in the file. Elsewhere `text` was extracted, and
    `lines[i]` is the place in the file of line i: its line, in a PDF the page, in a presentation
    the slide; without `lines` they count in the extracted text.

    `cuts` are tiers of positions between blocks, coarse ones first. Where `records` is true, the
    blocks of the first tier have nothing to do with each other.
    """

    text: str
    title: str
    media_type: str
    headings: tuple[Heading, ...] = ()
    cuts: tuple[tuple[int, ...], ...] = ()
    records: bool = False
    lines: tuple[int, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


class Builder:
    """Puts the text of an extracted document together, block by block."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._text: list[str] = []
        self._length = 0
        self._lines: list[int] = []
        self._headings: list[Heading] = []
        self._cuts: list[int] = []

    def block(self, text: str, line: int = 0, *, step: int = 0) -> None:
        """Add a block. `line` is where it stands in the file, `step` 1 if its lines do so too."""
        text = storable(text).strip("\n").rstrip()
        if not text:
            return
        self._cuts.append(self._length)
        self._lines += [line + step * i for i in range(text.count("\n") + 1)]
        self._lines.append(self._lines[-1])
        self._append(text + "\n\n")

    def heading(self, level: int, title: str, line: int = 0) -> None:
        """Add a heading as a block of one line."""
        if title := one_line(title):
            self._headings.append(Heading(self._length, level, title))
            self.block(title, line)

    def extend(self, document: Document, line: int = 0, *, under: int = 0) -> None:
        """Add a whole document, its headings `under` so many levels, all of it at `line`."""
        if not document.text.strip():
            return
        start = self._length
        self._headings += [
            Heading(start + h.start, h.level + under, h.title) for h in document.headings
        ]
        self._cuts += [start, *(start + cut for cut in document.cuts[0])] if document.cuts else []
        text = storable(document.text).rstrip() + "\n\n"
        self._lines += [line] * text.count("\n")
        self._append(text)

    def document(
        self,
        title: str,
        media_type: str,
        *,
        records: bool = False,
        metadata: Mapping[str, Any] | None = None,
    ) -> Document:
        """The document; `title` gives way to the first heading where it is empty."""
        return Document(
            text="".join(self._text),
            title=title or next((h.title for h in self._headings), ""),
            media_type=media_type,
            headings=tuple(self._headings),
            cuts=(tuple(sorted(set(self._cuts))),),
            records=records,
            lines=tuple(self._lines) if any(self._lines) else (),
            metadata=metadata or {},
        )

    def _append(self, text: str) -> None:
        self._text.append(text)
        self._length += len(text)


def one_line(text: str) -> str:
    """`text` with single spaces for its white space, and cut where it is long for a title."""
    text = re.sub(r"\s+", " ", storable(text)).strip()
    return text if len(text) <= HEADING_CHARACTERS else text[:HEADING_CHARACTERS].rstrip() + "…"


def storable(text: str) -> str:
    """`text`, as long as it is, with U+FFFD for what UTF-8 or SQLite's text cannot hold."""
    return re.sub("[\0\ud800-\udfff]", "\ufffd", text)
