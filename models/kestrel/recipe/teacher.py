"""The teacher's vectors: all-MiniLM-L6-v2, computed once, kept part by part."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import BertModel

from recipe.processor import HALF, compiled

DIMENSION = 384
PART = 4_096  # texts
MAX_TOKENS = 256  # the teacher's own limit
_BATCH_TOKENS = 2_048
_BLANK = "\u2581"  # begins the tokens that begin a word

Vectors = npt.NDArray[np.float16]


class Teacher:
    """all-MiniLM-L6-v2: the mean of its last states, unit length; bfloat16 where that is fast."""

    def __init__(self, work: Path) -> None:
        (folder,) = work.glob("teacher/*/model")
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)
        dtype = HALF or torch.float32
        model = BertModel.from_pretrained(folder, add_pooling_layer=False, dtype=dtype)
        self._model = compiled(model.eval())

    @torch.inference_mode()
    def encode(self, texts: list[str]) -> Vectors:
        """(texts, 384) float16."""
        ids = [e.ids for e in self._tokenizer.encode_batch_fast(texts)]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        vectors = np.empty((len(ids), DIMENSION), np.float16)
        while order:
            longest = len(ids[order[-1]])
            count = max(1, _BATCH_TOKENS // longest)
            rows, order = order[-count:], order[:-count]
            batch = torch.zeros((len(rows), longest), dtype=torch.long)
            mask = torch.zeros_like(batch)
            for row, i in enumerate(rows):
                batch[row, : len(ids[i])] = torch.tensor(ids[i])
                mask[row, : len(ids[i])] = 1
            states = self._model(batch, attention_mask=mask).last_hidden_state.float()
            mean = (states * mask[..., None]).sum(1)
            vectors[rows] = functional.normalize(mean, dim=1).numpy()
        return vectors


def build(work: Path, texts: list[str]) -> Vectors:
    """The vectors of all English texts. A killed run goes on with the next part."""
    folder = work / "vectors"
    folder.mkdir(exist_ok=True)
    teacher = None
    parts = []
    for start in range(0, len(texts), PART):
        path = folder / f"{start:07}.npy"
        if not path.exists():
            teacher = teacher or Teacher(work)
            began = time.process_time()
            vectors = teacher.encode(texts[start : start + PART])
            partial = path.with_suffix(".partial")
            with partial.open("wb") as file:
                np.save(file, vectors)
            partial.rename(path)
            seconds = time.process_time() - began
            print(f"teacher: {start + len(vectors)} of {len(texts)}, {seconds:.0f} CPU s a part",
                  flush=True)  # fmt: skip
        parts.append(np.load(path))
    return np.concatenate(parts)


def words(work: Path, tokenizer: Tokenizer) -> dict[int, Vectors]:
    """The vectors of the tokens that are words by themselves or parts of them, in Latin letters."""
    found = {
        row: token.removeprefix(_BLANK)
        for token, row in sorted(tokenizer.get_vocab().items())
        if len(token) > 2 and token.removeprefix(_BLANK).isascii()
        and token.removeprefix(_BLANK).isalpha()
    }  # fmt: skip
    vectors = Teacher(work).encode(list(found.values()))
    return dict(zip(found, vectors, strict=True))
