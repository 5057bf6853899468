"""The teacher's vectors: all-MiniLM-L6-v2 in 8 bits, computed once, kept part by part."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from tokenizers import Tokenizer
from transformers import BertModel

DIMENSION = 384
PART = 4_096  # texts
MAX_TOKENS = 256  # the teacher's own limit
_BATCH_TOKENS = 1_024
_BLANK = "\u2581"  # begins the tokens that begin a word

Vectors = npt.NDArray[np.float16]


class _Embedder(torch.nn.Module):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        # Traced with "sdpa", the mask would be left out.
        self.model = BertModel.from_pretrained(
            folder, add_pooling_layer=False, attn_implementation="eager"
        ).eval()

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        states = self.model(ids, attention_mask=mask).last_hidden_state
        mean = (states * mask[..., None]).sum(1)
        return torch.nn.functional.normalize(mean, dim=1)


class Teacher:
    """all-MiniLM-L6-v2: the mean of its last hidden states, unit length.

    Its linear maps are in 8 bits: three times as fast as torch on a processor with VNNI, at a
    mean cosine of 0.99 or more.
    """

    def __init__(self, work: Path, threads: int = 2, name: str = "int8") -> None:
        (folder,) = work.glob("teacher/*/model")
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(
            _graphs(folder, work) / f"{name}.onnx", options, providers=["CPUExecutionProvider"]
        )

    def encode(self, texts: list[str]) -> Vectors:
        """(texts, 384) float16."""
        ids = [e.ids for e in self._tokenizer.encode_batch_fast(texts)]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        vectors = np.empty((len(ids), DIMENSION), np.float16)
        while order:
            longest = len(ids[order[-1]])
            count = max(1, _BATCH_TOKENS // longest)
            rows, order = order[-count:], order[:-count]
            batch = np.zeros((len(rows), longest), np.int64)
            mask = np.zeros_like(batch)
            for row, i in enumerate(rows):
                batch[row, : len(ids[i])] = ids[i]
                mask[row, : len(ids[i])] = 1
            vectors[rows] = self._session.run(None, {"ids": batch, "mask": mask})[0]
        return vectors


def build(work: Path, texts: list[str], threads: int) -> Vectors:
    """The vectors of all English texts. A killed run goes on with the next part."""
    folder = work / "vectors"
    folder.mkdir(exist_ok=True)
    teacher = None
    parts = []
    for start in range(0, len(texts), PART):
        path = folder / f"{start:07}.npy"
        if not path.exists():
            teacher = teacher or Teacher(work, threads)
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


def words(work: Path, tokenizer: Tokenizer, threads: int) -> dict[int, Vectors]:
    """The vectors of the tokens that are words by themselves or parts of them, in Latin letters."""
    found = {
        row: token.removeprefix(_BLANK)
        for token, row in sorted(tokenizer.get_vocab().items())
        if len(token) > 2 and token.removeprefix(_BLANK).isascii()
        and token.removeprefix(_BLANK).isalpha()
    }  # fmt: skip
    vectors = Teacher(work, threads).encode(list(found.values()))
    return dict(zip(found, vectors, strict=True))


def _graphs(folder: Path, work: Path) -> Path:
    """The folder with float32.onnx and int8.onnx."""
    whole, small = work / "teacher/float32.onnx", work / "teacher/int8.onnx"
    if not small.exists():
        example = torch.ones((2, 8), dtype=torch.long)
        axes = {0: "batch", 1: "sequence"}
        torch.onnx.export(
            _Embedder(folder), (example, example), str(whole),
            input_names=["ids", "mask"], output_names=["vectors"],
            dynamic_axes={"ids": axes, "mask": axes, "vectors": {0: "batch"}}, dynamo=False,
        )  # fmt: skip
        partial = small.with_suffix(".partial")
        quantize_dynamic(whole, partial, per_channel=True, weight_type=QuantType.QInt8)
        partial.rename(small)
    return whole.parent
