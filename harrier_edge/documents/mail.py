"""E-mail to a document: a message, or all messages of a mailbox."""

from __future__ import annotations

import re
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from email.utils import parsedate_to_datetime

from harrier_edge.documents.document import Builder, Document, one_line
from harrier_edge.documents.html import from_text
from harrier_edge.documents.text import decode
from harrier_edge.errors import DocumentError

_HEADERS = ("From", "To", "Cc", "Date")
# A line that begins a message; in a body such a line is written with ">" (mboxrd, RFC 4155).
_FROM_LINE = re.compile(rb"^From [^\n]*\n", re.MULTILINE)
_QUOTED_FROM = re.compile(rb"^>(>*From )", re.MULTILINE)


def read(data: bytes, name: str, media_type: str) -> Document:
    """One message (.eml); who wrote to whom and when is its metadata."""
    message = _parse(data)
    builder = Builder()
    subject = _add(builder, message)
    metadata = {key.lower(): value for key in _HEADERS if (value := _header(message, key))}
    if date := _date(metadata.get("date", "")):
        metadata["date"] = date
    return builder.document(subject or name, media_type, metadata=metadata)


def read_mailbox(data: bytes, name: str, media_type: str) -> Document:
    """An mbox file; each message is a section, found at its line in the file."""
    starts = [(match.start(), match.end()) for match in _FROM_LINE.finditer(data)]
    if not data.strip():
        return Document("", name, media_type)
    if not starts or data[: starts[0][0]].strip():
        raise DocumentError('is not a mailbox: it does not begin with a line "From …"')
    builder = Builder()
    line = 1
    ends = [start for start, _ in starts[1:]] + [len(data)]
    for (start, body), end in zip(starts, ends, strict=True):
        _add(builder, _parse(_QUOTED_FROM.sub(rb"\1", data[body:end])), line)
        line += data.count(b"\n", start, end)
    return builder.document(name, media_type)


def _parse(data: bytes) -> EmailMessage:
    message = message_from_bytes(data, policy=default)
    assert isinstance(message, EmailMessage)
    return message


def _add(builder: Builder, message: EmailMessage, line: int = 0) -> str:
    """Add a message as a section of its own; its subject."""
    subject = _header(message, "Subject")
    if subject or line:  # in a mailbox, what begins a message
        builder.heading(1, subject or "(no subject)", line)
    headers = [f"{key}: {value}" for key in _HEADERS if (value := _header(message, key))]
    builder.block("\n".join(headers), line)
    body = message.get_body(("plain", "html"))
    if isinstance(body, EmailMessage):
        text = _content(body)
        if body.get_content_type() == "text/html":
            builder.extend(from_text(text, ""), line, under=1)
        else:
            for paragraph in re.split(r"\n[ \t]*\n", text):
                builder.block(paragraph, line)
    names = [one_line(name) for part in message.iter_attachments() if (name := part.get_filename())]
    builder.block("Attachments: " + ", ".join(names) if names else "", line)
    return subject


def _content(part: EmailMessage) -> str:
    try:
        content: str = part.get_content()
    except (LookupError, UnicodeError):  # a charset that does not exist, or is not the one named
        payload = part.get_payload(decode=True)
        content = decode(payload) if isinstance(payload, bytes) else ""
    return content.replace("\r\n", "\n")


def _header(message: EmailMessage, name: str) -> str:
    try:
        return one_line(str(message.get(name, "")))
    except (ValueError, IndexError, AttributeError, TypeError):  # the parser's, on broken headers
        return ""


def _date(header: str) -> str:
    try:
        return parsedate_to_datetime(header).isoformat()
    except (ValueError, TypeError):
        return ""
