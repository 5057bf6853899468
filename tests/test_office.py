"""DOCX: what stands in more than plain paragraphs."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from harrier_edge.documents.document import Document
from harrier_edge.documents.read import read_document

docx = pytest.importorskip("docx")
NAMESPACES = (
    'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main" '
    'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006" '
    'xmlns:v="urn:schemas-microsoft-com:vml"'
)


def read(file: Any) -> Document:
    """The document that a file of python-docx is."""
    out = io.BytesIO()
    file.save(out)
    return read_document(Path("x.docx"), out.getvalue())


def add(file: Any, xml: str) -> None:
    """Add WordprocessingML at the end of a file."""
    root = docx.oxml.parse_xml(f"<w:body {NAMESPACES}>{xml}</w:body>")
    for element in list(root):
        file.element.body.insert(len(file.element.body) - 1, element)  # sectPr stays the last


def run(text: str) -> str:
    """Text as a run of WordprocessingML."""
    return f'<w:r><w:t xml:space="preserve">{text}</w:t></w:r>'


def control(xml: str) -> str:
    """WordprocessingML in a content control."""
    return f"<w:sdt><w:sdtPr/><w:sdtContent>{xml}</w:sdtContent></w:sdt>"


def test_text_in_other_elements_is_read() -> None:
    """Of tracked changes what is inserted, fields, tags and content controls in a line."""
    file = docx.Document()
    deleted = '<w:del w:id="2" w:author="A"><w:r><w:delText>gone</w:delText></w:r></w:del>'
    add(
        file,
        '<w:p><w:pPr><w:tabs><w:tab w:val="left" w:pos="9"/></w:tabs></w:pPr>'
        f'{run("a ")}<w:ins w:id="1" w:author="A">{run("b ")}</w:ins>{deleted}'
        f'<w:fldSimple w:instr="DATE">{run("c ")}</w:fldSimple>'
        f'<w:smartTag w:element="city">{run("d ")}</w:smartTag>'
        f"{control(run('e '))}"
        f'<w:hyperlink w:anchor="x">{run("f")}</w:hyperlink>'
        "<w:r><w:tab/><w:t>g</w:t><w:br/><w:t>h</w:t><w:cr/><w:t>i</w:t></w:r></w:p>",
    )
    assert read(file).text == "a b c d e f\tg\nh\ni\n\n"


def test_blocks_in_content_controls_are_read() -> None:
    """Headings among them, and rows and cells of tables, in the order of the file."""
    file = docx.Document()
    heading = f'<w:p><w:pPr><w:pStyle w:val="Heading1"/></w:pPr>{run("Birds")}</w:p>'
    fly, x, y, after = (f"<w:p>{run(text)}</w:p>" for text in ("They fly.", "x", "y", "after"))
    row = f"<w:tr><w:tc>{x}</w:tc>{control(f'<w:tc>{y}</w:tc>')}</w:tr>"
    file.add_paragraph("before")
    add(file, control(f"{heading}{control(fly)}<w:tbl>{control(row)}</w:tbl>") + after)
    document = read(file)
    assert document.text == "before\n\nBirds\n\nThey fly.\n\nx | y\n\nafter\n\n"
    assert [one.title for one in document.headings] == ["Birds"]


def test_a_text_box_is_read_once() -> None:
    """A file has its text twice, for new and for old programs."""
    file = docx.Document()
    box = f"<w:txbxContent><w:p>{run('One')}</w:p><w:p>{run('two')}</w:p></w:txbxContent>"
    add(
        file,
        f"<w:p><w:r><mc:AlternateContent><mc:Choice>{box}</mc:Choice><mc:Fallback><w:pict>"
        f"<v:textbox>{box}</v:textbox></w:pict></mc:Fallback></mc:AlternateContent></w:r></w:p>",
    )
    assert read(file).text == "One\ntwo\n\n"


def test_tables_keep_all_their_text_and_repeat_none() -> None:
    """A merged cell is told once, a long one whole, and a table in a cell with it."""
    file = docx.Document()
    table = file.add_table(3, 3)
    table.cell(0, 0).merge(table.cell(0, 1)).text = "wide"
    table.cell(0, 2).merge(table.cell(2, 2)).text = "high"
    table.cell(1, 0).text = "long " * 100
    inner = table.cell(2, 1).add_table(1, 2)
    inner.cell(0, 0).text, inner.cell(0, 1).text = "c", "d"
    lines = read(file).text.rstrip().split("\n")
    assert lines[0] == "wide | high"
    assert lines[1].split(" | ")[0] == ("long " * 100).strip()
    assert "c | d" in lines[2]
    assert "high" not in lines[1] + lines[2]
