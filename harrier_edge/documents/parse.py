"""The process that `child` starts: bytes on stdin, the document as JSON on stdout."""

from __future__ import annotations

import sys
from collections.abc import Callable

import msgspec

from harrier_edge.documents import epub, office, pdf
from harrier_edge.documents.child import DAMAGED, FORMATS, MISSING, TOO_LARGE
from harrier_edge.documents.document import Document
from harrier_edge.errors import DocumentError

_READERS: dict[str, Callable[[bytes, str, str], Document]] = {
    FORMATS[".pdf"]: pdf.read,
    FORMATS[".docx"]: office.read_word,
    FORMATS[".pptx"]: office.read_slides,
    FORMATS[".epub"]: epub.read,
}


def main() -> None:
    """Read the document that the command line tells of, and end with the exit code."""
    media_type, name, memory = sys.argv[1:]
    _limit(int(memory))
    sys.exit(_read(media_type, name))


def _read(media_type: str, name: str) -> int:
    try:
        document = _READERS[media_type](sys.stdin.buffer.read(), name, media_type)
        sys.stdout.buffer.write(msgspec.json.encode(document))
        return 0
    except MemoryError:
        return TOO_LARGE
    except ModuleNotFoundError as error:
        return _fail(MISSING, error)
    except DocumentError as error:
        return _fail(DAMAGED, error)
    except Exception as error:  # whatever a library makes of damaged bytes
        return _fail(DAMAGED, f"{type(error).__name__}: {error}")


def _limit(memory: int) -> None:
    try:
        import resource  # not on Windows
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


def _fail(code: int, words: object) -> int:
    print(" ".join(str(words).split()), file=sys.stderr)
    return code
