"""DOCX and PPTX to a document: headings, paragraphs, tables and slides."""

from __future__ import annotations

import io
import re
from typing import Any

from harrier_edge.documents.document import Builder, Document, one_line

_HEADING_STYLE = re.compile(r"(?:heading|titre|überschrift) (\d)", re.IGNORECASE)


def read_word(data: bytes, name: str, media_type: str) -> Document:
    """A DOCX file."""
    import docx  # an extra
    from docx.table import Table

    file = docx.Document(io.BytesIO(data))
    builder = Builder()
    for item in file.iter_inner_content():
        if isinstance(item, Table):
            builder.block(_table(item))
            continue
        style = item.style.name or "" if item.style else ""
        if style == "Title":
            builder.heading(1, item.text)
        elif match := _HEADING_STYLE.match(style):
            builder.heading(int(match[1]), item.text)
        else:
            builder.block(("- " if style.startswith("List") else "") + item.text)
    title, metadata = _properties(file.core_properties)
    title = title or builder.document("", media_type).title or name
    return builder.document(title, media_type, metadata=metadata)


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
        builder.block(_table(shape.table), number)
    for inner in getattr(shape, "shapes", ()):  # of a group
        _add_shape(builder, inner, number)


def _table(table: Any) -> str:
    rows = [[one_line(cell.text) for cell in row.cells] for row in table.rows]
    return "\n".join(" | ".join(cells) for cells in rows if any(cells))


def _properties(core: Any) -> tuple[str, dict[str, str]]:
    """Title and metadata as the file tells them."""
    metadata = {
        key: one_line(value)
        for key in ("author", "subject", "keywords", "category")
        if (value := getattr(core, key))
    }
    title = one_line(core.title or "")
    return ("" if title == "PowerPoint Presentation" else title), metadata
