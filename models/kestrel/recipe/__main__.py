"""One command to the checkpoint; run it again after a kill and it goes on.

Where a kestrel is there already, its vocabulary is kept, and its weights go through the last stage
once more; `--anew` does without.

PYTHONPATH=models/kestrel python models/kestrel/recipe/__main__.py --work FOLDER
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from recipe import checkpoint, corpus, sources, teacher, train, vocabulary

ROOT = Path(__file__).resolve().parents[3]


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
    sources.fetch(args.work, args.shared)
    corpus.build(args.work, args.shared, args.seed)
    texts, views = corpus.load(args.work)
    former = None
    if not args.anew and (args.output / checkpoint.WEIGHTS).exists():
        former = {k: v.float() for k, v in load_file(args.output / checkpoint.WEIGHTS).items()}
        shutil.copyfile(args.output / "tokenizer.json", args.work / "tokenizer.json")
    tokenizer = vocabulary.build(args.work, views, args.seed)
    vectors = teacher.build(args.work, texts)
    words = teacher.words(args.work, tokenizer) if former is None else {}
    student = train.run(args.work, views, tokenizer, vectors, words, former, args.seed)
    checkpoint.write(student, args.work, args.output)


if __name__ == "__main__":
    main()
