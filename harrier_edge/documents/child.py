"""Formats that can bite (PDF, zip archives): read in a process with limits on time and memory."""

from __future__ import annotations

import subprocess

import msgspec

from harrier_edge.documents.document import Document
from harrier_edge.errors import DocumentError
from harrier_edge.isolation import python_command

FORMATS = {
    ".pdf": "application/pdf",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    ".epub": "application/epub+zip",
}
TIMEOUT_SECONDS = 120.0
MEMORY_BYTES = 2**31  # of address space; not limited on Windows, nor enforced by macOS
_PROGRAM = "from harrier_edge.documents.parse import main; main()"
# What the process says by its exit code; anything else is a crash.
DAMAGED, MISSING, TOO_LARGE = 3, 4, 5


def read(data: bytes, name: str, media_type: str) -> Document:
    """A document of one of FORMATS.

    Raises DocumentError where it is damaged, its reader is not installed, or it takes more than
    TIMEOUT_SECONDS or MEMORY_BYTES.
    """
    command = python_command(_PROGRAM, media_type, name, str(MEMORY_BYTES))
    try:
        run = subprocess.run(
            command, input=data, capture_output=True, timeout=TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise DocumentError(
            f"takes more than {TIMEOUT_SECONDS:.0f} seconds to read, leave it out"
        ) from error
    if run.returncode == 0:
        return msgspec.json.decode(run.stdout, type=Document)
    words = run.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2][:300]
    if run.returncode == TOO_LARGE:
        raise DocumentError(
            f"takes more than {MEMORY_BYTES / 2**20:.0f} MB of memory to read, leave it out"
        )
    if run.returncode == MISSING:
        raise DocumentError(f"needs a reader ({words}): pip install 'harrier-edge[documents]'")
    if run.returncode == DAMAGED:
        raise DocumentError(f"is damaged or protected ({words})")
    raise DocumentError(f"made its reader end with status {run.returncode} ({words}), leave it out")
