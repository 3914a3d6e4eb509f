"""Books and papers made for tests: EPUB files from chapters, PDF files from lines of text."""

import io
import zipfile

CONTAINER = (
    '<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
    '<rootfile full-path="OEBPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
)


def xhtml(body, head=""):
    """A chapter."""
    return f'<html xmlns="http://www.w3.org/1999/xhtml"><head><title>t</title>{head}</head><body>{body}</body></html>'


def epub(chapters, spine=None, rights="", more=None, opf_head=""):
    """The bytes of a book. chapters: {file name: (XHTML, attributes of its manifest item)}; spine: names in reading
    order, each a name or (name, attributes); more: further files of the zip; opf_head: before
    the package."""
    spine = list(chapters) if spine is None else spine
    items = "".join(
        f'<item id="{name}" href="text/{name.replace(" ", "%20")}" media-type="application/xhtml+xml" {attributes}/>'
        for name, (_, attributes) in chapters.items()
    )
    references = "".join(
        f'<itemref idref="{entry}"/>' if isinstance(entry, str) else f'<itemref idref="{entry[0]}" {entry[1]}/>'
        for entry in spine
    )
    opf = opf_head + (
        '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/" version="3.0">'
        f"<metadata><dc:title>A book</dc:title><dc:rights>{rights}</dc:rights></metadata>"
        f"<manifest>{items}</manifest><spine>{references}</spine></package>"
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as book:
        book.writestr(zipfile.ZipInfo("mimetype"), "application/epub+zip")
        book.writestr("META-INF/container.xml", CONTAINER)
        book.writestr("OEBPS/book.opf", opf)
        for name, (content, _) in chapters.items():
            book.writestr(f"OEBPS/text/{name}", content)
        for name, content in (more or {}).items():
            book.writestr(name, content)
    return buffer.getvalue()


def pdf(pages, password=None):
    """The bytes of a paper. pages: lists of lines in Latin-1, set in Helvetica."""
    from pypdf import PdfReader, PdfWriter

    objects = [b"<< /Type /Catalog /Pages 2 0 R >>"]
    numbers = [4 + 2 * number for number in range(len(pages))]
    kids = " ".join(f"{number} 0 R" for number in numbers)
    objects.append(f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode())
    objects.append(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>")
    for number, lines in zip(numbers, pages, strict=True):
        shown = b"".join(
            b"("
            + line.encode("latin-1").replace(b"\\", b"\\\\").replace(b"(", b"\\(").replace(b")", b"\\)")
            + b") Tj T* "
            for line in lines
        )
        stream = b"BT /F1 11 Tf 14 TL 72 760 Td " + shown + b"ET"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {number + 1} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>".encode()
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n".encode() + stream + b"\nendstream")
    out = bytearray(b"%PDF-1.4\n")
    offsets = []
    for number, content in enumerate(objects, 1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n".encode() + content + b"\nendobj\n"
    table = len(out)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode()
    out += b"".join(f"{offset:010d} 00000 n \n".encode() for offset in offsets)
    out += f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{table}\n%%EOF\n".encode()
    if password is None:
        return bytes(out)
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(bytes(out))))
    writer.encrypt(password, algorithm="RC4-128")
    buffer = io.BytesIO()
    writer.write(buffer)
    return buffer.getvalue()
