"""What this processor is good at: products in bfloat16, and compiled code where a compiler is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import torch

_ABLE = torch.cpu.get_capabilities()
# Without instructions of its own for them, products in bfloat16 take ten times as long as float32.
HALF = torch.bfloat16 if any(_ABLE.get(f"{set_}_bf16") for set_ in ("avx512", "amx")) else None


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, compiled for inputs of any shape where there is a C++ compiler."""
    return torch.compile(function, dynamic=True) if shutil.which("g++") else function
