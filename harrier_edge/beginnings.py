"""Keys and values of what queries begin with, kept in memory and for new processes."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harrier_edge.places import write_whole

Past = npt.NDArray[np.float32]

KEPT = 16  # beginnings, in either place; 0.7 MB each for the 270M's own instruction
_ENDING = ".past"
_DIGEST_BYTES = 32


class Beginnings:
    """What was computed of some beginnings, given as token ids. Safe to share between threads."""

    def __init__(self, folder: Path | None) -> None:
        """`folder` is that of a package's packed weights, on this processor; None: memory alone."""
        self._folder = folder
        self._pasts: OrderedDict[tuple[int, ...], Past] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, beginning: tuple[int, ...], shape: tuple[int, ...]) -> Past | None:
        """The past of that shape; None where it is not kept, or its file is not as it was written.

        A file holds the SHA-256 of its floats, and these.
        """
        with self._lock:
            if beginning in self._pasts:
                self._pasts.move_to_end(beginning)
                return self._pasts[beginning]
        if self._folder is None:
            return None
        try:
            data = self._file(self._folder, beginning).read_bytes()
        except OSError:
            return None
        digest, floats = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        if digest != hashlib.sha256(floats).digest() or len(floats) != 4 * int(np.prod(shape)):
            return None
        past = np.frombuffer(floats, np.float32).reshape(shape)
        self._remember(beginning, past)
        return past

    def keep(self, beginning: tuple[int, ...], past: Past) -> None:
        """Keep a past; in memory alone where the cache cannot be written."""
        self._remember(beginning, past)
        if self._folder is None:
            return
        floats = past.tobytes()
        with contextlib.suppress(OSError):
            data = hashlib.sha256(floats).digest() + floats
            write_whole(self._file(self._folder, beginning), data)
            files = sorted(self._folder.glob(f"*{_ENDING}"), key=lambda file: file.stat().st_mtime)
            for oldest in files[:-KEPT]:
                oldest.unlink(missing_ok=True)

    def _remember(self, beginning: tuple[int, ...], past: Past) -> None:
        with self._lock:
            self._pasts[beginning] = past
            if len(self._pasts) > KEPT:
                self._pasts.popitem(last=False)

    def _file(self, folder: Path, beginning: tuple[int, ...]) -> Path:
        name = hashlib.sha256(str(beginning).encode()).hexdigest()[:32]
        return folder / f"{name}{_ENDING}"
