"""E-mail: which parts of a message are read, and in which charset."""

from __future__ import annotations

from pathlib import Path

import pytest

from harrier_edge.documents.document import Document
from harrier_edge.documents.read import read_document

WORDS = "Der Zwölfkämpfer läuft über die Brücke und trägt fünf schöne Äpfel nach Köln."


def read(message: str | bytes) -> Document:
    """The document that a message is."""
    return read_document(Path("x.eml"), message.encode() if isinstance(message, str) else message)


def part(media_type: str, text: str, *headers: str) -> str:
    """One of a message's parts."""
    lines = (f"Content-Type: {media_type}", *headers, "", text)
    return "\n".join(lines)


def several(kind: str, *parts: str) -> str:
    """Parts as one: they may be such themselves."""
    mark = f"mark{sum(map(len, parts))}"
    body = "".join(f"--{mark}\n{one}\n" for one in parts)
    return part(f'multipart/{kind}; boundary="{mark}"', f"{body}--{mark}--\n")


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [
        ("", "utf-8"),
        ("", "iso-8859-1"),
        ("; charset=us-ascii", "utf-8"),
        ("; charset=utf-8", "iso-8859-1"),
        ("; charset=utf-8", "utf-8"),
        ("; charset=iso-8859-1", "iso-8859-1"),
        ("; charset=iso-8859-15", "iso-8859-15"),
        ("; charset=nonsense", "utf-8"),
        ('; charset="a\0b"', "utf-8"),
    ],
)
@pytest.mark.parametrize("kind", ["plain", "html"])
def test_no_charset_loses_letters(declared: str, encoding: str, kind: str) -> None:
    """Where it is not declared, or another than is declared, it is found as in other files."""
    data = part(f"text/{kind}{declared}", WORDS, "Content-Transfer-Encoding: 8bit")
    assert read(data.encode(encoding)).text == f"{WORDS}\n\n"


def test_headers_in_bare_utf8_are_read() -> None:
    """Without the encoding that they should have."""
    document = read(f"Subject: {WORDS}\nFrom: Zoë <zoe@example.org>\n\nHello.\n")
    assert document.title == WORDS
    assert document.metadata["from"] == "Zoë <zoe@example.org>"


def test_all_texts_of_a_message_are_read() -> None:
    """Those before, between and after attachments; of alternatives the plain one."""
    both = several("alternative", part("text/plain", "First."), part("text/html", "<p>Wrong."))
    picture = part("image/png", "", 'Content-Disposition: inline; filename="logo.png"')
    page = several("related", part("text/html", "<p>Second."), picture)
    page = several("alternative", part("text/plain", " "), page)
    map_ = part("application/pdf", "", 'Content-Disposition: attachment; filename="map.pdf"')
    log = part("text/plain", "Not shown.", 'Content-Disposition: attachment; filename="x.log"')
    message = several("mixed", both, map_, page, log, part("text/x-patch", "Last."))
    assert read(message).text == "First.\n\nSecond.\n\nLast.\n\nAttachments: map.pdf, x.log\n\n"


def test_forwarded_messages_are_sections() -> None:
    """Below the one that they came with, with their own headers and attachments."""
    map_ = part("application/pdf", "", 'Content-Disposition: attachment; filename="map.pdf"')
    old = "Subject: Old\nFrom: ada@example.org\n" + several("mixed", part("text/plain", "1"), map_)
    forwarded = part("message/rfc822", old, "Content-Disposition: attachment")
    document = read("Subject: New\n" + several("mixed", part("text/plain", "2"), forwarded))
    assert document.text == (
        "New\n\n2\n\nOld\n\nFrom: ada@example.org\n\n1\n\nAttachments: map.pdf\n\n"
    )
    assert [(one.level, one.title) for one in document.headings] == [(1, "New"), (2, "Old")]


def test_something_of_a_strange_message_is_read() -> None:
    """Its text where the boundary is missing or wrong, or it is called an attachment."""
    assert "Hello" in read(part("multipart/mixed", "Hello.")).text
    assert "Hello" in read(part("multipart/mixed; boundary=x", "--y\n\nHello.")).text
    assert "Hello" in read(part("text/plain", "Hello.", "Content-Disposition: attachment")).text
    assert read(part("application/pdf", "Hello.")).text == ""


def test_broken_headers_are_read_as_far_as_they_go() -> None:
    """Whatever Python's own parser makes of them."""
    document = read(
        "Date: Mon, 6 May 99999999999999999999 07:08:09 +0200\nFrom: (((\nSubject: Still\n"
        "Content-Type: text/plain; charset*=; name*0=\nContent-Disposition: ;;=\n\nHello.\n"
    )
    assert document.title == "Still"
    assert "Hello." in document.text
