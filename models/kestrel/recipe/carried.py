"""Takes the weights of the kestrel before over to the vocabulary of another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from recipe.checkpoint import WEIGHTS
from recipe.vocabulary import SPECIAL

Words = dict[int, npt.NDArray[np.float16]]
_TABLE = "embed_tokens.weight"
_RIDGE = 1.0


def former(folder: Path, tokenizer: Tokenizer, words: Words) -> dict[str, Tensor]:
    """The weights in `folder`, with a table for `tokenizer`."""
    weights = {name: tensor.float() for name, tensor in load_file(folder / WEIGHTS).items()}
    old = Tokenizer.from_file(str(folder / "tokenizer.json"))
    weights[_TABLE] = carry(weights[_TABLE], old, tokenizer, words)
    return weights


def carry(table: Tensor, old: Tokenizer, new: Tokenizer, words: Words) -> Tensor:
    """The table (tokens of `new`, hidden) that begins with what `table` has learned for `old`.

    A token that both have keeps its row. A new one has the mean of the rows of its former pieces,
    and, as much again, what the teacher's vector of it, of `words` by its new row, becomes by the
    linear map that takes the teacher's vectors of words to the rows that were learned for them
    (least squares with a ridge). Its length is that of an ordinary row.
    """
    known, tokens = old.get_vocab(), new.get_vocab()
    kept = {row: known[token] for token, row in tokens.items() if token in known}
    carried = torch.zeros(len(tokens), table.shape[1])
    carried[list(kept)] = table[list(kept.values())]
    size = table[len(SPECIAL) :].norm(dim=1).median()

    both = [row for row in words if row in kept]
    vectors = {row: torch.from_numpy(vector.astype(np.float32)) for row, vector in words.items()}
    mean = torch.stack(list(vectors.values())).mean(0)
    of_words = torch.stack([vectors[row] for row in both]) - mean
    rows = functional.normalize(carried[both], dim=1)
    gram = of_words.T @ of_words + _RIDGE * torch.eye(of_words.shape[1])
    becomes = torch.linalg.solve(gram, of_words.T @ rows)
    for token, row in tokens.items():
        if token in known:
            continue
        pieces = [piece.id for piece in old.model.tokenize(token)]
        own = functional.normalize(table[pieces].mean(0), dim=0)
        if row in vectors:
            own = own + functional.normalize((vectors[row] - mean) @ becomes, dim=0)
        carried[row] = size * functional.normalize(own, dim=0)
    return carried
