"""HTML to a document: its readable text, headings and blocks, with their lines in the file."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from harrier_edge.documents.document import Builder, Document, one_line
from harrier_edge.documents.text import decode

_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_UNREAD = {"script", "style", "template", "svg", "noscript", "nav", "iframe", "object", "select"}
_BLOCKS = {
    *_HEADINGS,
    *("address", "article", "aside", "blockquote", "body", "dd", "details", "div", "dl", "dt"),
    *("fieldset", "figcaption", "figure", "footer", "form", "header", "hr", "html", "li", "main"),
    *("ol", "p", "pre", "section", "summary", "table", "tr", "ul"),
}


class _Reader(HTMLParser):
    """Collects blocks while it reads; takes any tag soup."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.builder = Builder()
        self.title = ""
        self.metadata: dict[str, str] = {}
        self._words: list[str] = []
        self._line = 1  # where the block began, or may yet begin
        self._begun = False  # whether anything of it is more than white space
        self._unread = ""  # the element that is passed over, and how often it is open
        self._depth = 0
        self._pre = False
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._unread:
            self._depth += tag == self._unread
        elif tag in _UNREAD:
            self._unread, self._depth = tag, 1
        elif tag == "title" and not self.title:
            self._in_title = True
        elif tag == "meta":
            self._meta(dict(attrs))
        elif tag == "br":
            self._words.append("\n")
        elif tag in _BLOCKS:
            self._flush()
            self._pre = tag == "pre"
            if tag == "li":
                self._words.append("- ")
        elif tag in ("td", "th") and self._words:
            self._words.append(" | ")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _UNREAD:
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if self._unread:
            self._depth -= tag == self._unread
            self._unread = self._unread if self._depth else ""
        elif tag == "title" and self._in_title:
            self._in_title = False
            self.title = one_line("".join(self._words))
            self._words, self._begun = [], False
        elif tag in _BLOCKS:
            self._flush(tag)
            self._pre = False

    def handle_data(self, data: str) -> None:
        if self._unread:
            return
        if not self._begun:
            text = data.lstrip("\n" if self._pre else None)  # the builder keeps blanks of a <pre>
            self._line = self.getpos()[0] + data.count("\n", 0, len(data) - len(text))
            self._begun = bool(text)
        self._words.append(data if self._pre else re.sub(r"\s+", " ", data))

    def parse_marked_section(self, i: int, report: bool = True) -> int:
        try:
            return super().parse_marked_section(i, report)
        except AssertionError:  # "<![" is not the beginning of one; browsers see a comment then
            return self.parse_bogus_comment(i)

    def close(self) -> None:
        super().close()
        self._flush()

    def _meta(self, attrs: dict[str, str | None]) -> None:
        name = (attrs.get("name") or "").lower()
        if name in ("author", "date", "description", "keywords", "language") and attrs["name"]:
            self.metadata[name] = one_line(attrs.get("content") or "")

    def _flush(self, tag: str = "") -> None:
        """End the block, which `tag` closes where it is known."""
        text = "".join(self._words)
        self._words, self._begun = [], False
        if tag in _HEADINGS:
            self.builder.heading(_HEADINGS[tag], text, self._line)
        elif self._pre:
            self.builder.block(text, self._line, step=1)
        elif text.strip(" -|\n"):
            lines = (re.sub(r" +", " ", line).strip() for line in text.split("\n"))
            self.builder.block("\n".join(lines), self._line)


def read(data: bytes, name: str, media_type: str) -> Document:
    """An HTML file."""
    return from_text(decode(data), name, media_type)


def from_text(text: str, name: str, media_type: str = "text/html") -> Document:
    """HTML that is text already. Scripts, styles and navigation are left out."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    document = reader.builder.document("", media_type, metadata=reader.metadata)
    title = reader.title or document.title or name
    return Document(**{**vars(document), "title": title})
