"""Where older releases of ONNX Runtime compute something else, and what they are given for that."""

from __future__ import annotations

from pathlib import Path

import onnxruntime

from harrier_edge.graphs import with_narrower_windows

_RELEASE = tuple(map(int, onnxruntime.__version__.split(".")[:2]))
# Before, attention has the scores of all tokens of a text in memory at once.
SCORES_IN_TILES = _RELEASE >= (1, 28)
# Before, attention sees one token too many in a sliding window:
# https://github.com/microsoft/onnxruntime/pull/25927
EXACT_WINDOWS = _RELEASE >= (1, 24)


def given(model: Path, options: onnxruntime.SessionOptions) -> str | bytes:
    """What this release is to load for a sound graph, with `options`, which are added to."""
    if EXACT_WINDOWS:
        return str(model)
    folder = "session.model_external_initializers_file_folder_path"
    options.add_session_config_entry(folder, str(model.parent))
    return with_narrower_windows(model)
