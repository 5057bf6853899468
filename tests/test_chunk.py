"""Documents to chunks."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harrier_edge.documents import code, markdown, records, rst
from harrier_edge.documents.chunk import Chunk, split
from harrier_edge.documents.document import Document
from harrier_edge.isolation import python_command


def count_words(texts: Sequence[str]) -> list[int]:
    """A tokenizer that a test can follow: words and marks, and every 8 letters of a long word."""
    return [len(re.findall(r"\w{1,8}|[^\w\s]", text)) for text in texts]


def plain(text: str) -> Document:
    """A document without structure."""
    return Document(text, "name", "text/plain")


def prose(text: str) -> Document:
    """A Markdown document."""
    return markdown.read(text.encode(), "name", "text/markdown")


def texts(chunks: Sequence[Chunk]) -> list[str]:
    """What the chunks say."""
    return [chunk.text for chunk in chunks]


def test_paragraphs_are_kept_whole_and_packed() -> None:
    """As many paragraphs as fit make a chunk, which knows its lines and characters."""
    text = "one\n\ntwo three\n\nfour five six\nseven\n\n\neight nine\n"
    chunks = split(plain(text), 4, count_words)
    assert [(c.text, c.line, c.end_line, c.start) for c in chunks] == [
        ("one\n\ntwo three", 1, 3, 0),
        ("four five six\nseven", 5, 6, 16),
        ("eight nine", 9, 9, 38),
    ]


def test_a_long_paragraph_is_cut_at_lines_then_sentences_then_words() -> None:
    """The best cut that is fine enough is taken."""
    assert texts(split(plain("a b c\nd e f"), 3, count_words)) == ["a b c", "d e f"]
    assert texts(split(plain("A b. C d e. F"), 4, count_words)) == ["A b.", "C d e.", "F"]
    assert texts(split(plain("a b c d e"), 2, count_words)) == ["a b", "c d", "e"]
    assert texts(split(plain("foo.bar/baz"), 2, count_words)) == ["foo.", "bar/", "baz"]


def test_long_runs_of_dots_take_no_longer_than_other_text() -> None:
    """As dot leaders and test reports have them: their cost grows with their length alone."""
    program = """
