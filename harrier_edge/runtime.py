"""ONNX Runtime as it is used here: its options, its memory, its providers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import onnxruntime

from harrier_edge.errors import PackageError, UsageError
from harrier_edge.packing import PackedGraphs
from harrier_edge.releases import given

_PROVIDER = "ExecutionProvider"  # ends the name of each


def open_graph(
    model: Path,
    *,
    threads: int,
    providers: Sequence[str],
    packed: PackedGraphs | None = None,
    optimized: bool = False,
    shares_memory: bool = True,
) -> onnxruntime.InferenceSession:
    """Load a graph, over mapped weights where `packed` has it; as it is where it is `optimized`.

    Graphs that share memory work in one arena, where what one leaves free is the next one's.
    Raises PackageError for a graph that does not load.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors; the rest is for those who make graphs
    # A plan of one block for all that a shape needs saves no time, and holds the most of all.
    options.enable_mem_pattern = False
    if shares_memory:
        _share_memory()
        options.add_session_config_entry("session.use_env_allocators", "1")
    if packed:
        for name, value in packed.tables.items():
            options.add_initializer(name, value)
    graph = packed.graph(model) if packed else None
    if graph or optimized:
        # It was written as optimized: to look once more takes a third of the loading, or a half.
        level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.graph_optimization_level = level
    try:
        loaded = str(graph) if graph else given(model, options)
        return onnxruntime.InferenceSession(loaded, options, providers=list(providers))
    except Exception as error:  # ONNX Runtime has no common base class of its own
        raise PackageError(
            f"{model}: ONNX Runtime {onnxruntime.__version__} cannot load it: {error}. "
            "Export the model again, or install a newer onnxruntime."
        ) from error


def giving_back() -> onnxruntime.RunOptions:
    """Options of a run, after which all memory that no graph uses is given back."""
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def provider_names(names: Sequence[str]) -> list[str]:
    """ONNX Runtime's own names of providers that are named with or without "ExecutionProvider".

    Raises UsageError for one that is not installed.
    """
    installed = onnxruntime.get_available_providers()
    by_name = {p.removesuffix(_PROVIDER).lower(): p for p in installed}
    chosen = [by_name.get(n.removesuffix(_PROVIDER).lower(), "") for n in names]
    if "" in chosen:
        raise UsageError(
            f"provider {names[chosen.index('')]!r} is not installed; this onnxruntime has "
            f"{', '.join(p.removesuffix(_PROVIDER) for p in installed)}."
        )
    return chosen


def runtime() -> tuple[str, list[str]]:
    """The version of ONNX Runtime, and the execution providers that it has."""
    providers = onnxruntime.get_available_providers()
    return onnxruntime.__version__, [p.removesuffix(_PROVIDER) for p in providers]


@cache
def _share_memory() -> None:
    """Make the arena for the graphs that are loaded from now on.

    Where this ONNX Runtime has one by now, of whoever else uses it, and keeps it, that is used.
    """
    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    with suppress(Exception):  # ONNX Runtime has no common base class of its own
        onnxruntime.create_and_register_allocator(memory, None)


if hasattr(os, "register_at_fork"):  # not on Windows
    # A thread of the parent may hold the arena's lock for ever: a child makes one of its own.
    os.register_at_fork(after_in_child=_share_memory.cache_clear)
