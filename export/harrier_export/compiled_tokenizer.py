"""`tokenizer.kitoken`: the tokenizer in a form that loads at once, if it proves to be equal."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer as Reference

from harrier_edge.isolation import python_command
from harrier_edge.package import COMPILED_TOKENIZER, TOKENIZER
from harrier_edge.spec import CompiledTokenizer
from harrier_edge.tokens import Tokenizer
from harrier_export.texts import calibration_texts, parity_texts

logger = logging.getLogger(__name__)

RANDOM_TEXTS = 5000
# What tokenizers have been seen to disagree about: spaces, line breaks, marks, joined signs, runs,
# characters without a letter's shape, and what stands for bytes that are none.
HARD_TEXTS = (
    *("", " ", "  ", "   ", "\t", "\n", "\n\n\n", "\r\n", "\r", "\u2028", "\u00a0x", "\u3000x"),
    *(" hello", " hello ", "hello  world", "a\u2581b", "\u2581\u2581a", "a \u2581\u2581 b"),
    *("e\u0301", "e" + "\u0301" * 100, "\u1100\u1161\u11a8", "각", "ﷺ", "İstanbul ı", "\u0344"),
    *("👨‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽" * 20, "🇪🇺🇳", "\U0001f8b2", "क्षत्रिय", "ก็", "१२३", "한국어 조선말"),
    *("\0", "\x01\x02", "\u200b\u200d", "\ufeffb", "\ufffd", "\ufffd\ufffd a", "\U0010ffff"),
    *("<0x0A>", "<0x41>", "<", "<b", "<|", "[", "𝕳𝖊𝖑𝖑𝖔", "\U000e0041", "it's I'LL we'Re"),
    *("ΟΔΟΣ ΣΑΣ", "Σ", "ẞ ǅ Ω Å"),
    *(
        "a" * 5000,
        " " * 5000,
        "\n" * 500,
        "ab " * 3000,
        "😀" * 500,
        "1234567890" * 20,
        "水火" * 2000,
    ),
)


def compile_tokenizer(folder: Path, final_token: int) -> CompiledTokenizer | None:
    """Write `tokenizer.kitoken` beside the tokenizer.json in `folder` and prove it equal.

    None, with nothing written and the reason logged, where the two give different ids for any text
    or kitoken does not know such a tokenizer. In a process of its own, since kitoken ends its
    process when it meets something unforeseen.
    """
    program = f"from {__name__} import main; main()"
    command = python_command(program, str(folder), str(final_token))
    run = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    if run.returncode:
        (folder / COMPILED_TOKENIZER).unlink(missing_ok=True)
        reason = (run.stderr.strip().splitlines() or ["kitoken gave up"])[-1]
        logger.warning("no %s is written: %s", COMPILED_TOKENIZER, reason)
        return None
    return msgspec.json.decode(run.stdout, type=CompiledTokenizer)


def check_texts(reference: Reference) -> Iterator[str]:
    """Texts on which the two must agree: real ones, hard ones, every special token, random ones."""
    for text in (*parity_texts(), *calibration_texts()):
        yield text
        yield from text.splitlines()
    yield from HARD_TEXTS
    for token in reference.get_added_tokens_decoder().values():
        yield token.content
        yield f"a {token.content} b"
        yield f"a{token.content}b{token.content}{token.content}\u0338"
    seeded = random.Random(0)
    pieces = sorted(reference.get_vocab())
    planes = ((32, 127), (160, 0x3000), (0x3000, 0xD800), (0xE000, 0x20000))
    for _ in range(RANDOM_TEXTS):
        yield "".join(seeded.choices(pieces, k=seeded.randint(1, 12)))
        yield "".join(
            chr(seeded.randrange(*seeded.choice(planes))) for _ in range(seeded.randint(1, 30))
        )


def _compile(folder: Path, final_token: int) -> CompiledTokenizer:
    """Write and prove it. Raises ValueError with the first text that proves the contrary."""
    import kitoken  # it reserves a gigabyte, which the export itself is to do without

    path = folder / TOKENIZER
    compiled = kitoken.Kitoken.from_tokenizers_file(str(path))
    config = compiled.config()
    steps = config["normalization"]
    forms = [step["Unicode"]["scheme"] for step in steps if "Unicode" in step] or [""]
    if forms not in (["NFC"], ["NFKC"], [""]):
        raise ValueError(f"it has texts in {' and '.join(forms)}")
    # Its Unicode is of another year than that of tokenizers: such texts go to tokenizer.json.
    config["normalization"] = list(_normalization(steps))
    # It makes one of several unknown tokens, also where a text spells them out.
    config["processing"] = [step for step in config["processing"] if "Collapse" not in step]
    compiled.set_config(config)
    compiled.to_file(str(folder / COMPILED_TOKENIZER))

    reference = Reference.from_file(str(path))
    texts = list(dict.fromkeys(check_texts(reference)))
    table = CompiledTokenizer(
        kitoken=importlib.metadata.version("kitoken"),
        first=reference.encode("").ids[:-1],
        texts=len(texts),
        form=forms[0],
    )
    limit = 10**6
    fast = Tokenizer(path, final_token=final_token, max_tokens=limit, compiled=table)
    slow = Tokenizer(path, final_token=final_token, max_tokens=limit)
    for text, seen, wanted in zip(texts, fast.encode(texts), slow.encode(texts), strict=True):
        if seen != wanted:
            raise ValueError(
                f"of {text[:80]!r} kitoken makes {seen.ids[:20]}, not {wanted.ids[:20]}"
            )
    return table


def _normalization(steps: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """kitoken's steps, less those of Unicode's forms."""
    for step in steps:
        if "CaseFold" in step:  # it makes ς of a word's last Σ, and tokenizers always σ
            yield {"Replace": {"pattern": {"Character": "Σ"}, "replacement": "σ"}}
        if "Unicode" not in step:
            yield step


def main() -> None:
    """Compile and print the manifest's table as JSON, or the reason why there is none."""
    folder, final_token = sys.argv[1:]
    try:
        table = _compile(Path(folder), int(final_token))
    except Exception as error:  # kitoken raises several kinds for what it does not know
        sys.exit(f"{type(error).__name__}: {error}")
    print(json.dumps(msgspec.to_builtins(table)))
