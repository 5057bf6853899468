"""Text as full-text search sees it, and queries in its language. No I/O.

Languages that put no spaces between words (Chinese, Japanese, Thai, …) and Korean, whose words
carry their particles, are indexed by character; a run of them in a query stands for the pairs of
neighbours in it.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from itertools import pairwise

# Letters are tokens, and so are the vowel signs of Indic and Thai script, without which a word
# falls apart. `fold` has removed what else there is of diacritics.
TOKENIZER = "unicode61 remove_diacritics 0 categories 'L* N* Co Mn Mc'"

# Latin, Greek and Cyrillic accents, Hebrew points, Arabic vowels and lengthening.
_DIACRITICS = re.compile(
    "[\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u05bf-\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670"
    "\u06d6-\u06dc\u06df-\u06e8\u06ea-\u06ed]+"
)
_UNSPACED = (
    "\u0e01-\u0e30\u0e32\u0e33\u0e40-\u0e46\u0e80-\u0eb0\u0eb2\u0eb3\u0ebd-\u0ec6"  # Thai, Lao
    "\u1000-\u102a\u1780-\u17b3"  # Burmese, Khmer
    "\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff"  # kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "\uac00-\ud7af"  # Hangul
)
_MARKS = (
    "\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece\u102b-\u103e\u17b4-\u17d3"
)
_CHARACTER = re.compile(f"[{_UNSPACED}][{_MARKS}\u3099\u309a]*")
_RUN = re.compile(f"(?:[{_UNSPACED}][{_MARKS}\u3099\u309a]*)+|[^{_UNSPACED}]+")
_QUERY = re.compile(r'(?<!\S)(-?)"([^"]*)"(?!\S)|(?<!\S)-(?=[^\W\d_]{2})(\S+)|(\S+)')
_WORD = re.compile(r"[^\s!-)+-/:-@\[-^`{-~\u2000-\u206f\u3000-\u3004\u3008-\u3020\uff00-\uff0f]+")


def fold(text: str) -> str:
    """`text` in lower case without diacritics, with spaces around characters of unspaced script."""
    if text.isascii():
        return text.lower()
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold()).casefold()
    plain = unicodedata.normalize("NFC", _DIACRITICS.sub("", plain))
    return _CHARACTER.sub(r" \g<0> ", plain)


@dataclass(frozen=True)
class TextQuery:
    """A query as FTS5 expressions, each "" where there is nothing of its kind."""

    ranked: str  # what ranks: any of the words and phrases
    required: str  # the quoted phrases, all of which must be there
    excluded: str  # what must not be there
    plain: str  # what to embed: the query without the marks and without what is excluded
    words: tuple[str, ...]  # folded, each once, for what a snippet is to show


def parse(query: str) -> TextQuery:
    """Read `"a phrase"`, `prefix*`, `-word` and `-"a phrase"`; all other text is words.

    No string is an error. A minus excludes only before a word of two letters or more, so that
    "-5" and "-m" are searched for; in quotes nothing but the quote itself has a meaning.
    """
    query = query.encode("utf-8", "replace").decode()  # SQLite takes no lone surrogates
    terms: list[str] = []
    required: list[str] = []
    excluded: list[str] = []
    plain: list[str] = []
    words: list[str] = []
    for match in _QUERY.finditer(query):
        minus, phrase, without, word = match.groups()
        if without is not None:
            excluded += _terms(without)
        elif phrase is None:
            terms += _terms(word)
            words += _WORD.findall(fold(word.replace("*", " ")))
            plain.append(word.rstrip("*") or word)
        elif any(map(str.isalnum, phrase)):
            (excluded if minus else required).append(_phrase(fold(phrase)))
            if not minus:
                words += _WORD.findall(fold(phrase))
                plain.append(phrase)
    return TextQuery(
        ranked=" OR ".join(dict.fromkeys(required + terms)),
        required=" AND ".join(dict.fromkeys(required)),
        excluded=" OR ".join(dict.fromkeys(excluded)),
        plain=" ".join(plain),
        words=tuple(dict.fromkeys(words)),
    )


def _terms(text: str) -> list[str]:
    """The FTS5 terms of a text without spaces: words, prefixes, pairs of unspaced characters."""
    found = []
    for part in re.findall(rf"{_WORD.pattern}\*?", _joined(text)):
        word, star = (part[:-1], "*") if part.endswith("*") else (part, "")
        for run in _RUN.findall(word):
            characters = _CHARACTER.findall(run)
            if len(characters) > 1:
                found += [_phrase(" ".join(pair)) for pair in pairwise(characters)]
            elif any(map(str.isalnum, run)):
                found.append(_phrase(run) + star)
    return found


def _joined(text: str) -> str:
    """`text` folded, its unspaced characters side by side again."""
    return fold(text).replace(" ", "") if not text.isascii() else fold(text)


def _phrase(text: str) -> str:
    """A string of FTS5, in which nothing has a meaning."""
    return '"' + text.replace('"', " ").replace("\0", " ") + '"'
