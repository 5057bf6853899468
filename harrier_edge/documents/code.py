"""Source code to a document: its definitions are headings. The text stays as it is."""

from __future__ import annotations

import re

from harrier_edge.documents.document import Document, Heading
from harrier_edge.documents.text import decode

# What begins a definition in the languages of SUFFIXES. That is told from a line alone: exact
# enough to cut at, for every language, where a parser a language would weigh 100 MB.
_MODIFIERS = (
    r"(?:(?:export|default|public|private|protected|internal|static|final|abstract|async|pub"
    r"(?:\([^)]*\))?|unsafe|extern(?:\s+\"\w+\")?|const|inline|virtual|override|sealed|open|data"
    r"|case|partial|local|declare|template\s*<[^>]*>)\s+)*"
)
_DEFINITIONS = (
    re.compile(
        rf"[ \t]*{_MODIFIERS}(?:def|class|fn|func|fun|function\*?|struct|enum|trait|interface"
        r"|module|namespace|protocol|extension|object|record|union|macro_rules!|sub|defmodule|defp?)"
        r"\s+(?:\([^)]*\)\s*)?([\w.:$?!]+)"
    ),
    re.compile(r"[ \t]*(?:pub\s+)?(?:unsafe\s+)?(impl\b[^{]*?)\s*(?:\{|where|$)"),
    re.compile(rf"[ \t]*{_MODIFIERS}type\s+(\w+)"),
    re.compile(rf"{_MODIFIERS}(?:let|var|const)\s+(\w+)[^=]*=\s*(?:async\b)?.*(?:=>|function)"),
    re.compile(
        r"(?i)create\s+(?:or\s+replace\s+)?(?:temp(?:orary)?\s+|unique\s+|virtual\s+)*"
        r"(?:table|view|function|procedure|trigger|index|type)\s+(?:if\s+not\s+exists\s+)?([\w.\"]+)"
    ),
    # C and its kin: a type, a name and an open parenthesis at the very left, and no statement.
    re.compile(r"(?!return\b|else\b|case\b|if\b)[A-Za-z_][\w:<>,*&\s]*?[\s*&]([\w:~]+)\s*\([^;]*$"),
    re.compile(r"([A-Za-z_][\w-]*)\s*\(\)\s*\{?\s*$"),  # shell
)
_ABOVE = re.compile(r"[ \t]*(?:@|#\[|//|/\*|\*|#|--|;;|\"\"\")")  # belongs to what follows
_INSIDE = re.compile(  # never the first line of something new
    r"[ \t]*(?:[)\]}>{]|end\b|else\b|elif\b|except\b|finally\b|catch\b|then\b|fi\b|done\b|EOF\b)"
)


def read(data: bytes, name: str, media_type: str) -> Document:
    """Source code in any language."""
    text = decode(data)
    headings = _headings(text)
    outer = tuple(h.start for h in headings if h.level == 1)
    inner = tuple(h.start for h in headings if h.level > 1)
    return Document(text, name, media_type, headings, (outer, inner))


def _headings(text: str) -> tuple[Heading, ...]:
    """Definitions, nested by their indentation; one without words where all of them end."""
    headings: list[Heading] = []
    open_at: list[int] = []  # indentations of the definitions that the line is in
    above = -1  # where the comments and decorators above the line begin
    position = 0
    for line in text.split("\n"):
        start, position = position, position + len(line) + 1
        if not line.strip():
            above = -1
            continue
        indent = len(line) - len(line.lstrip())
        if _ABOVE.match(line):
            above = start if above < 0 else above
            continue
        begins = start if above < 0 else above
        above = -1
        if _INSIDE.match(line):
            continue
        while open_at and open_at[-1] >= indent:
            open_at.pop()
        if name := _definition(line):
            open_at.append(indent)
            headings.append(Heading(begins, len(open_at), name))
        elif indent == 0 and headings and headings[-1].title:
            headings.append(Heading(begins, 1, ""))
    return tuple(headings)


def _definition(line: str) -> str:
    if len(line) > 300:  # machine-made
        return ""
    return next((match[1].rstrip(":") for one in _DEFINITIONS if (match := one.match(line))), "")
