"""The two ways in which config.json tells of rotary positions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeGuard

from harrier_edge.errors import UnsupportedModelError
from harrier_export.architectures.config import DecoderConfig
from harrier_export.architectures.decoder import Rope

FULL, SLIDING = "full_attention", "sliding_attention"


def read_ropes(
    config: DecoderConfig, layer_types: Iterable[str], *, sliding_theta: float | None = None
) -> dict[str, Rope]:
    """Layer type -> Rope, for every type that occurs. Raises UnsupportedModelError.

    transformers 4 writes `rope_theta` with `rope_scaling` for full layers and
    `rope_local_base_freq` (here `sliding_theta`) for sliding ones, which are never scaled;
    transformers 5 writes `rope_parameters`, one table or one for each layer type.
    """
    parameters = config.rope_parameters
    if parameters is None:
        full = {"rope_theta": config.rope_theta, **(config.rope_scaling or {})}
        tables = {FULL: full, SLIDING: {"rope_theta": sliding_theta}}
    elif FULL in parameters or SLIDING in parameters:
        tables = parameters
    else:
        tables = {FULL: parameters, SLIDING: parameters}
    ropes = {}
    for kind in sorted(set(layer_types)):
        if kind not in (FULL, SLIDING):
            raise UnsupportedModelError(
                f"config.json: layer_types has {kind!r}; the exporter writes {FULL} and {SLIDING}."
            )
        if kind == SLIDING and not config.sliding_window:
            raise UnsupportedModelError(
                f"config.json: layer_types has {SLIDING}, but sliding_window is "
                f"{config.sliding_window}; wanted the number of tokens that such a layer sees."
            )
        ropes[kind] = _rope(kind, tables.get(kind) or {})
    return ropes


def _rope(kind: str, table: dict[str, Any]) -> Rope:
    known = {"rope_theta", "rope_type", "type", "factor"}
    if unknown := sorted(table.keys() - known):
        raise UnsupportedModelError(
            f"config.json: rotary scaling of {kind} has {unknown[0]}={table[unknown[0]]!r}; the "
            "exporter writes plain and linear scaling."
        )
    scaling = table.get("rope_type", table.get("type", "default"))
    theta, factor = table.get("rope_theta"), table.get("factor", 1.0)
    if scaling not in ("default", "linear"):
        raise UnsupportedModelError(
            f"config.json: rotary scaling of {kind} is {scaling!r}; the exporter writes "
            "'default' and 'linear'."
        )
    if not _is_positive(theta) or not _is_positive(factor):
        raise UnsupportedModelError(
            f"config.json: rotary positions of {kind} have rope_theta {theta!r} and factor "
            f"{factor!r}; wanted two numbers above 0."
        )
    return Rope(float(theta), float(factor) if scaling == "linear" else 1.0)


def _is_positive(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and value > 0
