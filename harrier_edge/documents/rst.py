"""reStructuredText to a document: its section titles. The text stays as it is."""

from __future__ import annotations

import re

from harrier_edge.documents.document import Document, Heading, one_line
from harrier_edge.documents.text import decode

# A title is underlined, and may be overlined, by one repeated mark; the order in which the kinds
# of line first appear is the order of levels.
# https://docutils.sourceforge.io/docs/ref/rst/restructuredtext.html#sections
_TITLE = re.compile(
    r"""
    (?:^(?P<over>(?P<mark>[!-/:-@\[-`{-~])(?P=mark)+)[ ]*\n[ ]*(?P<inset>\S.*)\n(?P=over)[ ]*$)
    | (?:^(?P<title>\S.*)\n(?P<under>(?P<line>[!-/:-@\[-`{-~])(?P=line)+)[ ]*$)
    """,
    re.MULTILINE | re.VERBOSE,
)
_FIELD = re.compile(r"^:?([A-Z][\w-]*):[ \t]+(\S.*)$", re.MULTILINE)


def read(data: bytes, name: str, media_type: str) -> Document:
    """reStructuredText; the fields at its very beginning are its metadata."""
    text = decode(data)
    headings: list[Heading] = []
    levels: dict[tuple[str, bool], int] = {}
    for match in _TITLE.finditer(text):
        title = (match["inset"] or match["title"]).strip()
        if len(match["over"] or match["under"]) < len(title):
            continue
        style = (match["mark"] or match["line"], match["over"] is not None)
        level = levels.setdefault(style, len(levels) + 1)
        headings.append(Heading(match.start(), level, one_line(title)))
    head = text.partition("\n\n")[0]
    metadata = {match[1].lower(): match[2].strip() for match in _FIELD.finditer(head)}
    title = metadata.get("title") or next((h.title for h in headings), name)
    return Document(text, one_line(title), media_type, tuple(headings), metadata=metadata)
