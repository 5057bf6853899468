"""EPUB to a document: its chapters in reading order."""

from __future__ import annotations

import io
import posixpath
import zipfile
from urllib.parse import unquote
from xml.etree import ElementTree

from harrier_edge.documents.document import Builder, Document, one_line
from harrier_edge.documents.html import from_text
from harrier_edge.documents.text import decode
from harrier_edge.errors import DocumentError

# https://www.w3.org/TR/epub-33/: the container names the package, whose spine is the order.
_CONTAINER = "META-INF/container.xml"
_ROOT = "{urn:oasis:names:tc:opendocument:xmlns:container}rootfile"
_OPF = "{http://www.idpf.org/2007/opf}"
_DC = "{http://purl.org/dc/elements/1.1/}"


def read(data: bytes, name: str, media_type: str) -> Document:
    """An EPUB without DRM."""
    archive = zipfile.ZipFile(io.BytesIO(data))
    if "META-INF/rights.xml" in archive.namelist():
        raise DocumentError("protected by DRM")
    root = next(ElementTree.fromstring(archive.read(_CONTAINER)).iter(_ROOT), None)
    if root is None:
        raise DocumentError(f"{_CONTAINER} names no package")
    path = root.attrib["full-path"]
    package = ElementTree.fromstring(archive.read(path))
    files = {item.get("id"): item.get("href", "") for item in package.iter(f"{_OPF}item")}
    builder = Builder()
    for item in package.iter(f"{_OPF}itemref"):
        href = unquote(files.get(item.get("idref"), "")).partition("#")[0]
        if href:
            chapter = archive.read(
                posixpath.normpath(posixpath.join(posixpath.dirname(path), href))
            )
            builder.extend(from_text(decode(chapter), ""))
    metadata = {
        key: one_line(element.text)
        for key in ("creator", "language", "publisher", "date")
        if (element := next(package.iter(_DC + key), None)) is not None and element.text
    }
    title = next((element.text for element in package.iter(f"{_DC}title") if element.text), name)
    return builder.document(one_line(title), media_type, metadata=metadata)
