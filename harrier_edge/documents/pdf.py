"""PDF to a document: the text of its pages; a line of it is found by its page."""

from __future__ import annotations

import re

from harrier_edge.documents.document import Builder, Document, Heading, one_line
from harrier_edge.documents.text import with_plain_lines
from harrier_edge.errors import DocumentError

_HYPHENATED = re.compile(r"(?<=[^\W\d_])(?:\xad|\ufffe|-)\n(?=[a-zà-ÿ])")


def read(data: bytes, name: str, media_type: str) -> Document:
    """A PDF; its outline (bookmarks) gives the headings, a page the place."""
    import pypdfium2  # an extra

    pdf = pypdfium2.PdfDocument(data)
    builder = Builder()
    bookmarks: dict[int, list[tuple[int, str]]] = {}
    for item in pdf.get_toc(max_depth=6):
        target = item.get_dest()
        if target is not None and (page := target.get_index()) is not None:
            bookmarks.setdefault(page, []).append((item.level + 1, item.get_title()))
    empty = True
    for number, page in enumerate(pdf):
        text = with_plain_lines(page.get_textpage().get_text_bounded())
        empty = empty and not text.strip()
        headings = tuple(
            Heading(0, level, one_line(title)) for level, title in bookmarks.get(number, [])
        )
        text = _HYPHENATED.sub("", text).replace("\0", "")
        builder.extend(Document(text, "", media_type, headings), number + 1)
    if empty and len(pdf):
        raise DocumentError("its pages are pictures without text; run OCR over it first")
    info = pdf.get_metadata_dict(skip_empty=True)
    metadata = {key.lower(): info[key] for key in ("Author", "Subject", "Keywords") if key in info}
    metadata["pages"] = len(pdf)
    return builder.document(one_line(info.get("Title", "")) or name, media_type, metadata=metadata)
