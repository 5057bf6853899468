"""Reads the sources: English texts by kind, and pairs of an English text and its translation."""

from __future__ import annotations

import contextlib
import gettext
import gzip
import itertools
import re
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

import wordfreq

from recipe.markup import tidy, untagged
from recipe.prose import prose
from recipe.sentences import Grammar
from recipe.sources import DESCRIPTIONS, descriptions
from recipe.wordnet import synsets

Pair = tuple[str, str]  # English, foreign
_BRACKETS = re.compile(r"\s*[\[({<][^\])}>]*[\])}>]\s*")
_MARKUP = re.compile(r"<[^<>]*>|[~_&](?=\w)|\\[nt]")
_PARAGRAPH = re.compile(r'<p id="(par_id\w+)"[^>]*>(.*?)</p>', re.DOTALL)
_DIGIT_RUN = re.compile(r"\d{5,}")
_SENTENCES = 80_000  # made up
_SAID = 1e-6  # the least share of a common word in all that is said
_TERM = 60  # characters of a gene's term in them
_OFFICE = "usr/lib/libreoffice/program/resource"
_WESNOTH = "usr/share/games/wesnoth"
# Thousands of names that few people know, in languages that fewer speak.
_NAMES_OF_NAMES = ("iso_3166-2", "iso_639-3", "iso_639-5", "iso_639_3", "iso_639_5", "iso_15924")
_TAGS = {"pt-BR": "pt_BR", "zh-CN": "zh_CN", "zh-TW": "zh_TW"}
_TAGS |= {"es_ES": "es", "es_AR": "es", "it_IT": "it", "uk_UA": "uk"}
_CATACLYSM = "cataclysm-dda.mo"
# ISO 639-2 as FreeDict and Tatoeba have it -> the code that the other sources use.
_CODES = (
    "ara:ar bul:bg ces:cs dan:da deu:de ell:el fin:fi fra:fr hin:hi hrv:hr hun:hu ind:id ita:it "
    "jpn:ja kor:ko lit:lt nld:nl nob:nb nor:nb pol:pl por:pt ron:ro rus:ru slk:sk slv:sl spa:es "
    "swe:sv tha:th tur:tr ukr:uk vie:vi cmn:zh_CN pes:fa heb:he cat:ca est:et"
)
_SHORT = dict(pair.split(":") for pair in _CODES.split())


def english(work: Path, seed: int) -> Iterator[tuple[str, str]]:
    """(kind, text) of the English sources; `seed` is of the sentences that are made up."""
    share = work / "root/usr/share"
    yield from (("word", word) for word in _words(share))
    yield from (("common word", word) for word in common())
    wordnet = list(_wordnet(share / "wordnet"))
    genes = list(_genes(work))
    terms = [text for kind, text in genes if kind == "gene term" and len(text) < _TERM]
    rare = [word for word in _medical(share) if len(word) > 4 and word.isalpha() and word.islower()]
    made = Grammar(share, wordfreq.get_frequency_dict("en"), terms, rare, seed)
    yield from (("sentence", text) for text in itertools.islice(made, _SENTENCES))
    yield from wordnet
    yield from genes
    for texts in (genes, wordnet):
        yield from (("document", text) for text in _joined(texts))
    yield from _foldoc(work)
    yield from _gcide(work)
    for short, paragraphs in _descriptions(work, "en").values():
        yield "gloss", short
        yield from (("passage", paragraph) for paragraph in paragraphs)
        if len(paragraphs) > 1:
            yield "long", short + ". " + " ".join(paragraphs)
    yield from prose(work)
    yield from (("prose", text) for text in _cataclysm(work))


def pairs(work: Path) -> Iterator[tuple[str, Pair]]:
    """(language, pair) of all translated sources."""
    yield from _tables(work)
    yield from _help(work)
    yield from _translated_descriptions(work)
    yield from _freedict(work)
    yield from _ding(work)
    yield from _catalogues(work)


