"""Text to token ids."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from harrier_edge.errors import PackageError
from harrier_edge.package import COMPILED_TOKENIZER
from harrier_edge.spec import CompiledTokenizer, UnicodeForm

if TYPE_CHECKING:
    import kitoken
    import tokenizers

logger = logging.getLogger(__name__)

PROMPTS = 64  # whose beginnings are kept
COUNTED_CHARACTERS = 2**18  # at once: ids take some 48 bytes a token
# Texts that a tokenizer may treat in a way of its own.
_PROBES = ("", " ", "a", "harrier", "two words\n", "日本語", "\0")
# SentencePiece's sign for a space. Of texts that hold it themselves, kitoken makes other tokens.
_SPACE_SIGN = "\u2581"

# What kitoken frees goes back at once, and pages are small: 68 MB for Gemma's vocabulary, not 96.
_ALLOCATOR = {"MIMALLOC_PURGE_DELAY": "0", "MIMALLOC_ALLOW_THP": "0"}
_loading = threading.Lock()

IdsOf = Callable[[Sequence[str]], list[list[int]]]


@dataclass(frozen=True)
class TokenizedText:
    """The token ids of one text, the final one included, and how many were cut to fit."""

    ids: list[int]
    cut_tokens: int


class Tokenizer:
    """A package's tokenizer. Safe to share between threads."""

    def __init__(
        self,
        path: Path,
        *,
        final_token: int,
        max_tokens: int,
        compiled: CompiledTokenizer | None = None,
    ) -> None:
        """Load `tokenizer.json`, or in its place, as `compiled` tells, what was made of it.

        Raises PackageError where it is not a tokenizer, or does not end every input with
        `final_token`, at which the embedding is taken. Where the compiled form cannot be read by
        the kitoken that is installed, that is logged.
        """
        self._path = path
        self._final_token = final_token
        self.max_tokens = max_tokens
        self._compiled = compiled
        # Asked for at every query; how many instructions there are is up to the users.
        self.beginning = lru_cache(PROMPTS)(self._beginning)
        self._fast = _load_compiled(path.with_name(COMPILED_TOKENIZER), compiled)
        if self._fast is None:
            self._reference  # noqa: B018  # loaded now, so that its errors are raised now

    @cached_property
    def _reference(self) -> tokenizers.Tokenizer:
        """`tokenizer.json` itself, to which the compiled form was held."""
        import tokenizers  # with a compiled form, most processes never need it

        path, final_token = self._path, self._final_token
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise PackageError(f"{path}: is not a tokenizer ({error}). Export it again.") from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        for encoded in tokenizer.encode_batch(list(_PROBES)):
            if encoded.ids[-1:] != [final_token]:
                raise PackageError(
                    f"{path}: an input ends with token {encoded.ids[-1:]}, wanted {final_token}: "
                    "its vectors would be taken at the wrong place. Export the model again, which "
                    "repairs the tokenizer."
                )
        return tokenizer

    def encode(self, texts: Sequence[str]) -> list[TokenizedText]:
        """Token ids of each text.

        An input over `max_tokens` keeps its first tokens and the final one. Empty text is the
        special tokens alone; a lone surrogate, which no UTF-8 can hold, becomes U+FFFD.
        """
        clean = [_encodable(text) for text in texts]
        ids: dict[int, list[int]] = {}
        if self._fast and self._compiled:
            first, last = self._compiled.first, [self._final_token]
            rows = [row for row, text in enumerate(clean) if self._is_compiled(text)]
            bodies = self._fast.encode_all([clean[row] for row in rows], True)
            ids = {row: [*first, *body, *last] for row, body in zip(rows, bodies, strict=True)}
        if rest := [row for row in range(len(clean)) if row not in ids]:
            encoded = self._reference.encode_batch_fast([clean[row] for row in rest])
            ids.update(zip(rest, (one.ids for one in encoded), strict=True))
        return [self.fit(ids[row]) for row in range(len(clean))]

    def count(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has before any cut.

        However many texts there are, only the ids of some are in memory at a time.
        """
        return [
            len(text.ids) + text.cut_tokens
            for part in _parts(texts, COUNTED_CHARACTERS)
            for text in self.encode(part)
        ]

    def _beginning(self, prompt: str) -> list[int]:
        """The token ids that texts behind `prompt` begin with, as far as a few of them tell.

        The end of a prompt may grow into one token with what follows, so that these are fewer than
        the prompt's own.
        """
        first, *others = (text.ids[:-1] for text in self.encode([prompt + x for x in _PROBES]))
        for ids in others:
            first = first[: _common(first, ids)]
        return first

    def _is_compiled(self, text: str) -> bool:
        """Whether the compiled form takes `text`."""
        assert self._compiled
        if text.isascii():
            return True
        return _SPACE_SIGN not in text and _is_normal(text, self._compiled.only_form())

    def fit(self, ids: list[int]) -> TokenizedText:
        """A whole input as far as `max_tokens` go: its first tokens and the final one."""
        cut = len(ids) - self.max_tokens
        if cut <= 0:
            return TokenizedText(ids, 0)
        return TokenizedText([*ids[: self.max_tokens - 1], self._final_token], cut)


def _parts(texts: Sequence[str], characters: int) -> Iterator[Sequence[str]]:
    """Texts in order, about so many characters at a time; a longer text is a part of its own."""
    start = held = 0
    for row, text in enumerate(texts):
        if start < row and held + len(text) > characters:
            yield texts[start:row]
            start, held = row, 0
        held += len(text) + 1  # so that empty ones come to an end too
    yield texts[start:]


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        # Through UTF-16, so that two surrogates that do form a pair become their character.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids two texts share at their start."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((n for n, (x, y) in pairs if x != y), min(len(a), len(b)))


def _is_normal(text: str, form: UnicodeForm) -> bool:
    """Whether `text` is in a form of Unicode, by characters that Python's Unicode knows.

    That of the tokenizers is of another year; what either knows of a character never changes.
    """
    return not form or (
        unicodedata.is_normalized(form, text)
        and all(unicodedata.category(character) != "Cn" for character in set(text))
    )


def _kitoken() -> ModuleType:
    """The library, loaded by a thread that never ends. Raises ImportError.

    Its allocator, mimalloc 3, takes the thread that loads it for the process's main one: once that
    thread has ended, the next new thread to call kitoken kills the process.
    """
    with _loading:
        if "kitoken" not in sys.modules:
            if threading.current_thread() is threading.main_thread():
                _import_kitoken()
            else:
                _import_kitoken_and_stay()
        return importlib.import_module("kitoken")  # which waits for who else is importing it


def _import_kitoken_and_stay() -> None:
    loaded = threading.Event()

    def load_and_stay() -> None:
        try:
            _import_kitoken()
        except ImportError:
            return  # raised when it is asked for
        finally:
            loaded.set()
        threading.Event().wait()

    threading.Thread(target=load_and_stay, name="kitoken", daemon=True).start()
    loaded.wait()


def _import_kitoken() -> None:
    """Import the library, whose allocator reads the environment once, at that moment."""
    added = [name for name in _ALLOCATOR if name not in os.environ]
    os.environ.update({name: _ALLOCATOR[name] for name in added})
    try:
        importlib.import_module("kitoken")
    finally:
        for name in added:
            os.environ.pop(name, None)


def compiled_by(release: str) -> bool:
    """Whether what kitoken `release` compiled is read here: by that release alone."""
    try:
        return _is_release(_kitoken(), release)
    except ImportError:
        return False


def _is_release(library: ModuleType, release: str) -> bool:
    # Not importlib.metadata, whose import takes as long as the tokenizer's own.
    return (Path(library.__path__[0]).parent / f"kitoken-{release}.dist-info").is_dir()


def _load_compiled(path: Path, compiled: CompiledTokenizer | None) -> kitoken.Kitoken | None:
    """The compiled form; None, logged, where it was made by another kitoken than this one.

    kitoken ends the whole process when it meets bytes that it does not expect, so that nothing is
    tried out here.
    """
    if compiled is None:
        return None
    try:
        library = _kitoken()  # a package without a compiled form does not need it
    except ImportError:
        logger.warning("kitoken is not installed: the tokenizer takes a second or two to load")
        return None
    if not _is_release(library, compiled.kitoken):
        logger.warning(
            "%s was made by kitoken %s, which is not the one installed: the tokenizer takes a "
            "second or two to load. Install that kitoken, or export the package again.",
            path,
            compiled.kitoken,
        )
        return None
    fast: kitoken.Kitoken = library.Kitoken.from_file(str(path))
    return fast
