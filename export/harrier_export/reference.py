"""The independent answer: the same checkpoint run by transformers in float32.

The only module of the project that imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from harrier_export.checkpoint import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor

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

    model = load(checkpoint)
    vectors = []
    with torch.inference_mode():
        for done, ids in enumerate(texts, 1):
            states = model(input_ids=torch.tensor([list(ids)]), use_cache=False).last_hidden_state
            vectors.append(torch.nn.functional.normalize(states[0, -1], dim=0).numpy())
            on_text(done)
    return np.stack(vectors)


def load(checkpoint: Path) -> Any:
    """transformers' own model of a checkpoint, in float32.

    It knows no BitNet of these shapes: what such a checkpoint adds is put into its linear layers,
    by the published formula (https://arxiv.org/abs/2402.17764, and the training tips beside it).
    """
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()  # of tensors that it has no place for
    model = transformers.AutoModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
    for name, norm in Checkpoint(checkpoint).ending_in("_proj.norm.weight").items():
        linear = model.get_submodule(name.removesuffix(".norm.weight"))
        linear.weight.data = _ternary(linear.weight.data)
        weight, eps = torch.from_numpy(norm.array()), model.config.rms_norm_eps
        linear.register_forward_pre_hook(
            lambda _, args, weight=weight, eps=eps: (_rounded(_normed(args[0], weight, eps)),)
        )
    return model


def _ternary(weight: Tensor) -> Tensor:
    scale = 1 / weight.abs().mean().clamp(min=1e-5)
    return (weight * scale).round().clamp(-1, 1) / scale


def _normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * (x * (x.pow(2).mean(-1, keepdim=True) + eps).rsqrt())


def _rounded(x: Tensor) -> Tensor:
    scale = 127 / x.abs().amax(-1, keepdim=True).clamp(min=1e-5)
    return (x * scale).round().clamp(-128, 127) / scale


def reference_name() -> str:
    """What made the reference, for the manifest."""
    import torch
    import transformers

    return f"transformers {transformers.__version__}, torch {torch.__version__}, float32"
