"""Who is measured: each embeds the same token ids with the same weights, in a process of its own.

As a program (`python contenders.py NAME`) this is such a process: it loads one contender, then
answers jobs, one JSON line each.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

Ids = Sequence[Sequence[int]]
Vectors = npt.NDArray[np.float32]
Embed = Callable[[Ids], Vectors]  # one batch


def _padded(batch: Ids) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Token ids and attention mask, padded on the right."""
    width = max(map(len, batch))
    ids = np.zeros((len(batch), width), np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(batch):
        ids[row, : len(text)] = text
        mask[row, : len(text)] = 1
    return ids, mask


def harrier_edge(precision: str) -> Embed:
    """A package of this project, through its session."""
    from standins.gemma3_270m import gemma3_270m
    from standins.packages import cached_package

    from harrier_edge.session import Session

    package = cached_package(gemma3_270m(), precision)
    return Session(package / "model.onnx", dimension=640, pad_token=0).run


def sentence_transformers(dtype: str) -> Embed:
    """PyTorch through sentence-transformers: transformer, last-token pooling, normalization."""
    import torch
    from sentence_transformers import SentenceTransformer
    from standins.gemma3_270m import gemma3_270m

    model = SentenceTransformer(
        str(gemma3_270m()), device="cpu", model_kwargs={"torch_dtype": getattr(torch, dtype)}
    )

    def embed(batch: Ids) -> Vectors:
        ids, mask = (torch.from_numpy(array) for array in _padded(batch))
        with torch.inference_mode():
            result = model({"input_ids": ids, "attention_mask": mask})
        vectors: Vectors = result["sentence_embedding"].float().numpy()
        return vectors

    return embed


CONTENDERS: dict[str, Callable[[], Embed]] = {
    "harrier-edge fp32": lambda: harrier_edge("fp32"),
    "harrier-edge int8": lambda: harrier_edge("int8"),
    "harrier-edge int8-token": lambda: harrier_edge("int8-token"),
    "harrier-edge int4": lambda: harrier_edge("int4"),
    "sentence-transformers fp32": lambda: sentence_transformers("float32"),
    "sentence-transformers bf16": lambda: sentence_transformers("bfloat16"),
}


def main() -> None:
    """Load the contender named on the command line, then do jobs until stdin ends."""
    warnings.simplefilter("ignore")  # of the peers; they are measured, not judged
    answers = sys.stdout
    with redirect_stdout(sys.stderr):  # peers talk
        start = time.perf_counter()
        embed = CONTENDERS[sys.argv[1]]()
        embed([[2, 1]])
        loaded = {"load_s": time.perf_counter() - start}
        for answer in _answers(embed, loaded):
            print(json.dumps(answer), file=answers, flush=True)


def _answers(embed: Embed, loaded: dict[str, float]) -> Iterator[dict[str, Any]]:
    process = psutil.Process()
    yield {**loaded, "rss_mb": process.memory_info().rss / 2**20}
    for line in sys.stdin:
        job = json.loads(line)
        start = time.perf_counter()
        vectors = [embed(batch) for batch in job["batches"]]
        seconds = time.perf_counter() - start
        yield {
            "seconds": seconds,
            "rss_mb": process.memory_info().rss / 2**20,
            "peak_mb": _peak_mb(),
            "vectors": np.concatenate(vectors).tolist() if job.get("vectors") else None,
        }


def _peak_mb() -> float:
    """The most resident memory that this process ever had, in MiB."""
    status = Path("/proc/self/status").read_text("ascii")
    return next(int(s.split()[1]) / 1024 for s in status.splitlines() if s.startswith("VmHWM"))


if __name__ == "__main__":
    main()
