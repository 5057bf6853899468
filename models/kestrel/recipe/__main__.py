"""One command to the checkpoint; run it again after a kill and it goes on.

Where a kestrel is there already, its vocabulary is kept and its table is part of the new one's
beginning; `--anew` does without.

PYTHONPATH=models/kestrel python models/kestrel/recipe/__main__.py --work FOLDER
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from recipe import checkpoint, corpus, sources, teacher, train, vocabulary

SEED = 20261125
READ = 136_000  # English texts that the teacher reads; the others go unused
ROOT = Path(__file__).resolve().parents[3]


def main() -> None:
    """Run every step that is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="outside the checkout; 2 GB")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared" / "eval")
    parser.add_argument("--output", type=Path, default=ROOT / "models/kestrel")
    parser.add_argument("--anew", action="store_true", help="with nothing of the kestrel before")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    sources.fetch(args.work, args.shared)
    corpus.build(args.work, args.shared, SEED)
    texts, views = corpus.load(args.work)
    former = None
    if not args.anew and (args.output / checkpoint.WEIGHTS).exists():
        former = load_file(args.output / checkpoint.WEIGHTS)["embed_tokens.weight"].float()
        shutil.copyfile(args.output / "tokenizer.json", args.work / "tokenizer.json")
    texts = texts[:READ]
    tokenizer = vocabulary.build(args.work, views, SEED)
    vectors = teacher.build(args.work, texts, args.threads)
    words = teacher.words(args.work, tokenizer, args.threads)
    student = train.run(args.work, views, tokenizer, vectors, words, former, SEED)
    checkpoint.write(student, args.work, args.output)


if __name__ == "__main__":
    main()
