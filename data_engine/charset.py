"""Bytes of a page to text: byte-order mark, declared charset, UTF-8, then detection."""

import codecs
import re
from collections.abc import Iterator
from functools import lru_cache

from charset_normalizer import from_bytes

_META = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([a-zA-Z0-9_:.\-]{2,40})""", re.IGNORECASE)
_XML = re.compile(rb"""^\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([a-zA-Z0-9_:.\-]{2,40})""", re.IGNORECASE)
_PRESCAN_BYTES = 4096
_DETECT_BYTES = 1 << 16
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))

# The WHATWG Encoding Standard reads these labels as their Windows supersets; so does every browser.
_SUPERSETS = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
}
_LABELS = {"x-sjis": "cp932", "windows-31j": "cp932", "x-gbk": "gb18030", "x-x-big5": "big5hkscs", "x-cp1251": "cp1251"}


def decode(payload: bytes, declared: str | None = None, html: bool = True) -> str:
    """The text of a page, or of something else. declared: the transport's charset. Never fails: what fits no charset is
    replaced.

    What is not HTML and is valid UTF-8 beyond ASCII is UTF-8: a manual or source code may mention charsets. HTML goes
    by what is declared, but where each byte would be a letter of its own, valid UTF-8 wins here too: text of single
    bytes hardly ever is valid UTF-8, while servers and templates that declare a default are common.
    """
    mark, marked = _mark(payload, declared)
    if marked is not None:
        return payload[len(mark) :].decode(marked, "replace")
    utf8 = None if html or payload.isascii() else _as_utf8(payload)
    if utf8 is not None:
        return utf8
    for label in _labels(payload, declared):
        encoding = _known(label)
        if encoding is None:
            continue
        try:
            text = payload.decode(encoding)
        except UnicodeError:
            continue
        single_bytes = len(text) == len(payload) and not payload.isascii()
        utf8 = _as_utf8(payload) if single_bytes else None
        return text if utf8 is None else utf8
    utf8 = _as_utf8(payload)
    if utf8 is not None:
        return utf8
    # a wrong byte or two in a page that says what it is: believe the page
    first = next((encoding for encoding in map(_known, _labels(payload, declared)) if encoding), None)
    if first is not None:
        return payload.decode(first, "replace")
    best = from_bytes(payload[:_DETECT_BYTES]).best()
    return payload.decode(best.encoding if best is not None else "cp1252", "replace")


def _labels(payload: bytes, declared: str | None) -> Iterator[str | None]:
    """What says a charset, in the order in which it is believed; the page is searched only when it comes to that."""
    yield declared
    head = payload[:_PRESCAN_BYTES]
    for pattern in (_XML, _META):
        found = pattern.search(head)
        yield found.group(1).decode("ascii") if found else None


def _mark(payload: bytes, declared: str | None) -> tuple[bytes, str | None]:
    """The byte-order mark and what it says. A transport that says UTF-16 is believed without one where the bytes agree:
    markup in UTF-16 is every other byte zero."""
    for mark, marked in _MARKS:
        if payload.startswith(mark):
            return mark, marked
    if (declared or "").lower().startswith("utf-16") and b"\0" in payload[:_PRESCAN_BYTES]:
        return b"", "utf-16-be" if payload.startswith(b"\0") else "utf-16-le"
    return b"", None


def _as_utf8(payload: bytes) -> str | None:
    try:
        return payload.decode("utf-8")
    except UnicodeDecodeError:
        return None


@lru_cache(1 << 10)
def _known(label: str | None) -> str | None:
    """Python's name for a text encoding's label; None for one that it does not know or that encodes no text."""
    if not label:
        return None
    try:
        info = codecs.lookup(_LABELS.get(label.lower(), label))
    except (LookupError, ValueError):  # ValueError: a NUL or a lone surrogate in it
        return None
    # a page that was read as ASCII up to its meta tag is no UTF-16, whatever the tag says
    if not getattr(info, "_is_text_encoding", True) or info.name.startswith(("utf-16", "undefined")):
        return None
    return _SUPERSETS.get(info.name, info.name)


def tidy(text: str) -> str:
    """Line ends as '\\n', no NUL, no lone surrogate: what Arrow and every later step can hold."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\x00" in text:
        text = text.replace("\x00", "")
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
