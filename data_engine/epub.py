"""EPUB books to text: the chapters of the spine in reading order (EPUB 3.3; EPUB 2 has the same three files)."""

import io
import posixpath
import zipfile
from urllib.parse import unquote

from lxml import etree

from data_engine.charset import decode
from data_engine.main_text import whole_text

_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"
_CHAPTERS = frozenset({"application/xhtml+xml", "text/html", "text/x-oeb1-document"})
_MOST_BYTES = 1 << 28
"""Of all chapters together, decompressed: a few kilobytes of zip can hold gigabytes."""

_NAMES = {
    "c": "urn:oasis:names:tc:opendocument:xmlns:container",
    "opf": "http://www.idpf.org/2007/opf",
    "dc": "http://purl.org/dc/elements/1.1/",
    "enc": "http://www.w3.org/2001/04/xmlenc#",
}


class BookError(Exception):
    """The book cannot be read: what is wrong with it."""


def read(payload: bytes) -> tuple[str, str]:
    """Text and rights statement of a book; chapters are separated by a blank line.

    Left out: navigation documents, and items that the spine says are not part of the reading order (linear="no").
    Raises BookError for a file that is no EPUB, is damaged, encrypted, or decompresses to too much.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(payload)) as book:
            package_path = _package_path(book)
            package = _xml(_content(book, package_path), package_path)
            chapters = _spine(package, posixpath.dirname(package_path))
            if locked := sorted(_encrypted(book) & set(chapters)):
                raise BookError(f"{locked[0]} is encrypted")
            left = _MOST_BYTES
            texts = []
            for path in chapters:
                content = _content(book, path, left)
                left -= len(content)
                texts.append(whole_text(decode(content)).strip())
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise BookError(f"not readable as EPUB: {error}") from None
    rights = ["".join(found.itertext()) for found in package.iterfind(".//dc:rights", _NAMES)]
    return "\n\n".join(text for text in texts if text), " ".join(" ".join(rights).split())


def _package_path(book: zipfile.ZipFile) -> str:
    root = _xml(_content(book, _CONTAINER), _CONTAINER).find(".//c:rootfile", _NAMES)
    path = root.get("full-path") if root is not None else None
    if not path:
        raise BookError(f"{_CONTAINER} names no package document")
    return unquote(path)


def _spine(package: etree._Element, folder: str) -> list[str]:
    """Paths of the chapters in reading order."""
    items = {item.get("id"): item for item in package.iterfind(".//opf:manifest/opf:item", _NAMES)}
    paths = []
    for reference in package.iterfind(".//opf:spine/opf:itemref", _NAMES):
        item = items.get(reference.get("idref"))
        if item is None or reference.get("linear") == "no" or "nav" in (item.get("properties") or "").split():
            continue
        if item.get("media-type") in _CHAPTERS:
            paths.append(posixpath.normpath(posixpath.join(folder, unquote(item.get("href") or ""))))
    if not paths:
        raise BookError("its spine names no chapter")
    return paths


def _encrypted(book: zipfile.ZipFile) -> set[str]:
    if _ENCRYPTION not in book.namelist():
        return set()
    references = _xml(_content(book, _ENCRYPTION), _ENCRYPTION).iterfind(".//enc:CipherReference", _NAMES)
    return {unquote(reference.get("URI") or "") for reference in references}


def _content(book: zipfile.ZipFile, path: str, most: int = _MOST_BYTES) -> bytes:
    try:
        with book.open(path) as file:
            content = file.read(most + 1)
    except KeyError:
        raise BookError(f"{path} is missing") from None
    if len(content) > most:
        raise BookError(f"it decompresses to more than {_MOST_BYTES:,} bytes")
    return content


def _xml(content: bytes, path: str) -> etree._Element:
    # no entities, no network: a book is no reason to open a file of this machine
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, recover=True)
    try:
        root = etree.fromstring(content, parser)
    except etree.XMLSyntaxError as error:
        raise BookError(f"{path} is no XML: {error}") from None
    if root is None:
        raise BookError(f"{path} is no XML")
    return root
