"""Who is measured, and the process in which each embeds the same token ids with the same weights.

As a program, `contenders.py files NAME CHECKPOINT` makes what a contender runs from, and
`contenders.py run NAME CHECKPOINT FILES` loads it, then answers jobs, one JSON line each.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import psutil
from peers_llama import llama_cpp
from peers_onnx import fastembed, matmul_nbits, optimum_float32, optimum_int8
from peers_torch import sentence_transformers
from protocol import Contender, Embed, Ids, Vectors, in_batches, shape_of

MB = 10**6  # bytes: every figure of these benchmarks in "mb" is of 10^6 bytes, none is of 2^20


def harrier_edge(precision: str, *, by_layer: bool = True, after_prompt: bool = False) -> Contender:
    """A package of this project, through its session; without `by_layer`, always in one pass.

    With `after_prompt`, of texts that begin with the instruction for queries only the rest is run.
    """

    def files(checkpoint: Path) -> Path:
        from standins.packages import cached_package

        from harrier_edge.package import open_package
        from harrier_edge.packing import packed_graphs

        package = cached_package(checkpoint, precision)
        packed_graphs(open_package(package))  # once a machine, as a download is
        return package

    def load(files: Path, checkpoint: Path) -> Embed:
        from harrier_edge.package import open_package
        from harrier_edge.packing import packed_graphs
        from harrier_edge.session import Session

        shape = shape_of(checkpoint)
        package = open_package(files)
        session = Session(
            files / "model.onnx",
            dimension=shape.dimension,
            pad_token=shape.pad_token,
            query=files / "query.onnx",
            layers=package.layers if by_layer else (),
            packed=packed_graphs(package),
        )
        return _after_prompt(session, package) if after_prompt else _own_batches(session)

    return Contender(files, load)


def _after_prompt(session: Any, package: Any) -> Embed:
    """The way of single queries."""
    from harrier_edge.tokens import Tokenizer

    manifest = package.manifest
    tokenizer = Tokenizer(
        package.folder / "tokenizer.json",
        final_token=manifest.tokens.final,
        max_tokens=manifest.tokens.max_tokens,
        compiled=manifest.compiled_tokenizer,
    )
    beginning = tokenizer.beginning(manifest.prompts[manifest.query_prompt])

    def run(batch: Ids) -> Vectors:
        vectors: Vectors | None = session.run_after(beginning, batch[0])
        return session.run(batch) if vectors is None else vectors

    return lambda texts, batch: in_batches(run)(texts, 1)


def _own_batches(session: Any) -> Embed:
    """The session's own way with many texts, which makes batches as it sees fit.

    A session without one takes the batches that it is given.
    """
    if not hasattr(session, "run_many"):
        return in_batches(session.run)

    def embed(texts: Ids, batch: int) -> Vectors:
        vectors: Vectors = session.run_many(texts)
        return vectors

    return embed


OURS = "harrier-edge"
ONE_PASS = f"{OURS} one pass"
CACHED = f"{OURS} cached"
BLOCKS = {
    "MatMulNBits 8 bit": matmul_nbits(8),
    "MatMulNBits 4 bit": matmul_nbits(4),
}
TORCH = {
    "sentence-transformers fp32": sentence_transformers("float32"),
    "sentence-transformers bf16": sentence_transformers("bfloat16"),
}
PEERS = {
    **TORCH,
    "optimum fp32": optimum_float32(),
    "optimum int8": optimum_int8(),
    **BLOCKS,
    "llama.cpp Q8_0": llama_cpp("Q8_0"),
    "llama.cpp Q4_K_M": llama_cpp("Q4_K_M"),
    "fastembed": fastembed(),
}
# Those whose vectors are near the float32 model's, and that a process of one's own would hold.
FAITHFUL_PEERS = (
    "sentence-transformers bf16",
    "sentence-transformers fp32",
    "MatMulNBits 8 bit",
    "llama.cpp Q8_0",
)


def contender(name: str) -> Contender:
    """The contender of that name: a peer, or "harrier-edge" (also "… one pass" and "… cached").

    After that, of ours, comes the precision.
    """
    if name in PEERS:
        return PEERS[name]
    if name.startswith(ONE_PASS):
        return harrier_edge(name.removeprefix(f"{ONE_PASS} "), by_layer=False)
    if name.startswith(CACHED):
        return harrier_edge(name.removeprefix(f"{CACHED} "), after_prompt=True)
    return harrier_edge(name.removeprefix(f"{OURS} "))


def main() -> None:
    """Do what the command line says."""
    task, name, checkpoint, *files = sys.argv[1:]
    warnings.simplefilter("ignore")  # of the peers; they are measured, not judged
    answers = sys.stdout
    with redirect_stdout(sys.stderr):  # peers talk
        if task == "files":
            made = contender(name).files(Path(checkpoint))
            print(json.dumps({"files": str(made), "disk_mb": _disk_mb(made)}), file=answers)
            return
        start = time.perf_counter()
        embed = contender(name).load(Path(files[0]), Path(checkpoint))
        embed([[2, 1]], 1)
        loaded = {"load_s": time.perf_counter() - start}
        for answer in _answers(embed, loaded):
            print(json.dumps(answer), file=answers, flush=True)


def _answers(embed: Embed, loaded: dict[str, float]) -> Iterator[dict[str, Any]]:
    yield {**loaded, **_memory()}
    for line in sys.stdin:
        job = json.loads(line)
        start = time.perf_counter()
        vectors = embed(job["texts"], job["batch"])
        seconds = time.perf_counter() - start
        yield {
            "seconds": seconds,
            **_memory(),
            "vectors": vectors.tolist() if job["vectors"] else None,
        }


def _memory() -> dict[str, float]:
    """The resident memory of this process, now and at its highest."""
    status = Path("/proc/self/status").read_text("ascii")
    peak = next(int(s.split()[1]) * 1024 for s in status.splitlines() if s.startswith("VmHWM"))
    return {"rss_mb": psutil.Process().memory_info().rss / MB, "peak_mb": peak / MB}


def _disk_mb(made: Path) -> float:
    """The size of a file, or of all files of a folder."""
    files = [made] if made.is_file() else [path for path in made.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files) / MB


if __name__ == "__main__":
    main()
