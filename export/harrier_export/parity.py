"""How close a package is to its reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harrier_edge.errors import FidelityError
from harrier_edge.package import MODEL, TOKENIZER
from harrier_edge.session import Session
from harrier_edge.spec import Parity
from harrier_edge.tokens import Tokenizer
from harrier_export import reference
from harrier_export.architectures.decoder import Decoder
from harrier_export.precision import Floor
from harrier_export.texts import parity_texts

MAX_TEXT_TOKENS = 2000  # the reference is quadratic in this


def measure_parity(
    checkpoint: Path, folder: Path, decoder: Decoder, on_text: Callable[[int, int], None]
) -> Parity:
    """Embed the parity texts with the package's files in `folder` and with transformers.

    `on_text` is told how many texts the reference has done, of how many.
    """
    tokenizer = Tokenizer(
        folder / TOKENIZER,
        final_token=decoder.final_token,
        max_tokens=min(MAX_TEXT_TOKENS, decoder.max_positions),
    )
    texts = [text.ids for text in tokenizer.encode(parity_texts())]
    wanted = reference.transformers_vectors(checkpoint, texts, lambda n: on_text(n, len(texts)))
    session = Session(folder / MODEL, dimension=decoder.hidden_size, pad_token=decoder.pad_token)
    return parity_of(session.run_many(texts), wanted, reference.reference_name())


def parity_of(vectors: npt.ArrayLike, wanted: npt.ArrayLike, name: str) -> Parity:
    """How close `vectors` (n, dim) are to `wanted` (n, dim), which the reference `name` made."""
    cosines = row_cosines(vectors, wanted)
    return Parity(
        reference=name,
        texts=len(cosines),
        mean_cosine=round(float(cosines.mean()), 7),
        min_cosine=round(float(cosines.min()), 7),
    )


def row_cosines(a: npt.ArrayLike, b: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Cosine of each row of `a` (n, dim) with the same row of `b`: (n,) float64."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    products: npt.NDArray[np.float64] = (x * y).sum(-1)
    lengths = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    cosines: npt.NDArray[np.float64] = products / lengths
    return cosines


def check_floor(parity: Parity, floor: Floor, precision: str) -> None:
    """Raise FidelityError where the parity is under its precision's floor."""
    if parity.mean_cosine >= floor.mean_cosine and parity.min_cosine >= floor.min_cosine:
        return
    wanted = " and ".join(
        f"{name} at least {value}"
        for name, value in (("mean", floor.mean_cosine), ("minimum", floor.min_cosine))
        if value
    )
    raise FidelityError(
        f"{precision}: cosine to {parity.reference} over {parity.texts} texts is "
        f"{parity.mean_cosine:.5f} in the mean, {parity.min_cosine:.5f} at the least; wanted "
        f"{wanted}. Take a smaller --block-size or a higher --precision, or accept it with "
        "--allow-poor."
    )
