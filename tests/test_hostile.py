"""Files that were made, or broken, so that a parser fails: no reader but says so in its own way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harrier_edge.documents import read as module
from harrier_edge.documents.document import Document
from harrier_edge.documents.read import read_document
from harrier_edge.errors import DocumentError

SUFFIXES = (
    *(".md", ".html", ".rst", ".csv", ".tsv", ".jsonl", ".ipynb", ".eml", ".mbox", ".txt", ".py"),
)
# What their parsers take for the beginning of something.
PIECES = (
    *("\r", "\n", "\n\n", "\r\n", " ", "\t", "a", "é", "\x0c", "\x85", "\u2028", "\ufeff", "\\"),
    *("<", ">", "<!", "<![", "]]>", "<!--", "<p>", "</p", "<pre>", "<br>", "&#", "&#xd800;", "<?"),
    *("---\n", "title: ", "a: ", "!!bool ", "!!timestamp ", '!!int ""', "&a ", "*a", "[", "]"),
    *("{", "}", "# ", "> ", "- ", "1. ", "```", "| a |\n|--|", "====\n", ".. ", ":a: b\n", "0x"),
    *('"', '""', ",", ";", "null", "NaN", '{"cells": [', '"cell_type": "markdown", "source": "'),
    *("9" * 400, "From ", "From: ", "To: ", "Date: ", "Subject: ", "=?utf-8?b?", "?=", "(", "@"),
    *("Content-Type: ", "multipart/mixed; boundary=x\n\n--x\n", "text/plain", "message/rfc822"),
    *("; charset=", "*0*=", "Content-Disposition: attachment; filename", "uuencode"),
    *("Content-Transfer-Encoding: base64\n",),
)


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(parts=st.lists(st.sampled_from(PIECES).map(str.encode) | st.binary(max_size=4), max_size=30))
def test_whatever_bytes_a_file_has_it_is_read_or_refused(suffix: str, parts: list[bytes]) -> None:
    """A document that the index can store, or DocumentError."""
    try:
        document = read_document(Path(f"x{suffix}"), b"".join(parts))
    except DocumentError:
        return
    json.dumps(dict(document.metadata), ensure_ascii=False, allow_nan=False).encode()
    (document.text + document.title + "".join(one.title for one in document.headings)).encode()
    assert "\0" not in document.text + document.title


def test_any_error_of_a_reader_is_told_of_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """What no reader foresaw stops nothing else."""

    def broken(data: bytes, name: str, media_type: str) -> Document:
        raise AssertionError("we should not\nget here!")

    monkeypatch.setitem(module.FORMATS, ".md", ("text/markdown", broken))
    reason = r"^cannot be read as text/markdown \(AssertionError: we should not get here!\); repair"
    with pytest.raises(DocumentError, match=reason):
        read_document(Path("x.md"), b"")


@pytest.mark.parametrize(
    "front",
    [
        "a: !!bool foo",
        "a: !!timestamp x",
        'a: !!int ""',
        "a: &a [*a]",
        "a: &a {b: *a}",
        "a: [",
        "[" * 5000,
        "? [a]\n: b",
        "a: 0x" + "f" * 6000,
        "0x" + "f" * 6000 + ": a",
        '"\\ud800": a',
        'a: "\\ud800"',
        "a: .nan",
        "a: [[[[b]]]]",
    ],
)
def test_strange_front_matter_leaves_the_text_readable(front: str) -> None:
    """It may have no metadata, but hides nothing of what is below it."""
    text = f"---\n{front}\n---\n\n# Birds\n\nThey fly.\n"
    document = read_document(Path("x.md"), text.encode())
    assert (document.text, document.title) == (text, "Birds")
    json.dumps(dict(document.metadata), ensure_ascii=False, allow_nan=False).encode()


def test_front_matter_that_repeats_itself_takes_no_time() -> None:
    """A list of lists of lists, each a hundred times the one before, has no value for a filter."""
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 99)}]" for i in range(1, 9)]
    front = "\n".join(["title: Birds", "a0: &a0 [x]", *levels])
    document = read_document(Path("x.md"), f"---\n{front}\n---\n".encode())
    assert document.metadata["title"] == "Birds"


def test_html_with_a_broken_declaration_is_read() -> None:
    """As browsers do, which take it for a comment."""
    page = b"<p>if a <![0] then</p><p>b<![ foo>c</p><![CDATA[x]]><p>d <![if !x]>e<![endif]></p>"
    assert read_document(Path("x.html"), page).text == "if a\n\nbc\n\nd e\n\n"


@pytest.mark.parametrize("kind", ["markdown", "code"])
def test_notebooks_may_have_any_line_ends(kind: str) -> None:
    """Those of old Macs too, alone."""
    cell = {"cell_type": kind, "source": "# Birds\r\rThey\rfly.\r\n\r\n- a\r- b"}
    metadata = {"kernelspec": {"language": float("nan")}}
    data = json.dumps({"cells": [cell], "metadata": metadata}).encode()
    document = read_document(Path("x.ipynb"), data)
    assert document.text == "# Birds\n\nThey\nfly.\n\n- a\n- b\n\n"
    json.dumps(dict(document.metadata), allow_nan=False)
