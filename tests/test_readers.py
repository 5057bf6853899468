"""Files of every format to documents."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest

from harrier_edge.documents import child
from harrier_edge.documents.document import Document
from harrier_edge.documents.read import FORMATS, read_document
from harrier_edge.documents.text import decode
from harrier_edge.errors import DocumentError


def read(name: str, data: str | bytes) -> Document:
    """The document that a file of that name and content is."""
    return read_document(Path(name), data.encode() if isinstance(data, str) else data)


def place(document: Document, words: str) -> int:
    """Where the line that begins with `words` stands in the file."""
    number = next(i for i, line in enumerate(document.text.split("\n")) if line.startswith(words))
    return document.lines[number]


def titles(document: Document) -> list[tuple[int, str]]:
    """Levels and words of the headings."""
    return [(heading.level, heading.title) for heading in document.headings]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", ""),
        ("zwölf\r\nzwei\rdrei".encode(), "zwölf\nzwei\ndrei"),
        ("ä".encode("utf-8-sig"), "ä"),
        ("ä\n".encode("utf-16"), "ä\n"),
        ("ä\n".encode("utf-32"), "ä\n"),
    ],
)
def test_text_is_decoded(data: bytes, text: str) -> None:
    """UTF-8, and what says by its first bytes that it is something else; any line ends."""
    assert decode(data) == text


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "Der Zwölfkämpfer läuft über die Brücke und trägt fünf schöne Äpfel nach Köln."),
        ("cp1251", "Съешь ещё этих мягких французских булок, да выпей же чаю, сказал он ей."),
        ("shift_jis", "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。"),
        ("gb18030", "北京是中华人民共和国的首都，是全国的政治中心和文化中心，历史悠久。"),
    ],
)
def test_other_encodings_are_found(encoding: str, text: str) -> None:
    """Nobody has to convert old files."""
    assert decode(text.encode(encoding)) == text


@pytest.mark.parametrize(
    ("data", "reason"), [(b"a\0b", "NUL bytes"), (b"\xff\xfea", r"says that it is utf-16")]
)
def test_what_is_not_text_is_refused(data: bytes, reason: str) -> None:
    """The reason says what is wrong."""
    with pytest.raises(DocumentError, match=reason):
        decode(data)


def test_damaged_utf8_stays_utf8() -> None:
    """A bad byte among many good ones is lost alone, and does not make another text of the file."""
    text = "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich, 3 €. " * 20
    data = text.encode()
    assert decode(data + b"\xfc" + data) == f"{text}\ufffd{text}"
    assert decode(data + b"\xe2\x82") == f"{text}\ufffd"
    assert decode("\ufffd".encode() + data + b"\xfc") == f"\ufffd{text}\ufffd"


def test_markdown_has_headings_blocks_and_front_matter() -> None:
    """A mark in a code block is no heading; the front matter is metadata, and stays in the text."""
    front = "---\ntitle: Birds\ntags: [a, b]\nday: 2024-05-06\n---\n"
    text = front + "# One *two*\n\n```\n# no\n\n```\n\nA\n=\n"
    document = read("x.md", text)
    assert document.text == text
    assert titles(document) == [(1, "One *two*"), (1, "A")]
    assert document.title == "Birds"
    assert document.metadata == {"title": "Birds", "tags": ["a", "b"], "day": "2024-05-06"}
    assert [text[cut:].split("\n")[0] for cut in document.cuts[0]] == ["# One *two*", "```", "A"]
    assert read("x.md", "---\na: [\n---\ntext\n").metadata == {}
    assert read("plain.md", "no heading").title == "plain"


def test_rst_has_section_titles() -> None:
    """The order of the underlines is the order of levels; a short one underlines nothing."""
    document = read(
        "x.rst", "=====\nTitle\n=====\n\nPart\n----\n\nSub\n~~~\n\nPart 2\n------\n\nlong\n--\n"
    )
    assert titles(document) == [(1, "Title"), (2, "Part"), (3, "Sub"), (2, "Part 2")]
    assert read("p.rst", "PEP: 8\nTitle: Style\n\nIntro\n=====\n").metadata["pep"] == "8"


def test_html_gives_what_a_reader_sees() -> None:
    """With the lines of the file; scripts, styles and navigation are left out."""
    document = read(
        "x.html",
        "<title>Site &amp; more</title>\n<meta name=author content=Ada>\n<nav><a>Menu</a></nav>\n"
        "<h1>Birds\nfly</h1>\n<p>One <b>two</b>\nthree<p>Four<br>five\n<script>no()</script>\n"
        "<ul><li>a<li>b</ul>\n<table><tr><td>x<td>y</tr></table>\n<pre>if:\n    x</pre>",
    )
    assert document.title == "Site & more"
    assert document.metadata == {"author": "Ada"}
    assert document.text.split("\n\n")[:-1] == [
        "Birds fly",
        "One two three",
        "Four\nfive",
        "- a",
        "- b",
        "x | y",
        "if:\n    x",
    ]
    assert titles(document) == [(1, "Birds fly")]
    assert [place(document, words) for words in ("Birds", "One", "- b", "if:", "    x")] == [
        *(4, 6, 9),
        *(11, 12),
    ]


def test_html_tells_its_encoding() -> None:
    """By its declaration where it is not UTF-8."""
    data = '<meta charset="iso-8859-1"><p>Zwölf Boxkämpfer jagen Viktor quer über den Sylter Deich'
    assert "Zwölf Boxkämpfer" in read("x.html", data.encode("iso-8859-1")).text


def test_html_keeps_the_line_at_which_a_block_begins() -> None:
    """Empty pieces inside of a block do not move it, nor do those before it count."""
    one = "<p>\n<b> </b>\nOne\n<br>\n<br>\n<br>\ntwo</p>\n"
    document = read("x.html", f"{one}<pre>\n\nif:<i></i>\n\n<i>\n</i>    x</pre>")
    assert document.text == "One\n\n\ntwo\n\nif:\n\n\n    x\n\n"
    assert [place(document, words) for words in ("One", "two", "if:", "    x")] == [3, 3, 10, 13]


def test_notebooks_give_prose_and_code() -> None:
    """Outputs are left out, and text that no UTF-8 can hold is replaced."""
    cells = [
        {"cell_type": "markdown", "source": ["# Flight\n", "\n", "About \ud800 birds."]},
        {"cell_type": "code", "source": "fly(\n\n1)", "outputs": [{"text": "secret"}]},
    ]
    notebook = {"cells": cells, "metadata": {"kernelspec": {"language": "python"}}, "nbformat": 4}
    document = read("x.ipynb", json.dumps(notebook))
    assert document.text == "# Flight\n\nAbout \ufffd birds.\n\nfly(\n\n1)\n\n"
    assert (document.title, document.metadata) == ("Flight", {"language": "python"})
    with pytest.raises(DocumentError, match="not a Jupyter notebook"):
        read("x.ipynb", "[1]")


def test_tables_are_read_by_field() -> None:
    """Whatever the delimiter; a record is found at its line, quoted line ends or not."""
    document = read("x.csv", 'name;text\nada;"two\nlines"\n\nbob;b;extra\n')
    assert document.records
    assert document.text == "name: ada\ntext: two\nlines\n\nname: bob\ntext: b\nfield 3: extra\n\n"
    assert (place(document, "name: ada"), place(document, "name: bob")) == (2, 5)
    assert read("x.tsv", "a,b\tc\n1\t2\n").text == "a,b: 1\nc: 2\n\n"


def test_json_lines_are_read_by_field() -> None:
    """Fields in fields are named by their path; a broken line is named."""
    data = '{"a": 1, "by": {"name": "ada"}, "tags": ["x", "y"], "none": null}\n\n"bare"\n'
    document = read("x.jsonl", data)
    assert document.text == "a: 1\nby.name: ada\ntags: x, y\n\nbare\n\n"
    assert place(document, "bare") == 3
    with pytest.raises(DocumentError, match=r"not JSON Lines \(line 2"):
        read("x.jsonl", "{}\n{")


MESSAGE = b"""From: Ada <ada@example.org>
To: Bob <bob@example.org>
Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?= from
 the sea
