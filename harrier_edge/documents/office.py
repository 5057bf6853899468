"""DOCX and PPTX to a document: headings, paragraphs, tables and slides."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from harrier_edge.documents.document import Builder, Document, one_line

_HEADING_STYLE = re.compile(r"(?:heading|titre|überschrift) (\d)", re.IGNORECASE)
# https://ecma-international.org/publications-and-standards/standards/ecma-376/
_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_PARAGRAPH, _TABLE, _ROW, _CELL = (f"{_W}{name}" for name in ("p", "tbl", "tr", "tc"))
# What may stand around blocks, rows and cells: content controls, other marks, tracked changes.
_AROUND = {f"{_W}{name}" for name in ("sdt", "sdtContent", "customXml", "ins", "moveTo")}
_MARKS = {f"{_W}{name}": mark for name, mark in (("tab", "\t"), ("br", "\n"), ("cr", "\n"))}
_MARKS |= {f"{_W}noBreakHyphen": "-", f"{_W}ptab": "\t"}
# Properties, what a tracked change has taken away, how a word is pronounced, and what older
# programs show in the place of a drawing with the same text.
_UNREAD = {f"{_W}{name}" for name in ("pPr", "rPr", "sdtPr", "del", "moveFrom", "rt")}
_UNREAD.add("{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback")


def read_word(data: bytes, name: str, media_type: str) -> Document:
    """A DOCX file."""
    import docx  # an extra
    from docx.text.paragraph import Paragraph

    file: Any = docx.Document(io.BytesIO(data))
    builder = Builder()
    for element in _inner(file.element.body, _PARAGRAPH, _TABLE):
        text = _word_text(element)
        if element.tag == _TABLE:
            builder.block(text)
            continue
        found = Paragraph(element, file).style
        style = found.name or "" if found else ""
        if style == "Title":
            builder.heading(1, text)
        elif match := _HEADING_STYLE.match(style):
            builder.heading(int(match[1]), text)
        elif text.strip():
            builder.block(("- " if style.startswith("List") else "") + text)
    title, metadata = _properties(file.core_properties)
    title = title or builder.document("", media_type).title or name
    return builder.document(title, media_type, metadata=metadata)


def _inner(element: Any, *tags: str) -> Iterator[Any]:
    """The elements of these tags in another, also those in a content control or tracked change."""
    for child in element:
        if child.tag in tags:
            yield child
        elif child.tag in _AROUND:
            yield from _inner(child, *tags)


def _word_text(element: Any) -> str:
    """All text below an element of WordprocessingML; a table's by rows, a merged cell's once."""
    if element.tag == _TABLE:
        rows = _inner(element, _ROW)
        return _rows([_word_text(cell) for cell in _inner(row, _CELL)] for row in rows)
    texts = []
    for child in element:
        if child.tag == f"{_W}t":
            texts.append(child.text or "")
        elif child.tag in _MARKS:
            texts.append(_MARKS[child.tag])
        elif child.tag not in _UNREAD:
            texts.append(_word_text(child))
        if child.tag in (_PARAGRAPH, _TABLE):  # of a cell or a text box
            texts.append("\n")
    return "".join(texts)


def read_slides(data: bytes, name: str, media_type: str) -> Document:
    """A PPTX file; a line of it is found by its slide."""
    import pptx  # an extra

    file = pptx.Presentation(io.BytesIO(data))
    builder = Builder()
    for number, slide in enumerate(file.slides, 1):
        title = slide.shapes.title
        builder.heading(
            1, title.text_frame.text if title is not None else f"Slide {number}", number
        )
        for shape in slide.shapes:
            if title is None or shape.shape_id != title.shape_id:
                _add_shape(builder, shape, number)
        if slide.has_notes_slide and (notes := slide.notes_slide.notes_text_frame) is not None:
            builder.block(notes.text, number)
    title, metadata = _properties(file.core_properties)
    return builder.document(title or name, media_type, metadata=metadata)


def _add_shape(builder: Builder, shape: Any, number: int) -> None:
    if shape.has_text_frame:
        builder.block(shape.text_frame.text.replace("\v", "\n"), number)
    elif getattr(shape, "has_table", False):
        builder.block(_rows([cell.text for cell in row.cells] for row in shape.table.rows), number)
    for inner in getattr(shape, "shapes", ()):  # of a group
        _add_shape(builder, inner, number)


def _rows(rows: Iterable[Sequence[str]]) -> str:
    """The texts of a table's cells, a row a line."""
    lines = [[" ".join(text.split()) for text in texts] for texts in rows]
    return "\n".join(" | ".join(cells) for cells in lines if any(cells))


def _properties(core: Any) -> tuple[str, dict[str, str]]:
    """Title and metadata as the file tells them."""
    metadata = {
        key: one_line(value)
        for key in ("author", "subject", "keywords", "category")
        if (value := getattr(core, key))
    }
    title = one_line(core.title or "")
    return ("" if title == "PowerPoint Presentation" else title), metadata
