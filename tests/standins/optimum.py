"""What optimum makes of a stand-in: an ONNX export that shares no code with ours."""

from __future__ import annotations

import warnings
from pathlib import Path

from standins.folder import cache, whole


def optimum_export(checkpoint: Path) -> Path:
    """The folder of its float32 export in the cache, made at the first call (some minutes).

    The graph ends with `last_hidden_state`: pooling and normalization are the caller's.
    """
    target = cache() / f"optimum-{checkpoint.name}"
    if not target.exists():
        with whole(target) as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's tracer and its onnx export warn a lot
            from optimum.exporters.onnx import main_export

            main_export(
                str(checkpoint),
                folder,
                task="feature-extraction",
                library_name="transformers",
                do_validation=False,
            )
    return target