def common() -> dict[str, float]:
    """English words as they are used everywhere, the most usual first, and the share of each in all
    that is said, from wordfreq."""
    said = wordfreq.get_frequency_dict("en")
    usual = sorted(said.items(), key=lambda item: (-item[1], item[0]))
    return {
        word: share for word, share in usual
        if share >= _SAID and len(word) > 2 and word.isalpha() and word.isascii()
    }  # fmt: skip


def _words(share: Path) -> Iterator[str]:
    """English words, of medicine too: the rare ones are in no other text."""
    listed = (share / "dict/american-english-huge").read_text("utf-8").splitlines()
    for word in (*listed, *_medical(share)):
        if len(word) > 3 and word.isalpha() and word.isascii():
            yield word


def _medical(share: Path) -> list[str]:
    lines = (share / "hunspell/en_med_glut.dic").read_text("utf-8", "replace").splitlines()[1:]
    return [line.partition("/")[0].strip() for line in lines]


def _genes(work: Path) -> Iterator[tuple[str, str]]:
    """The Gene Ontology's terms, definitions and synonyms, from Bioconductor's database."""
    path = work / "root/usr/lib/R/site-library/GO.db/extdata/GO.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as database:
        for term, definition in database.execute(
            "select term, definition from go_term order by term"
        ):
            yield "gene", f"{term}: {definition}"
            yield "gene term", term


def _joined(texts: list[tuple[str, str]]) -> Iterator[str]:
    """Long texts: neighbours, which are akin, put together."""
    sizes = itertools.cycle((500, 800, 1_100))
    held: list[str] = []
    size = next(sizes)
    for kind, text in texts:
        if kind in ("gene", "gloss"):
            held.append(text.rstrip(".") + ".")
            if sum(map(len, held)) > size:
                yield " ".join(held)
                held = []
                size = next(sizes)


def _wordnet(folder: Path) -> Iterator[tuple[str, str]]:
    for name in ("noun", "verb", "adj", "adv"):
        for synset in synsets(folder, name):
            lemmas = [word.replace("_", " ") for word in synset.words]
            definition, *examples = synset.gloss.split('; "')
            yield "gloss", f"{', '.join(lemmas)}: {definition.strip()}"
            yield "term", lemmas[0]
            yield from (("example", example.rstrip(' "')) for example in examples)
            yield from (("question", question) for question in _questions(name, lemmas[-1]))


def _questions(part_of_speech: str, term: str) -> Iterator[str]:
    """A question about a term, as people type them: the term decides which."""
    forms = {
        "noun": ("what is {}?", "How does {} work", "where can I find {}?", "why is {} important?",
                 "Who discovered {}?", "which {} is the best", "what causes {}",
                 "When was {} invented?", "how many kinds of {} are there?",
                 "What is the difference between {} and others?"),
        "verb": ("how do I {}?", "why do people {}?", "when should you {}", "what does {} mean?",
                 "how to {}"),
    }.get(part_of_speech)  # fmt: skip
    if forms:
        yield forms[sum(term.encode()) % len(forms)].format(term)


def _dictionary(work: Path, name: str) -> Iterator[str]:
    """The entries of a dictd file, in the order of its index."""
    folder = work / "root/usr/share/dictd"
    with gzip.open(folder / f"{name}.dict.dz") as file:
        data = file.read()
    digits = {
        c: i
        for i, c in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
    }

    def number(text: str) -> int:
        value = 0
        for digit in text:
            value = value * 64 + digits[digit]
        return value

    places = set()
    for line in (folder / f"{name}.index").read_text("utf-8").splitlines():
        head, start, size = line.split("\t")[:3]
        if not head.startswith("00"):
            places.add((number(start), number(size)))
    for offset, length in sorted(places):
        yield data[offset : offset + length].decode("utf-8", "replace")


