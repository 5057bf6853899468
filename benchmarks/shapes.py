"""The checkpoints that are measured: one with trained weights, and random ones in larger shapes."""

from __future__ import annotations

import argparse
from pathlib import Path

from standins.folder import cache, full_tokenizer
from standins.gemma3_270m import gemma3_270m
from standins.random_checkpoint import qwen3_0_6b, random_checkpoint

TRAINED = "270m"


def random_0_6b() -> Path:
    """Random weights in the exact shape of the 0.6B, as the tests make them."""
    target = cache() / "random-qwen3-0.6b"
    if not target.exists():
        random_checkpoint(target, config=qwen3_0_6b(), tokenizer=full_tokenizer("qwen3"), shards=2)
    return target


CHECKPOINTS = {TRAINED: gemma3_270m, "0.6b": random_0_6b}


def shape_option(parser: argparse.ArgumentParser) -> None:
    """`--shape`."""
    parser.add_argument("--shape", choices=sorted(CHECKPOINTS), default=TRAINED)


def result_name(benchmark: str, shape: str) -> str:
    """The file that keeps a benchmark's result."""
    return benchmark if shape == TRAINED else f"{benchmark}-{shape}"
