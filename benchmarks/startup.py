"""Cold start: a question to 10,000 passages in a new process, and `--help`; peers.

Ours is the command `harrier-edge search` with its index. A peer's process loads model and
tokenizer, embeds the same question, and compares it with the same number of vectors from a file;
llama.cpp is given token ids, since its loading reads a vocabulary anyway. Wall time of the whole
process with a warm page cache; contenders take turns, the median counts. About five minutes, most
of it for the index.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from contenders import FAITHFUL_PEERS, OURS, contender
from contest import say
from process import EndedError, make_files
from protocol import PROMPT, shape_of
from report import finish, flat_key, machine, print_table, versions
from shapes import CHECKPOINTS, result_name, shape_option

from harrier_export.texts import parity_texts

PASSAGES = 10_000
OWN = f"{OURS} int8"
QUESTION = "how do I undo the last commit"
PACKAGES = ("onnxruntime", "torch", "transformers", "sentence-transformers", "llama-cpp-python")
COMMAND = str(Path(sys.executable).with_name("harrier-edge"))


def index_of_passages(package: Path, folder: Path, count: int) -> Path:
    """An index of `count` passages of a few words, a file each."""
    words = " ".join(parity_texts()).split()
    files = folder / "passages"
    files.mkdir()
    for i in range(count):
        start = 7 * i % (len(words) - 8)
        (files / f"{i}.txt").write_text(" ".join(words[start : start + 8]), "utf-8")
    index = folder / "index.sqlite"
    command = [COMMAND, "add", "--quiet", "--db", str(index), "-m", str(package), str(files)]
    subprocess.run(command, check=True)
    return index


def peer(name: str, checkpoint: Path, files: Path, vectors: Path) -> None:
    """What a peer's process does from its start to its answer."""
    embed = contender(name).load(files, checkpoint)
    if name.startswith("sentence-transformers"):
        from transformers import AutoTokenizer

        ids = AutoTokenizer.from_pretrained(str(checkpoint))(PROMPT + QUESTION)["input_ids"]
    elif name.startswith("llama.cpp"):
        ids = json.loads((vectors.parent / "ids.json").read_text("ascii"))
    else:
        from tokenizers import Tokenizer

        ids = Tokenizer.from_file(str(checkpoint / "tokenizer.json")).encode(PROMPT + QUESTION).ids
    scores = np.load(vectors) @ embed([ids], 1)[0]
    print(np.argsort(-scores)[:10])


def wall_seconds(commands: dict[str, list[str]], rounds: int) -> dict[str, float]:
    """The median of each command's wall time, after one that warms the page cache."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(rounds + 1):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, env=dict(os.environ))
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(seen) for name, seen in times.items()}


def main() -> None:
    """Measure, print a table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    shape_option(parser)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--passages", type=int, default=PASSAGES, help="others; nothing is kept")
    parser.add_argument("--only", action="append", metavar="NAME", help="likewise")
    parser.add_argument("--peer", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        warnings.simplefilter("ignore")
        name, *paths = args.peer
        peer(name, *map(Path, paths))
        return
    with tempfile.TemporaryDirectory() as scratch:
        commands, absent = _commands(
            args.only or (OWN, *FAITHFUL_PEERS),
            CHECKPOINTS[args.shape](),
            Path(scratch),
            args.passages,
        )
        say("searches")
        seconds = wall_seconds(commands, args.rounds)
        bare = {"python": [sys.executable, "-c", "pass"], "help": [COMMAND, "--help"]}
        help_seconds = wall_seconds(bare, 3 * args.rounds)
    print_table(["", "s"], [[name, f"{each:.3f}"] for name, each in seconds.items()])
    for name, reason in absent.items():
        print(f"absent: {name}: {reason}")
    result: dict[str, Any] = {
        **machine(),
        **versions(*PACKAGES),
        "shape": args.shape,
        "absent": absent,
    }
    for name, each in seconds.items():
        result["cold_search_seconds" if name == OWN else f"{flat_key(name)}_seconds"] = round(
            each, 3
        )
    peers = [each for name, each in seconds.items() if name != OWN]
    if OWN in seconds and peers:
        result["nearest_peer_over_ours"] = round(min(peers) / seconds[OWN], 2)
    result["help_over_python_ms"] = round(1000 * (help_seconds["help"] - help_seconds["python"]), 1)
    keep = not args.only and args.passages == PASSAGES
    finish(result_name("startup", args.shape), result, keep=keep)


def _commands(
    names: Sequence[str], checkpoint: Path, folder: Path, passages: int
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """What each contender runs, and who is absent and why."""
    vectors = folder / "vectors.npy"
    np.save(
        vectors,
        np.random.default_rng(0).standard_normal(
            (passages, shape_of(checkpoint).dimension), np.float32
        ),
    )
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    (folder / "ids.json").write_text(json.dumps(tokenizer.encode(PROMPT + QUESTION).ids), "ascii")
    commands: dict[str, list[str]] = {}
    absent: dict[str, str] = {}
    for name in names:
        say(name)
        try:
            files = make_files(name, checkpoint).path
        except EndedError as error:
            absent[name] = str(error)
            continue
        if name == OWN:
            index = index_of_passages(files, folder, passages)
            commands[name] = [COMMAND, "search", "--db", str(index), QUESTION]
            continue
        inputs = [name, *map(str, (checkpoint, files, vectors))]
        command = [sys.executable, str(Path(__file__)), "--peer", *inputs]
        tried = subprocess.run(command, capture_output=True, check=False)
        if tried.returncode:
            absent[name] = tried.stderr.decode(errors="replace").strip()[-300:]
        else:
            commands[name] = command
    return commands, absent


if __name__ == "__main__":
    main()
