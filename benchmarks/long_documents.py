"""Time and memory of one document of 256 to 32,768 tokens: layer by layer, in one pass, and peers.

Every contender embeds each length in a new process, so that its peak is that length's. They take
turns, and medians are compared. A peer is left out of the lengths that would take it longer than
`--peer-seconds`; how long is foretold from the length before, as if all its time were attention's.
On a machine that does nothing else: about eight minutes on two cores.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from contenders import ONE_PASS, OURS
from contest import say
from process import EndedError, Process, make_files
from protocol import shape_of
from report import finish, machine, print_table, versions
from shapes import CHECKPOINTS, result_name, shape_option

from harrier_edge.tokens import Tokenizer
from harrier_export.parity import row_cosines
from harrier_export.texts import parity_texts

LENGTHS = (256, 1024, 2048, 4096, 8192, 32768)
PIECES, WHOLE = f"{OURS} int8", f"{ONE_PASS} int8"
PEERS = ("sentence-transformers bf16", "MatMulNBits 8 bit", "llama.cpp Q8_0")
ONCE_FROM = 16384  # tokens: a document that long is embedded once
PACKAGES = ("onnxruntime", "torch", "transformers", "sentence-transformers", "llama-cpp-python")


def document(checkpoint: Path, length: int) -> list[int]:
    """`length` tokens of real text in many languages, which begins anew where it ends."""
    shape = shape_of(checkpoint)
    tokenizer = Tokenizer(
        checkpoint / "tokenizer.json", final_token=shape.end, max_tokens=max(LENGTHS)
    )
    first = len(shape.begin)
    tokens = [token for text in tokenizer.encode(parity_texts()) for token in text.ids[first:-1]]
    return [*shape.begin, *islice(cycle(tokens), length - first - 1), shape.end]


class Course:
    """The contenders, their files, and what has been measured."""

    def __init__(self, checkpoint: Path, names: Sequence[str], peer_seconds: float) -> None:
        self._checkpoint = checkpoint
        self._peer_seconds = peer_seconds
        self._files: dict[str, Path] = {}
        self.figures: dict[tuple[str, int], dict[str, Any]] = {}
        self.absent: dict[str, str] = {}
        for name in names:
            say(f"{name}: files")
            try:
                self._files[name] = make_files(name, checkpoint).path
            except EndedError as error:
                self.absent[name] = str(error)

    def measure(self, length: int, before: int | None, rounds: int) -> None:
        """Have all that are fast enough embed a document of `length` tokens, `rounds` times each.

        `before` is the length that was measured before.
        """
        text = document(self._checkpoint, length)
        times: dict[str, list[float]] = {}
        for _ in range(rounds):
            for name, files in list(self._files.items()):
                if name not in (PIECES, WHOLE) and not self._is_fast(name, length, before):
                    continue
                try:
                    process = Process(name, self._checkpoint, files)
                    answer = process.run([text], vectors=True)
                    process.close()
                except EndedError as error:
                    self.absent[f"{name} at {length}"] = str(error)
                    del self._files[name]
                    continue
                times.setdefault(name, []).append(answer["seconds"])
                self.figures[name, length] = {
                    "seconds": round(statistics.median(times[name]), 3),
                    "peak_mb": round(process.peak_mb),
                    "vectors": answer["vectors"],
                }
        say(f"{length} tokens are done")

    def _is_fast(self, name: str, length: int, before: int | None) -> bool:
        if before is None or (name, length) in self.figures:
            return True
        known = self.figures.get((name, before))
        return known is not None and (
            known["seconds"] * (length / before) ** 2 <= self._peer_seconds
        )


def main() -> None:
    """Measure, print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    shape_option(parser)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--peer-seconds", type=float, default=30.0)
    parser.add_argument(
        "--lengths", type=int, nargs="+", help="others than all; nothing is kept", metavar="TOKENS"
    )
    parser.add_argument("--only", action="append", metavar="NAME", help="likewise")
    args = parser.parse_args()
    lengths = sorted(args.lengths or LENGTHS)
    names = args.only or [PIECES, WHOLE, *PEERS]
    course = Course(CHECKPOINTS[args.shape](), names, args.peer_seconds)
    before = None
    for length in lengths:
        course.measure(length, before, 1 if length >= ONCE_FROM else args.rounds)
        before = length
    _print(course, names, lengths)
    result: dict[str, Any] = {
        **machine(),
        **versions(*PACKAGES),
        "shape": args.shape,
        **_flat(course, lengths),
    }
    finish(result_name("long_documents", args.shape), result, keep=not (args.lengths or args.only))


def _print(course: Course, names: Sequence[str], lengths: Sequence[int]) -> None:
    header = ["", *(f"{what} {length}" for length in lengths for what in ("s", "MB"))]
    rows = []
    for name in names:
        cells: list[object] = [name]
        for length in lengths:
            seen = course.figures.get((name, length), {})
            cells += [seen.get("seconds", "-"), seen.get("peak_mb", "-")]
        rows.append(cells)
    print_table(header, rows)
    for name, reason in course.absent.items():
        print(f"absent: {name}: {reason}")


def _flat(course: Course, lengths: Sequence[int]) -> dict[str, Any]:
    """Ours under short keys, one pass under its own, each peer under its name."""
    flat: dict[str, Any] = {"absent": course.absent}
    for (name, length), seen in course.figures.items():
        words = "_".join("".join(c if c.isalnum() else " " for c in name).split())
        prefix = {PIECES: "", WHOLE: "one_pass_"}.get(name, f"{words}_")
        flat[f"{prefix}seconds_{length}"] = seen["seconds"]
        flat[f"{prefix}peak_mb_{length}"] = seen["peak_mb"]
    for length in lengths:
        ours, whole = (course.figures.get((name, length)) for name in (PIECES, WHOLE))
        if ours and whole:
            flat[f"seconds_over_one_pass_{length}"] = round(ours["seconds"] / whole["seconds"], 3)
            cosine = float(row_cosines(ours["vectors"], whole["vectors"])[0])
            flat[f"cosine_to_one_pass_{length}"] = round(cosine, 7)
    return flat


if __name__ == "__main__":
    main()