def _foldoc(work: Path) -> Iterator[tuple[str, str]]:
    for entry in _dictionary(work, "foldoc"):
        head, _, body = entry.partition("\n")
        paragraphs = [tidy(p.replace("{", "").replace("}", "")) for p in body.split("\n\n")]
        kept = [p for p in paragraphs if len(p) > 60]
        yield "term", tidy(head)
        for paragraph in kept[:4]:
            yield "passage", f"{tidy(head)}: {paragraph}"
        if len(kept) > 1:
            yield "long", f"{tidy(head)}: {' '.join(kept)}"


def _gcide(work: Path) -> Iterator[tuple[str, str]]:
    for entry in _dictionary(work, "gcide"):
        head = entry.partition("\\")[0].strip()
        for sense in entry.split("\n   ")[1:]:
            text = tidy(_BRACKETS.sub(" ", sense)).split("--")[0]
            if 30 < len(text) < 300 and text[0].isupper() and len(head) < 40:
                yield "gloss", f"{head}: {text}"
                break


def _descriptions(work: Path, language: str) -> dict[str, tuple[str, list[str]]]:
    """md5 -> (synopsis, paragraphs) of Debian's packages."""
    found = {}
    for path in descriptions(work, language):
        for stanza in path.read_text("utf-8").split("\n\n"):
            lines = stanza.splitlines()
            if len(lines) < 3 or not lines[2].startswith("Description-"):
                continue
            text = "\n".join("" if line == " ." else line.strip() for line in lines[3:])
            paragraphs = [tidy(p) for p in text.split("\n\n")]
            synopsis = lines[2].partition(": ")[2]
            found[lines[1].rpartition(" ")[2]] = (synopsis, [p for p in paragraphs if p])
    return found


def _translated_descriptions(work: Path) -> Iterator[tuple[str, Pair]]:
    originals = _descriptions(work, "en")
    for language in DESCRIPTIONS[1:]:
        for md5, (short, paragraphs) in _descriptions(work, language).items():
            if md5 not in originals:
                continue
            original, original_paragraphs = originals[md5]
            yield language, (original, short)
            if len(paragraphs) == len(original_paragraphs):
                yield from (
                    (language, pair)
                    for pair in zip(original_paragraphs, paragraphs, strict=True)
                    if len(pair[0]) > 40
                )


def _tables(work: Path) -> Iterator[tuple[str, Pair]]:
    """Tatoeba (foreign first) and tldr (English first)."""
    for path in sorted((work / "tatoeba").glob("*.tsv")):
        code = path.name.partition("-")[0]
        for line in path.read_text("utf-8").splitlines():
            foreign, _, text = line.partition("\t")
            yield _SHORT.get(code, code), (text, foreign)
    for path in sorted((work / "train_tldr_parallel").glob("*.tsv")):
        code = path.stem.partition("-")[2]
        for line in path.read_text("utf-8").splitlines():
            text, _, foreign = line.partition("\t")
            yield {"zh": "zh_CN"}.get(code, code), (text, foreign)


def _help(work: Path) -> Iterator[tuple[str, Pair]]:
    """LibreOffice's help: paragraphs have the same number in each language."""
    root = work / "root/usr/share/libreoffice/help"

    def paragraphs(page: Path) -> dict[str, str]:
        return {
            number: untagged(text) for number, text in _PARAGRAPH.findall(page.read_text("utf-8"))
        }

    for page in sorted((root / "en-US/text").rglob("*.html")):
        original = paragraphs(page)
        for folder in sorted(root.glob("*/text")):
            other = folder / page.relative_to(root / "en-US/text")
            if folder.parent.name == "en-US" or not other.exists():
                continue
            language = _TAGS.get(folder.parent.name, folder.parent.name)
            for number, text in paragraphs(other).items():
                if text != original.get(number, text):
                    yield language, (original[number], text)