Date: Mon, 6 May 2024 07:08:09 +0200
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=X

--X
Content-Type: text/html; charset=iso-8859-1
Content-Transfer-Encoding: quoted-printable

<p>Sch=F6n hier.</p><p>Bye</p>
--X
Content-Type: application/pdf; name=map.pdf
Content-Disposition: attachment; filename=map.pdf

JVBERi0=
--X--
"""


def test_mail_gives_headers_and_body() -> None:
    """Decoded; attachments by their names."""
    document = read("x.eml", MESSAGE)
    assert document.title == "Grüße from the sea"
    assert "Schön hier.\n\nBye\n\nAttachments: map.pdf" in document.text
    assert document.metadata["date"] == "2024-05-06T07:08:09+02:00"
    assert document.metadata["from"] == "Ada <ada@example.org>"


def test_a_mailbox_gives_its_messages() -> None:
    """Each a section at its line; a quoted From line does not end one."""
    box = b"From a Mon May  6\nSubject: One\n\n>From here\nhello\n\nFrom b Mon May  6\n" + MESSAGE
    document = read("x.mbox", box)
    assert titles(document) == [(1, "One"), (1, "Grüße from the sea")]
    assert "From here\nhello" in document.text
    assert (place(document, "One"), place(document, "Grüße")) == (1, 7)
    with pytest.raises(DocumentError, match="not a mailbox"):
        read("x.mbox", "hello")


def pdf(*pages: str) -> bytes:
    """A PDF with a line of text on each page."""
    kids = " ".join(f"{i} 0 R" for i in range(4, 4 + 2 * len(pages), 2))
    objects = [
        "<</Type/Catalog/Pages 2 0 R>>",
        f"<</Type/Pages/Kids[{kids}]/Count {len(pages)}>>",
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    for text in pages:
        stream = f"BT /F1 12 Tf 50 700 Td ({text}) Tj ET"
        objects.append(
            "<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Resources<</Font<</F1 3 0 R>>>>"
            f"/Contents {len(objects) + 2} 0 R>>"
        )
        objects.append(f"<</Length {len(stream)}>>stream\n{stream}\nendstream")
    data, offsets = "%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(data))
        data += f"{number} 0 obj{body}endobj\n"
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    trailer = f"trailer<</Size {size}/Root 1 0 R>>startxref\n{len(data)}\n%%EOF"
    return f"{data}xref\n0 {size}\n0000000000 65535 f \n{table}{trailer}".encode()


def test_pdf_gives_its_pages() -> None:
    """A line is found by its page; pictures without text and damaged files are told apart."""
    document = read("paper.pdf", pdf("Gannets dive", "Terns hover"))
    assert document.text == "Gannets dive\n\nTerns hover\n\n"
    assert document.lines[:3:2] == (1, 2)
    assert (document.title, document.metadata["pages"]) == ("paper", 2)
    with pytest.raises(DocumentError, match="pictures without text"):
        read("scan.pdf", pdf(""))
    with pytest.raises(DocumentError, match="is damaged or protected"):
        read("x.pdf", b"%PDF-1.4 no")


def test_docx_gives_headings_paragraphs_and_tables() -> None:
    """In the order of the file."""
    docx = pytest.importorskip("docx")
    file = docx.Document()
    file.core_properties.author = "Ada"
    file.add_heading("Birds", 1)
    file.add_paragraph("They fly.")
    table = file.add_table(1, 2)
    table.cell(0, 0).text, table.cell(0, 1).text = "a", "b"
    file.add_heading("Gulls", 2)
    out = io.BytesIO()
    file.save(out)
    document = read("x.docx", out.getvalue())
    assert document.text == "Birds\n\nThey fly.\n\na | b\n\nGulls\n\n"
    assert titles(document) == [(1, "Birds"), (2, "Gulls")]
    assert document.metadata["author"] == "Ada"


def test_pptx_gives_slides() -> None:
    """Titles are headings, and a line is found by its slide; notes count."""
    pptx = pytest.importorskip("pptx")
    file = pptx.Presentation()
    for number in (1, 2):
        slide = file.slides.add_slide(file.slide_layouts[1])
        slide.shapes.title.text = f"Bird {number}"
        slide.placeholders[1].text = f"It flies {number}"
        slide.notes_slide.notes_text_frame.text = f"Pause {number}"
    out = io.BytesIO()
    file.save(out)
    document = read("x.pptx", out.getvalue())
    assert titles(document) == [(1, "Bird 1"), (1, "Bird 2")]
    assert place(document, "It flies 2") == place(document, "Pause 2") == 2


def epub(**chapters: str) -> bytes:
    """A book with these chapters, in reverse order in its manifest."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "META-INF/container.xml",
            '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
            '<rootfile full-path="OEBPS/book.opf"/></rootfiles></container>',
        )
        items = "".join(f'<item id="{n}" href="{n}.xhtml"/>' for n in reversed(chapters))
        spine = "".join(f'<itemref idref="{n}"/>' for n in chapters)
        archive.writestr(
            "OEBPS/book.opf",
            '<package xmlns="http://www.idpf.org/2007/opf"><metadata '
            'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>Moby</dc:title>'
            f"</metadata><manifest>{items}</manifest><spine>{spine}</spine></package>",
        )
        for name, text in chapters.items():
            archive.writestr(f"OEBPS/{name}.xhtml", text)
    return out.getvalue()


