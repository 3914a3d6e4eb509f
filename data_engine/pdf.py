"""PDF papers to text with pypdf: pages in order, words that a line end cuts put together."""

import io
import re

_CUT_WORD = re.compile(r"(\w\w)-\n(?=[a-zà-öø-ÿа-я])")
"""A hyphen at a line's end before a small letter; `two-\\nDimensional` and `1990-\\n1995` keep theirs."""

_LIGATURES = {0xFB00: "ff", 0xFB01: "fi", 0xFB02: "fl", 0xFB03: "ffi", 0xFB04: "ffl", 0xFB05: "st", 0xFB06: "st"}


class PaperError(Exception):
    """The paper cannot be read: what is wrong with it."""


def read(payload: bytes) -> str:
    """The text of all pages, a blank line between them; empty where pages are pictures of text.

    Raises PaperError when it is encrypted with a password or pypdf cannot make sense of it.
    """
    from pypdf import PdfReader
    from pypdf.errors import DependencyError, PyPdfError

    try:
        reader = PdfReader(io.BytesIO(payload))
        if reader.is_encrypted and not reader.decrypt(""):
            raise PaperError("it is encrypted with a password")
        pages = [page.extract_text() for page in reader.pages]
    except DependencyError as error:
        raise PaperError(f"it is encrypted: {error}") from None
    except PyPdfError as error:
        raise PaperError(f"not readable as PDF: {error}") from None
    return joined(pages)


def joined(pages: list[str]) -> str:
    """Pages to one text."""
    text = "\n\n".join(page.strip() for page in pages if page.strip())
    return _CUT_WORD.sub(r"\1", text.translate(_LIGATURES))
