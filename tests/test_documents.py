"""Files to text, and text to chunks."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harrier_edge.documents.chunk import split, title_of
from harrier_edge.documents.read import decode, find_files, read_bytes
from harrier_edge.errors import DocumentError


def count_words(texts: Sequence[str]) -> list[int]:
    """A tokenizer that a test can follow: words and marks, and every 8 letters of a long word."""
    return [len(re.findall(r"\w{1,8}|[^\w\s]", text)) for text in texts]


def test_a_folder_gives_its_text_files_once_and_sorted(tmp_path: Path) -> None:
    """Hidden files, other suffixes and folders that are named twice add nothing."""
    for name in ("b.md", "a/c.TXT", "a/d.png", ".hidden.md", ".git/e.md", "z.rst"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x", "utf-8")
    found = find_files([tmp_path, tmp_path / "a", tmp_path / "a" / ".." / "b.md"])
    assert found == [tmp_path / name for name in ("a/c.TXT", "b.md", "z.rst")]


def test_a_named_file_may_have_any_name(tmp_path: Path) -> None:
    """Suffixes and dots matter only in folders."""
    (tmp_path / ".notes").write_text("x", "utf-8")
    assert find_files([tmp_path / ".notes"]) == [tmp_path / ".notes"]


def test_a_circle_of_links_ends(tmp_path: Path) -> None:
    """A link to a folder above is not followed."""
    (tmp_path / "a.md").write_text("x", "utf-8")
    try:
        (tmp_path / "up").symlink_to(tmp_path, target_is_directory=True)
    except OSError:
        pytest.skip("links need a privilege here")
    assert find_files([tmp_path]) == [tmp_path / "a.md"]


def test_a_path_that_does_not_exist_is_named(tmp_path: Path) -> None:
    """A typing mistake is told before anything is indexed."""
    with pytest.raises(DocumentError, match=r"nowhere: no such file or folder"):
        find_files([tmp_path / "nowhere"])


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file names are Unicode")
def test_a_name_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    """A file whose name no index can hold is refused by itself, in words."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.md"))
    path.write_text("x", "utf-8")
    assert find_files([tmp_path]) == [path]
    with pytest.raises(DocumentError, match="name is not UTF-8"):
        read_bytes(path)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", ""),
        ("zwölf\r\nzwei\rdrei".encode(), "zwölf\nzwei\ndrei"),
        ("ä".encode("utf-8-sig"), "ä"),
        ("ä\n".encode("utf-16"), "ä\n"),
    ],
)
def test_text_is_decoded(data: bytes, text: str) -> None:
    """UTF-8, and UTF-16 that says so; any line ends."""
    assert decode(data) == text


@pytest.mark.parametrize(
    ("data", "reason"), [(b"ok \xff", r"not UTF-8 text \(byte 3\)"), (b"a\0b", "NUL bytes")]
)
def test_what_is_not_text_is_refused(data: bytes, reason: str) -> None:
    """The reason names the first byte that is wrong."""
    with pytest.raises(DocumentError, match=reason):
        decode(data)


def test_paragraphs_are_kept_whole_and_packed() -> None:
    """As many paragraphs as fit make a chunk, which knows its lines."""
    text = "# One\n\ntwo three\n\nfour five six\nseven\n\n\neight nine\n"
    chunks = split(text, 5, count_words)
    assert [(c.text, c.line, c.end_line) for c in chunks] == [
        ("# One\n\ntwo three", 1, 3),
        ("four five six\nseven", 5, 6),
        ("eight nine", 9, 9),
    ]


def test_a_long_paragraph_is_cut_at_lines_then_sentences_then_words() -> None:
    """The best cut that is fine enough is taken."""
    assert [c.text for c in split("a b c\nd e f", 3, count_words)] == ["a b c", "d e f"]
    assert [c.text for c in split("A b. C d e. F", 4, count_words)] == ["A b.", "C d e.", "F"]
    assert [c.text for c in split("a b c d e", 2, count_words)] == ["a b", "c d", "e"]
    assert [c.text for c in split("x" * 40, 2, count_words)] == ["x" * 10] * 4


@given(st.text("ab .\n#。\u3000", max_size=400), st.integers(1, 12))
def test_chunks_hold_all_of_a_text_in_order(text: str, limit: int) -> None:
    """Nothing but white space is lost, nothing doubled, each fits and stands where it says."""
    chunks = split(text, limit, count_words)
    assert "".join("".join(c.text for c in chunks).split()) == "".join(text.split())
    lines = text.split("\n")
    for chunk in chunks:
        assert chunk.text == chunk.text.strip() != ""
        assert count_words([chunk.text])[0] <= limit
        where = "\n".join(lines[chunk.line - 1 : chunk.end_line])
        assert chunk.text in where
        assert chunk.text.count("\n") == chunk.end_line - chunk.line


def test_the_title_is_the_first_heading() -> None:
    """Without one it is the default."""
    assert title_of("text\n## A *title* ##\n# Other", "name") == "A *title*"
    assert title_of("#no heading\ntext", "name") == "name"
