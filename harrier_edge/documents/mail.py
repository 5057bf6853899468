"""E-mail to a document: a message, or all messages of a mailbox."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from email.utils import parsedate_to_datetime

from harrier_edge.documents.document import Builder, Document, one_line
from harrier_edge.documents.html import from_text
from harrier_edge.documents.text import decode, with_plain_lines
from harrier_edge.errors import DocumentError

_HEADERS = ("From", "To", "Cc", "Date")
# A line that begins a message; in a body such a line is written with ">" (mboxrd, RFC 4155).
_FROM_LINE = re.compile(rb"^From [^\n]*\n", re.MULTILINE)
_QUOTED_FROM = re.compile(rb"^>(>*From )", re.MULTILINE)


def _decoded(name: str, value: str) -> str:
    """A header as Python's parser has it, or as it is where it is so broken that this raises."""
    value = value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")  # if bare UTF-8
    try:
        header: str = default.header_factory(name, value)
    except Exception:  # an IndexError, an AttributeError, …
        return value
    return header


_POLICY = default.clone(header_factory=_decoded)


@dataclass(frozen=True)
class _Part:
    """What a reader of a message is shown: a text of a media type, or a message in it."""

    media_type: str
    text: str = ""
    message: EmailMessage | None = None


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
    message = message_from_bytes(data, policy=_POLICY)
    assert isinstance(message, EmailMessage)
    return message


def _add(builder: Builder, message: EmailMessage, line: int = 0, level: int = 1) -> str:
    """Add a message as a section of its own; its subject."""
    subject = _header(message, "Subject")
    if subject or line or level > 1:  # where there may be others, what begins a message
        builder.heading(level, subject or "(no subject)", line)
    headers = [f"{key}: {value}" for key in _HEADERS if (value := _header(message, key))]
    builder.block("\n".join(headers), line)
    for part in list(_parts(message)) or list(_parts(message, attached=True)):
        if part.message is not None:
            _add(builder, part.message, line, level + 1)
        elif part.media_type == "text/html":
            builder.extend(from_text(part.text, ""), line, under=level)
        else:
            for paragraph in re.split(r"\n[ \t]*\n", part.text):
                builder.block(paragraph, line)
    names = list(_attachments(message))
    builder.block("Attachments: " + ", ".join(names) if names else "", line)
    return subject


def _parts(part: EmailMessage, *, attached: bool = False) -> Iterator[_Part]:
    """What is shown of a message, in order; with `attached`, texts that are attachments too."""
    media_type = part.get_content_type()
    inner = _inner(part)
    if media_type == "message/rfc822":
        yield from (_Part(media_type, message=message) for message in inner)
    elif media_type == "multipart/alternative" and inner:
        yield from _chosen([list(_parts(one, attached=attached)) for one in inner])
    elif inner:
        for one in inner:
            yield from _parts(one, attached=attached)
    elif media_type.startswith(("text/", "multipart/")):  # the latter with a broken boundary
        shown = attached or part.get_content_disposition() != "attachment"
        if shown and (text := _content(part)).strip():
            yield _Part(media_type, text)


def _chosen(alternatives: list[list[_Part]]) -> list[_Part]:
    """The one in plain text, else the one in HTML, else the first that says something."""
    for media_type in ("text/plain", "text/html", ""):
        for parts in alternatives:
            if any(part.media_type.startswith(media_type) for part in parts):
                return parts
    return []


def _attachments(part: EmailMessage) -> Iterator[str]:
    """The names of files that come with a message; pictures that its HTML shows have none."""
    media_type = part.get_content_type()
    for one in _inner(part) if media_type != "message/rfc822" else ():  # that tells its own
        shown = media_type == "multipart/related" and one.get_content_disposition() != "attachment"
        if not shown and (name := one.get_filename()):
            yield one_line(name)
        yield from _attachments(one)


def _inner(part: EmailMessage) -> list[EmailMessage]:
    payload = part.get_payload() if part.is_multipart() else ()
    return [one for one in payload if isinstance(one, EmailMessage)]


def _content(part: EmailMessage) -> str:
    """A part's text, in the charset that it names, if it is in that."""
    payload = part.get_payload(decode=True)
    if not isinstance(payload, bytes):
        return ""
    with suppress(LookupError, ValueError):  # no such charset, or another than it says
        if charset := part.get_content_charset():
            return with_plain_lines(payload.decode(charset))
    try:
        return decode(payload)
    except DocumentError:
        return with_plain_lines(payload.decode("utf-8", "replace"))


def _header(message: EmailMessage, name: str) -> str:
    return one_line(str(message.get(name, "")))


def _date(header: str) -> str:
    try:
        return parsedate_to_datetime(header).isoformat()
    except (ValueError, TypeError, OverflowError):
        return ""
