"""Text to token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer as _Tokenizer

from harrier_edge.errors import PackageError

# Texts that a tokenizer may treat in a way of its own.
_PROBES = ("", " ", "a", "harrier", "two words\n", "日本語", "\0")


@dataclass(frozen=True)
class TokenizedText:
    """The token ids of one text, the final one included, and how many were cut to fit."""

    ids: list[int]
    cut_tokens: int


class Tokenizer:
    """A package's tokenizer. Safe to share between threads."""

    def __init__(self, path: Path, *, final_token: int, max_tokens: int) -> None:
        """Load `tokenizer.json`.

        Raises PackageError where it is not a tokenizer, or does not end every input with
        `final_token`, at which the embedding is taken.
        """
        try:
            self._tokenizer = _Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise PackageError(f"{path}: is not a tokenizer ({error}). Export it again.") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._final_token = final_token
        self.max_tokens = max_tokens
        for encoded in self._tokenizer.encode_batch(list(_PROBES)):
            if encoded.ids[-1:] != [final_token]:
                raise PackageError(
                    f"{path}: an input ends with token {encoded.ids[-1:]}, wanted {final_token}: "
                    "its vectors would be taken at the wrong place. Export the model again, which "
                    "repairs the tokenizer."
                )

    def encode(self, texts: Sequence[str]) -> list[TokenizedText]:
        """Token ids of each text.

        An input over `max_tokens` keeps its first tokens and the final one. Empty text is the
        special tokens alone; a lone surrogate, which no UTF-8 can hold, becomes U+FFFD.
        """
        encoded = self._tokenizer.encode_batch_fast([_encodable(text) for text in texts])
        return [self._fit(one.ids) for one in encoded]

    def _fit(self, ids: list[int]) -> TokenizedText:
        cut = len(ids) - self.max_tokens
        if cut <= 0:
            return TokenizedText(ids, 0)
        return TokenizedText([*ids[: self.max_tokens - 1], self._final_token], cut)


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        # Through UTF-16, so that two surrogates that do form a pair become their character.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
