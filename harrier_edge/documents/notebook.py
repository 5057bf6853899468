"""Jupyter notebooks to a document: prose and code, without outputs."""

from __future__ import annotations

import json
from typing import Any

from harrier_edge.documents.document import Builder, Document, one_line
from harrier_edge.documents.markdown import outline
from harrier_edge.documents.text import decode, with_plain_lines
from harrier_edge.errors import DocumentError


def read(data: bytes, name: str, media_type: str) -> Document:
    """A notebook of format 3 or 4. Raises DocumentError where it is not one."""
    try:
        notebook = json.loads(decode(data))
        cells = [
            cell for sheet in notebook.get("worksheets", [notebook]) for cell in sheet["cells"]
        ]
        language = notebook.get("metadata", {}).get("kernelspec", {}).get("language") or ""
        language = one_line(str(language))
        sources = [(cell["cell_type"], _source(cell)) for cell in cells]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DocumentError(f"is not a Jupyter notebook ({error!r})") from error
    builder = Builder()
    for kind, source in sources:
        if kind == "markdown":
            headings, cuts = outline(source)
            builder.extend(Document(source, "", media_type, headings, (cuts,)))
        else:
            builder.block(source)
    title = builder.document("", media_type).title or name
    return builder.document(title, media_type, metadata={"language": language} if language else {})


def _source(cell: dict[str, Any]) -> str:
    source = cell["source"] if "source" in cell else cell["input"]
    return with_plain_lines(source if isinstance(source, str) else "".join(source))