def _freedict(work: Path) -> Iterator[tuple[str, Pair]]:
    """Headwords and their first translations."""
    for path in sorted((work / "root/usr/share/dictd").glob("freedict-*.index")):
        _, source, target = path.stem.split("-")
        language = _SHORT[source if target == "eng" else target]
        for entry in _dictionary(work, path.stem):
            lines = entry.splitlines()
            head = tidy(_BRACKETS.sub(" ", lines[0].split(" /")[0]))
            for line in lines[1:]:
                line = re.sub(r"^\d+\.\s*", "", line.strip())
                if not line or line.startswith(("Note", "Synonym", "(", "see:", "<", '"')):
                    continue
                meanings = tidy(_BRACKETS.sub(" ", line))
                if target == "eng":
                    yield language, (_first(meanings), head)
                else:
                    yield language, (head, _first(meanings))
                break


def _first(meanings: str, count: int = 2) -> str:
    """The first different meanings of a list."""
    parts = [tidy(part).replace("`", "'") for part in re.split("[,;]", meanings)]
    return ", ".join(unique(part for part in parts if part)[:count])


def _ding(work: Path) -> Iterator[tuple[str, Pair]]:
    """`trans-de-en`: German :: English, forms between bars, synonyms between semicolons."""
    for line in (work / "root/usr/share/trans/de-en").read_text("utf-8").splitlines():
        if line.startswith("#") or " :: " not in line:
            continue
        german, text = (side.split(" | ") for side in line.split(" :: ")[:2])
        if len(german) == len(text):
            for foreign, meaning in itertools.islice(zip(german, text, strict=True), 4):
                first = meaning.split(";")[0]
                yield from (
                    ("de", (tidy(_BRACKETS.sub(" ", first)), tidy(_BRACKETS.sub(" ", one))))
                    for one in foreign.split(";")
                )


def _catalogues(work: Path) -> Iterator[tuple[str, Pair]]:
    """Messages of iso-codes, LibreOffice and Wesnoth, whose keys are the English text."""
    root = work / "root"
    patterns = (
        ("usr/share/locale", "*/LC_MESSAGES/iso_*.mo"),
        ("usr/share/locale", f"*/LC_MESSAGES/{_CATACLYSM}"),
        (_OFFICE, "*/LC_MESSAGES/*.mo"),
        (_WESNOTH, "*/translations/*/LC_MESSAGES/*.mo"),
    )
    for folder, pattern in patterns:
        for path in sorted((root / folder).glob(pattern)):
            language = path.parent.parent.name
            language = _TAGS.get(language, language)
            if "@" in language or language.startswith("en") or path.stem in _NAMES_OF_NAMES:
                continue
            yield from ((language, pair) for pair in _messages(path))


def _cataclysm(work: Path) -> Iterator[str]:
    """What is told in Cataclysm: the keys of the language that has most of it."""
    path = work / "root/usr/share/locale/ru/LC_MESSAGES" / _CATACLYSM
    yield from (text for text, _ in _messages(path) if len(text) > 40)


def _messages(path: Path) -> Iterator[Pair]:
    with path.open("rb") as file:
        try:
            catalogue: dict[object, str] = vars(gettext.GNUTranslations(file))["_catalog"]
        except (UnicodeDecodeError, OSError):
            return
    for key, value in catalogue.items():
        if isinstance(key, str) and key and value and "%" not in key:
            text = key.rpartition("\x04")[2]
            yield tidy(_MARKUP.sub("", text)), tidy(_MARKUP.sub("", value))


def usable(text: str) -> bool:
    """Whether a text says something: letters for the most part, of a sensible length."""
    letters = sum(map(str.isalpha, text))
    return 2 <= len(text) <= 4000 and letters >= 0.55 * len(text) and not _DIGIT_RUN.search(text)


def unique(texts: Iterable[str]) -> list[str]:
    """Each text once, in the order of its first appearance."""
    return list(dict.fromkeys(texts))