from harrier_edge.documents.chunk import split
from harrier_edge.documents.document import Document
text = "One. " + "." * 200_000 + "x! Two."
chunks = split(Document(text, "", ""), 200_004, lambda texts: [len(text) for text in texts])
assert [chunk.text[-3:] for chunk in chunks] == ["ne.", ".x!", "wo."], chunks
"""
    subprocess.run(python_command(program), check=True, timeout=120)  # it took minutes


def test_words_without_spaces_are_cut_between_characters() -> None:
    """Never between a letter and its marks; a word longer than a chunk has to give way."""

    def count_characters(texts: Sequence[str]) -> list[int]:
        return [len(text) for text in texts]

    chunks = split(plain("漢字かな漢字"), 3, count_characters)
    assert texts(chunks) == ["漢字か", "な漢字"]
    for chunk in split(plain("กี่เก้าที่"), 4, count_characters):
        assert chunk.text[0] in "กทเ" and chunk.text[-1] != "เ"
    assert texts(split(plain("x" * 40), 2, count_words)) == ["x" * 10] * 4


def test_headings_lead_to_what_stands_below_them() -> None:
    """Their path is embedded with a chunk that they do not stand in, and counts as its tokens."""
    body = " ".join(["word"] * 14)
    text = f"# Guide\n\nHello.\n\n## Install\n\n{body}\n\n{body}\n\n## Use\n\n{body}\n"
    chunks = split(prose(text), 20, count_words)
    assert [(c.heading, c.text.split("\n")[0]) for c in chunks] == [
        ("", "# Guide"),
        ("Guide", "## Install"),
        ("Guide > Install", body),
        ("Guide", "## Use"),
    ]
    assert chunks[2].embedded == f"Guide > Install\n\n{body}"
    assert all(count_words([c.embedded])[0] <= 20 for c in chunks)


def test_small_sections_share_a_chunk() -> None:
    """A heading begins a new chunk only where the one before is half full."""
    text = "# A\n\none\n\n# B\n\ntwo\n\n# C\n\nthree four five six seven\n"
    assert texts(split(prose(text), 12, count_words)) == [
        "# A\n\none\n\n# B\n\ntwo",
        "# C\n\nthree four five six seven",
    ]
    assert len(split(prose(text), 30, count_words, whole=True)) == 1


def test_a_heading_stays_with_its_text() -> None:
    """It never ends a chunk whose next one begins with what it is the heading of."""
    long = " ".join(["word"] * 9)
    chunks = split(prose(f"one two three\n\n# Head\n\n{long}\n\n{long}\n"), 12, count_words)
    assert texts(chunks) == ["one two three", f"# Head\n\n{long}", long]


def test_a_whole_document_is_one_chunk_where_it_fits() -> None:
    """What is longer is cut as far as it must be."""
    text = "# A\n\n" + "\n\n".join(["word " * 9] * 4) + "\n\n# B\n\nend\n"
    assert [c.line for c in split(prose(text), 1000, count_words, whole=True)] == [1]
    assert len(split(prose(text), 22, count_words, whole=True)) == 2


SOURCE = '''import os


@cached
def first(a):
    return a


class Bird:
    """A bird."""

    def fly(self):
        return "up"

    def sing(self):
        return "la"


print(first(1))
'''


def test_code_is_cut_at_definitions() -> None:
    """With their decorators and indentation; the path tells what a chunk is inside of."""
    chunks = split(code.read(SOURCE.encode(), "bird", "text/x-py"), 18, count_words)
    assert [(c.heading, c.text.splitlines()[0]) for c in chunks] == [
        ("", "import os"),
        ("", "class Bird:"),
        ("Bird", "    def fly(self):"),
        ("Bird", "    def sing(self):"),
        ("", "print(first(1))"),
    ]
    assert all(c.text in SOURCE for c in chunks)
    names = [h.title for h in code.read(SOURCE.encode(), "", "").headings]
    assert names == ["first", "Bird", "fly", "sing", ""]


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("pub(crate) async fn run<T>(x: T) {", "run"),
        ("impl<T> Display for Bird<T> {", "impl<T> Display for Bird<T>"),
        ("func (b *Bird) Sing(x int) error {", "Sing"),
        ("export default class Bird extends Animal {", "Bird"),
        ("export const sing = async (x) => {", "sing"),
        ("static int compare(const void *a, const void *b)", "compare"),
        ("std::vector<int> Bird::sing(int x) {", "Bird::sing"),
        ("CREATE OR REPLACE FUNCTION public.sing(x int)", "public.sing"),
        ("deploy() {", "deploy"),
        ("module Birds", "Birds"),
    ],
)
def test_definitions_of_many_languages_are_known(line: str, name: str) -> None:
    """By their first line."""
    assert [h.title for h in code.read(f"{line}\n".encode(), "", "").headings] == [name]


@pytest.mark.parametrize("line", ["return first(1)", "print(x)", "x = call(y);", "if (a) {"])
def test_statements_are_no_definitions(line: str) -> None:
    """Calls and conditions do not name what follows."""
    assert code.read(f"{line}\n".encode(), "", "").headings == ()


def test_every_record_is_a_chunk() -> None:
    """However short; a long one is cut, and never shares a chunk."""
    table = b"name,text\nada,one two\nbob,a b c d e f g h i j k l\ncyd,x\n"
    chunks = split(records.read_table(table, "t", "text/csv"), 10, count_words)
    assert [c.line for c in chunks] == [2, 3, 3, 4]
    assert chunks[0].text == "name: ada\ntext: one two"


SYLLABLES = st.sampled_from(
    (
        *("# ", "## ", "\n", "\n\n", "a", "bc ", ". ", "。", "漢", "ก", "\u0301", "\u3000", "- "),
        *("    ", "def f():\n", "class C:\n", "}\n", "====\n", "| a | b |\n|---|---|\n", "x" * 30),
        "```\n",
    )
)


@pytest.mark.parametrize("reader", [markdown.read, rst.read, code.read])
@given(parts=st.lists(SYLLABLES, max_size=60), limit=st.integers(1, 16), whole=st.booleans())
def test_the_spans_of_chunks_rebuild_the_text(
    reader: object, parts: list[str], limit: int, whole: bool
) -> None:
    """Nothing but white space is lost, nothing doubled, each fits and stands where it says."""
    assert callable(reader)
    text = "".join(parts)
    document = reader(text.encode(), "name", "text/plain")
    assert document.text == text
    chunks = split(document, limit, count_words, whole=whole)
    lines = text.split("\n")
    position = 0
    for chunk in chunks:
        assert not text[position : chunk.start].strip()
        assert chunk.text == text[chunk.start : chunk.end]
        assert chunk.text.strip() and chunk.text == chunk.text.rstrip()
        assert count_words([chunk.embedded])[0] <= limit
        assert chunk.line == text.count("\n", 0, chunk.start) + 1
        assert chunk.end_line == chunk.line + chunk.text.count("\n")
        assert chunk.text in "\n".join(lines[chunk.line - 1 : chunk.end_line])
        position = chunk.end
    assert not text[position:].strip()
