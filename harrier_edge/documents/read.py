"""A file to a document, by the reader of its format."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from harrier_edge.documents import child, code, html, mail, markdown, notebook, records, rst, text
from harrier_edge.documents.document import Document, one_line
from harrier_edge.errors import DocumentError

# (bytes, the file's name without its suffix, media type) -> document
Reader = Callable[[bytes, str, str], Document]

_CODE = (
    "astro bash c cc clj cljs cmake cpp cs css cu cxx dart el elm erl ex exs f90 fish fs gd go "
    "gradle graphql groovy h hcl hpp hrl hs java jl js json jsx kt kts less lisp lua m mjs ml mli "
    "mm nim nix php pl pm proto ps1 py pyi pyx r rb rs sass scala scm scss sh sol sql svelte swift "
    "tcl tf toml ts tsx v vb vhd vim vue xml yaml yml zig zsh"
)
# Suffix -> media type and reader. What a folder has under other names is read as plain text, if
# it is text.
FORMATS: dict[str, tuple[str, Reader]] = {
    **{f".{name}": (f"text/x-{name}", code.read) for name in _CODE.split()},
    **dict.fromkeys((".md", ".markdown", ".mdx", ".qmd"), ("text/markdown", markdown.read)),
    **dict.fromkeys((".txt", ".text", ".log"), ("text/plain", text.read)),
    **dict.fromkeys((".html", ".htm", ".xhtml"), ("text/html", html.read)),
    ".rst": ("text/x-rst", rst.read),
    ".csv": ("text/csv", records.read_table),
    ".tsv": ("text/tab-separated-values", records.read_table),
    **dict.fromkeys((".jsonl", ".ndjson"), ("application/jsonl", records.read_json_lines)),
    ".ipynb": ("application/x-ipynb+json", notebook.read),
    ".eml": ("message/rfc822", mail.read),
    ".mbox": ("application/mbox", mail.read_mailbox),
    **{suffix: (media_type, child.read) for suffix, media_type in child.FORMATS.items()},
}
_PLAIN: tuple[str, Reader] = ("text/plain", text.read)


def read_document(path: Path, data: bytes) -> Document:
    """What the file `path`, whose bytes are `data`, says.

    Raises DocumentError where its bytes are not what its name says, are damaged, or would take
    too much time or memory; the message does not name the file.
    """
    media_type, reader = FORMATS.get(path.suffix.lower(), _PLAIN)
    try:
        return reader(data, path.stem, media_type)
    except DocumentError:
        raise
    except Exception as error:  # whatever a parser makes of bytes that nobody has thought of
        raise DocumentError(
            f"cannot be read as {media_type} ({one_line(f'{type(error).__name__}: {error}')}); "
            "repair it or leave it out"
        ) from error


def read_bytes(path: Path) -> bytes:
    """A regular file's bytes, without waiting. Raises DocumentError where it cannot be read."""
    try:
        str(path).encode()
        # Not blocking: a FIFO that has just taken the place of a file must not stop everything.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(path, flags), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise DocumentError("is not a regular file")
            return file.read()
    except UnicodeEncodeError as error:
        raise DocumentError("its name is not UTF-8, rename it") from error
    except OSError as error:
        raise DocumentError(f"cannot be read: {error.strerror}") from error
