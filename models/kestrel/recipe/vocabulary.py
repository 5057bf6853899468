"""The tokenizer: BPE over all languages, lower case, bytes for what it does not know."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, processors, trainers
from tokenizers import pre_tokenizers as pre

from harrier_edge import catalog
from recipe.corpus import View
from recipe.texts import common

SIZE = 52_000
PAD, EOS, BOS, UNKNOWN = range(4)
SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>"]
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_ALPHABET = 6_000  # characters that are no rarer than a word would have to be
_COUNTED = 5e7  # words of common English, beside the texts', which are of other things, and
_MOST = 1_000  # of any one
_LONGEST = 16  # characters: a whole clause of Chinese is no word


def build(work: Path, views: list[View], seed: int) -> Tokenizer:
    """tokenizer.json in `work`, trained where it is not there yet."""
    path = work / "tokenizer.json"
    if not path.exists():
        tokenizer = _untrained()
        trainer = trainers.BpeTrainer(
            vocab_size=SIZE,
            special_tokens=[*SPECIAL, *_BYTES],
            limit_alphabet=_ALPHABET,
            max_token_length=_LONGEST,
            show_progress=False,
        )
        tokenizer.train_from_iterator(_balanced(views, seed), trainer)
        data = json.loads(tokenizer.to_str())
        data["added_tokens"] = [t for t in data["added_tokens"] if t["content"] not in _BYTES]
        data["model"].update(byte_fallback=True, unk_token="<unk>", fuse_unk=True)
        path.write_text(json.dumps(data, ensure_ascii=False, separators=(",", ":")), "utf-8")
    return Tokenizer.from_file(str(path))


def _untrained() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    # White space is one blank, one at the start and none at the end, so that an instruction and a
    # query are the same tokens together and apart. Said in steps that kitoken has too.
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Prepend(" "),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Replace(Regex(" $"), ""),
        ]
    )
    tokenizer.pre_tokenizer = pre.Sequence(
        [
            pre.Metaspace(prepend_scheme="never"),
            pre.Punctuation("isolated"),
            pre.Digits(individual_digits=False),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always"), decoders.Fuse()]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>",
        pair="<bos> $A $B <eos>",
        special_tokens=[("<bos>", BOS), ("<eos>", EOS)],
    )
    return tokenizer


def _balanced(views: list[View], seed: int) -> Iterator[str]:
    """English whole, other languages less than their share, and the real instructions."""
    by_language = defaultdict(list)
    for view in views:
        by_language[view.language].append(view.text)
    rng = random.Random(seed)
    for word, share in common().items():
        yield from [word] * min(_MOST, round(share * _COUNTED))
    for language, texts in sorted(by_language.items()):
        count = len(texts) if language == "en" else int(60 * len(texts) ** 0.5)
        yield from rng.sample(texts, min(count, len(texts)))
    for prompt in catalog.load("harrier-270m").prompts.values():
        yield from [prompt] * 2_000
