"""ONNX exports of others: which files of a repository hold the model in which precision.

The hub's community keeps them in one form, transformers.js's: `onnx/model.onnx` in float32,
`onnx/model_q4.onnx` and its like in others, and beside each graph its weights, `…_data`.
https://huggingface.co/docs/transformers.js/guides/dtypes
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from harrier_edge.errors import UsageError

FOLDER = "onnx"
FLOAT = "fp32"  # what the graph without a suffix is
_GRAPH = re.compile(r"onnx/model(?:_(\w+))?\.onnx")
_BESIDE = re.compile(r"[\w.-]+\.json|LICEN[CS]E[\w.-]*")


def foreign_graphs(names: Iterable[str]) -> dict[str, str]:
    """Precision -> graph, among the files `names` of a repository."""
    found = (_GRAPH.fullmatch(name) for name in names)
    return {match[1] or FLOAT: match[0] for match in found if match}


def choose_graph(names: Iterable[str], precision: str | None) -> tuple[str, str]:
    """The precision and the graph that is wanted: by default float32, which loses nothing.

    Raises UsageError, with what there is, where it is not there.
    """
    graphs = foreign_graphs(names)
    wanted = precision or (FLOAT if FLOAT in graphs or len(graphs) != 1 else next(iter(graphs)))
    if wanted not in graphs:
        raise UsageError(
            f"this ONNX export has no precision {wanted!r}; it has "
            f"{', '.join(sorted(graphs)) or 'none'}. Name one with --precision."
        )
    return wanted, graphs[wanted]


def foreign_files(names: Sequence[str], graph: str) -> list[str]:
    """The files that a package of `graph` is made of: its weights, configs, tokenizer, licence."""
    data = re.compile(re.escape(graph) + r"_data(_\d+)?")
    return [
        name for name in names if name == graph or data.fullmatch(name) or _BESIDE.fullmatch(name)
    ]
