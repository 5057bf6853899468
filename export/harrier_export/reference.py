"""The independent answer: the same checkpoint run by transformers in float32.

The only module of the project that imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]


def is_available() -> bool:
    """Whether the extra `verify` is installed."""
    return all(find_spec(name) is not None for name in ("torch", "transformers"))


def transformers_vectors(
    checkpoint: Path, texts: Sequence[Sequence[int]], on_text: Callable[[int], object]
) -> Vectors:
    """Embed texts given as token ids, one at a time: (n, hidden) float32 of unit length.

    The hidden state of the last token after the final norm, scaled to unit length. `on_text` is
    told how many are done.
    """
    import torch  # some seconds and hundreds of megabytes, for a verified export alone
    import transformers

    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
    vectors = []
    with torch.inference_mode():
        for done, ids in enumerate(texts, 1):
            states = model(input_ids=torch.tensor([list(ids)]), use_cache=False).last_hidden_state
            vectors.append(torch.nn.functional.normalize(states[0, -1], dim=0).numpy())
            on_text(done)
    return np.stack(vectors)


def reference_name() -> str:
    """What made the reference, for the manifest."""
    import torch
    import transformers

    return f"transformers {transformers.__version__}, torch {torch.__version__}, float32"
