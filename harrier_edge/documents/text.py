"""Bytes to text, and plain text to a document."""

from __future__ import annotations

from harrier_edge.documents.document import Document
from harrier_edge.errors import DocumentError

_BOMS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
SNIFFED = 8192  # bytes that tell whether a file is text
# So many characters beyond ASCII for each damaged place make a text UTF-8: in other encodings
# hardly any bytes happen to be such characters.
_SOUND = 4


def is_binary(data: bytes) -> bool:
    """Whether the first bytes of a file, 8,192 of them at most, are not those of a text."""
    data = data[:SNIFFED]
    return b"\0" in data and not data.startswith(tuple(_BOMS))


def decode(data: bytes) -> str:
    r"""The text of a file; lines end in "\n".

    The encoding is what a byte order mark says, else UTF-8, else what charset-normalizer finds. In
    UTF-8 that is damaged in few places, these become U+FFFD. Raises DocumentError where no encoding
    is found.
    """
    if is_binary(data):
        raise DocumentError("holds NUL bytes, so it is not text")
    encoding = next((name for bom, name in _BOMS.items() if data.startswith(bom)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            raise DocumentError(
                f"says that it is {encoding}, which byte {error.start} is not; repair it"
            ) from error
        text = _mended(data) or _guess(data, error.start)
    if "\0" in text:
        raise DocumentError("holds NUL bytes, so it is not text")
    return with_plain_lines(text)


def with_plain_lines(text: str) -> str:
    r"""`text` with "\n" at all line ends."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _mended(data: bytes) -> str:
    """Text in UTF-8 with U+FFFD for the few bytes that are not; "" where that is most of them."""
    text = data.decode("utf-8", "replace")
    damaged = text.count("\ufffd") - data.count("\ufffd".encode())
    ascii_only = len(data.translate(None, bytes(range(128, 256))))
    return text if len(text) - ascii_only - damaged >= _SOUND * damaged else ""


def _guess(data: bytes, first: int) -> str:
    """Text in an encoding that nothing names. `first` is the byte that is not UTF-8."""
    from charset_normalizer import from_bytes  # most files are UTF-8 and never need it

    best = from_bytes(data).best()
    if best is None:
        raise DocumentError(
            f"is neither UTF-8 (byte {first}) nor text in another encoding that can be told; "
            "convert it to UTF-8 or leave it out"
        )
    return str(best)


def read(data: bytes, name: str, media_type: str) -> Document:
    """Plain text. Its paragraphs are found by whoever cuts it."""
    return Document(decode(data), name, media_type)
