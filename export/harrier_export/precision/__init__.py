"""The precisions that a package can be written in, by name.

A precision is two formats: how the linear layers are written and how the embedding table is. A
new one is a module beside these and a line here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

from harrier_edge.errors import UsageError
from harrier_export.precision.blocks import BlockEmbedding, BlockLinear, ExpandedLinear
from harrier_export.precision.directions import DirectionsEmbedding
from harrier_export.precision.float32 import FloatEmbedding, FloatLinear
from harrier_export.precision.formats import (
    EmbeddingFormat,
    Floor,
    LinearFormat,
    PrecisionFormat,
    Rows,
)
from harrier_export.precision.ternary import TernaryLinear
from harrier_export.precision.tokens import TokenLinear

__all__ = [
    "PRECISIONS",
    "TERNARY_PRECISIONS",
    "Floor",
    "PrecisionFormat",
    "Rows",
    "float_format",
    "precision_format",
    "ternary_format",
    "traced_format",
]

PRECISIONS = ("fp32", "int8", "int8-block", "int4")
TERNARY_PRECISIONS = ("fp32", "int8", "ternary")  # of a BitNet model, all with the same bits
# Shares of a table's directions that have 8 and 6 bits; the others have 4.
_DIRECTIONS = {"int7": (0.7, 0.3), "int6": (0.1, 0.9), "int5": (0.2, 0.2)}
_LARGE_TABLE = 10**8  # weights from which on it is worth the measuring
_LARGE_TABLES = {"int8": "int7", "int4": "int6"}  # by default, where most of the model is the table
_EMBEDDINGS = ("fp32", "int8", *_DIRECTIONS, "int4")

# The share of the layers that is written finer, which takes much of the error away. On the
# Gemma-3-270M stand-in, mean cosine over the parity texts: int8-block 0.9974 -> 0.9991, int4
# 0.907 -> 0.966, before its blocks were calibrated.
_EARLY = {"int8": 1 / 9, "int8-block": 4 / 9, "int4": 1 / 3}
_FINER_BYTES = 10**9  # what int4 may spend on a second half of each weight in early layers
_EXPANDED_BYTES = 256 * 10**6  # what int8-block may spend on float32 copies of early layers

_FLOORS = {
    "fp32": Floor(min_cosine=0.9999),
    "int8": Floor(min_cosine=0.98),
    "int8-block": Floor(min_cosine=0.98),
    "int4": Floor(mean_cosine=0.95),
}

# Roundings that the last bit decides go either way, in the reference too: see `ternary_format`.
_TERNARY_FLOOR = Floor(mean_cosine=0.99)


def precision_format(
    name: str,
    *,
    layers: int,
    layer_parameters: int,
    table_parameters: int = 0,
    block_size: int | None = None,
    asymmetric: bool | None = None,
    embedding: str | None = None,
    embedding_block_size: int = 32,
    calibrate: bool = True,
) -> PrecisionFormat:
    """The format called `name` for a decoder of `layers` layers, with its options.

    `block_size`, of int8-block and int4, is the number of weights that share a scale, a power of 2
    from 16 to 256 (by default 32 at 8 bits, 16 at 4); an `asymmetric` block has a zero point too
    (by default at 4 bits). `embedding` is the precision of the embedding table: by default fp32
    for fp32 and int8 for the others, in blocks of `embedding_block_size` columns. Where the
    precision has calibration and `calibrate` holds, int7, int6 and int5 have about so many bits a
    weight in the directions in which an error costs most; int7 of int8, int6 of int4 are the
    default for a table that is most of the model, and large.

    The first layers are finer, since what they round goes through all the others: the first
    ninth of an int8 model has two 8-bit terms for the activations of every token, the first third
    of an int4 model is in 8 bits, as far as that adds a gigabyte, and the first four ninths of an
    int8-block model, as far as they fit 256 MB, keep their activations in float32. Raises
    UsageError.
    """
    if name == "ternary":
        raise UsageError(
            "precision 'ternary' is for models that were trained with ternary weights, such as "
            "bitnet-270m, and this is none. The smallest for it is int4."
        )
    _check_known("precision", name, PRECISIONS)
    if block_size is None:
        block_size = 16 if name == "int4" else 32
    _check_block_size(block_size)
    early = round(layers * _EARLY.get(name, 0))
    calibrated = name in ("int8", "int4")
    directed = calibrated and calibrate
    most = max(_LARGE_TABLE, layers * layer_parameters)
    if directed and table_parameters >= most:
        embedding = embedding or _LARGE_TABLES[name]
    linear: LinearFormat
    early_linear: LinearFormat
    if name == "int8":
        linear, early_linear = TokenLinear(), TokenLinear("every")
    elif name == "int8-block":
        linear = BlockLinear(8, block_size, bool(asymmetric))
        early_linear = ExpandedLinear(block_size)
        early = min(early, _EXPANDED_BYTES // (4 * layer_parameters))
    elif name == "int4":
        linear = BlockLinear(4, block_size, asymmetric is not False)
        early_linear = BlockLinear(8, 32, asymmetric=False)
        early = min(early, 2 * _FINER_BYTES // layer_parameters)
    else:
        linear = early_linear = FloatLinear()
    return PrecisionFormat(
        name,
        linear,
        early_linear,
        early,
        _embedding_format(name, embedding, embedding_block_size, directed=directed),
        _FLOORS[name],
        calibrated=calibrated,
        smoothed=name == "int8",  # blocks have scales enough of their own
    )


def traced_format(
    name: str, *, embedding: str | None = None, embedding_block_size: int = 32
) -> PrecisionFormat:
    """The format called `name` for a graph that optimum traced: fp32 or int8.

    Such a model may pool all its tokens, so that int8 gives every one two 8-bit terms: on
    all-MiniLM-L6-v2 with one, the mean cosine over STS-B's test is 0.9965, with two 0.9995. The
    rest is as in `precision_format`. Raises UsageError.
    """
    _check_known("precision of a model that optimum exports", name, ("fp32", "int8"))
    linear: LinearFormat = FloatLinear() if name == "fp32" else TokenLinear("every")
    table = _embedding_format(name, embedding, embedding_block_size)
    return PrecisionFormat(name, linear, linear, 0, table, _FLOORS[name])


def ternary_format(
    name: str, *, embedding: str | None = None, embedding_block_size: int = 32
) -> PrecisionFormat:
    """The format called `name` for a BitNet model: fp32, int8 or ternary.

    Its linear layers lose nothing in any of them; by default the embedding table is in fp32 in
    fp32 and in int8 in the others. Raises UsageError.
    """
    _check_known("precision of a BitNet model", name, TERNARY_PRECISIONS)
    linear = TernaryLinear(cast("Literal['fp32', 'int8', 'ternary']", name))
    table = _embedding_format(name, embedding, embedding_block_size)
    return PrecisionFormat(name, linear, linear, 0, table, _TERNARY_FLOOR)


def _embedding_format(
    name: str, embedding: str | None, block_size: int, *, directed: bool = False
) -> EmbeddingFormat:
    """How the precision `name` writes the table, if not told otherwise by `embedding`."""
    embedding = embedding or ("fp32" if name == "fp32" else "int8")
    _check_known("embedding precision", embedding, _EMBEDDINGS)
    _check_block_size(block_size)
    if embedding == "fp32":
        return FloatEmbedding()
    if embedding not in _DIRECTIONS:
        return BlockEmbedding({"int8": 8, "int4": 4}[embedding], block_size)
    if not directed:
        raise UsageError(
            f"embedding precision {embedding!r} needs calibration, as int8 and int4 have it; "
            "wanted another embedding precision, or an export with calibration."
        )
    return DirectionsEmbedding(*_DIRECTIONS[embedding])


def _check_known(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise UsageError(f"{what} {value!r} is unknown; wanted {', '.join(known)}.")


def _check_block_size(size: int) -> None:
    if size not in (16, 32, 64, 128, 256):
        raise UsageError(f"block size {size} cannot be; wanted 16, 32, 64, 128 or 256.")


def float_format(linear: FloatLinear) -> PrecisionFormat:
    """Everything in float32, with `linear` for the products."""
    return PrecisionFormat("fp32", linear, linear, 0, FloatEmbedding(), _FLOORS["fp32"])
