"""One command to the checkpoint; run it again after a kill and it goes on.

Run again after its end, with another seed or from another kestrel, it trains anew.

Where a kestrel is there already, its weights are trained on, gently, and its table is carried over
to the vocabulary of the texts that there are now; `--anew` does without.

PYTHONPATH=models/kestrel python models/kestrel/recipe/__main__.py --work FOLDER
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch

from harrier_edge.package import sha256_of
from recipe import carried, checkpoint, corpus, sources, teacher, train, vocabulary

ROOT = Path(__file__).resolve().parents[3]
STAMP = "run.txt"
# What is kept in the work folder for a run to go on: the first by its seed alone, since the teacher
# needs its time, the others by the kestrel that it begins with, too.
_OF_SEED = ("english.json", "views.json", "vectors")
_OF_RUN = ("tokenizer.json", train.STATE)


def main() -> None:
    """Run every step that is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="outside the checkout; 2 GB")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared" / "eval")
    parser.add_argument("--output", type=Path, default=ROOT / "models/kestrel")
    parser.add_argument("--anew", action="store_true", help="with nothing of the kestrel before")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=20261125, help="another one for another run")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    weights = args.output / checkpoint.WEIGHTS
    begins_with = weights if weights.exists() and not args.anew else None
    forget_others(args.work, args.seed, sha256_of(begins_with) if begins_with else "anew")
    sources.fetch(args.work, args.shared)
    corpus.build(args.work, args.shared, args.seed)
    texts, views = corpus.load(args.work)
    tokenizer = vocabulary.build(args.work, views, args.seed)
    vectors = teacher.build(args.work, texts)
    words = teacher.words(args.work, tokenizer)
    former = carried.former(args.output, tokenizer, words) if begins_with else None
    student = train.run(args.work, views, tokenizer, vectors, words, former, args.seed)
    checkpoint.write(student, args.work, args.output)
    (args.work / train.STATE).unlink(missing_ok=True)


def forget_others(work: Path, seed: int, former: str) -> None:
    """Remove from `work` what a run of another seed, or from another kestrel, has left there.

    `former` tells the weights that this run begins with.
    """
    stamp, run = work / STAMP, [str(seed), former]
    kept = stamp.read_text("utf-8").split() if stamp.exists() else []
    if kept == run:
        return
    for name in _OF_RUN if kept[:1] == run[:1] else (*_OF_SEED, *_OF_RUN):
        path = work / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    stamp.write_text(" ".join(run), "utf-8")


if __name__ == "__main__":
    main()