def test_epub_gives_chapters_in_reading_order() -> None:
    """The spine's order, with the book's own title."""
    document = read("x.epub", epub(b="<h1>Loomings</h1><p>Call me.</p>", a="<h1>Bag</h1>"))
    assert titles(document) == [(1, "Loomings"), (1, "Bag")]
    assert document.title == "Moby"
    with pytest.raises(DocumentError, match="is damaged"):
        read("x.epub", b"PK")


def test_a_file_that_unpacks_to_too_much_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader has no more memory and no more time than it is given."""
    bomb = epub(a="<p>" + "a" * 2**28)
    assert len(bomb) < 2**20
    monkeypatch.setattr(child, "MEMORY_BYTES", 2**28)
    with pytest.raises(DocumentError, match="takes more than 256 MB of memory"):
        read("x.epub", bomb)
    monkeypatch.setattr(child, "TIMEOUT_SECONDS", 0.01)
    with pytest.raises(DocumentError, match="takes more than 0 seconds"):
        read("x.epub", bomb)


def test_every_format_takes_an_empty_file_or_says_why_not() -> None:
    """Nothing but DocumentError, whatever the suffix."""
    for suffix in {*FORMATS} - set(child.FORMATS) - {".ipynb"}:
        assert read(f"x{suffix}", b"").text == ""
    for suffix in (*child.FORMATS, ".ipynb"):
        with pytest.raises(DocumentError):
            read(f"x{suffix}", b"")
