"""Licences as SPDX expressions: from a tag in a file, a licence's own text, or a Creative Commons address."""

import os
import re
from collections.abc import Iterator, Mapping

UNKNOWN = "NOASSERTION"
"""SPDX 2.3, 7.13: there is a licence, and which one cannot be told."""

_TAG = re.compile(r"SPDX-License-Identifier:[ \t]*([A-Za-z0-9.+() \-]{2,200})")
_EXPRESSION = re.compile(r"\(?[A-Za-z0-9][A-Za-z0-9.+-]*\)?(?:\s+(?:AND|OR|WITH)\s+\(*[A-Za-z0-9][A-Za-z0-9.+-]*\)*)*")
_HEAD = 8192

_FILE = re.compile(r"(?:un)?licen[cs]e|copying", re.IGNORECASE)
_FILE_ENDINGS = ("", ".txt", ".md", ".rst", ".markdown", ".html", ".lesser", ".lib")
_CHOICE = re.compile(r"licen[cs]e[-_.](?!txt|md|rst|markdown|html)", re.IGNORECASE)

_CC = re.compile(r"creativecommons\.org/(?:licenses/([a-z-]+)/(\d\.\d)|publicdomain/(zero)/1\.0)", re.IGNORECASE)
_LINK = re.compile(rb"""<(?:a|link)\b[^>]{0,500}?\brel\s*=\s*["']?license\b[^>]{0,500}>""", re.IGNORECASE)
_HREF = re.compile(rb"""\bhref\s*=\s*["']?([^"'\s>]{1,500})""", re.IGNORECASE)

# What a text must begin with, in its first words: the names of GNU licences also occur within one another.
_TITLES = {
    "gnu affero general public license version 3": "AGPL-3.0",
    "gnu lesser general public license version 3": "LGPL-3.0",
    "gnu lesser general public license version 2.1": "LGPL-2.1",
    "gnu library general public license version 2": "LGPL-2.0",
    "gnu general public license version 3": "GPL-3.0",
    "gnu general public license version 2": "GPL-2.0",
    "apache license version 2.0": "Apache-2.0",
    "mozilla public license version 2.0": "MPL-2.0",
    "mozilla public license 2.0": "MPL-2.0",
    "eclipse public license v 2.0": "EPL-2.0",
    "eclipse public license v 1.0": "EPL-1.0",
    "boost software license version 1.0": "BSL-1.0",
    "european union public licence v. 1.2": "EUPL-1.2",
    "python software foundation license version 2": "PSF-2.0",
    "do what the fuck you want to public license": "WTFPL",
    "cc0 1.0 universal": "CC0-1.0",
    "attribution sharealike 4.0 international": "CC-BY-SA-4.0",
    "attribution noncommercial sharealike 4.0 international": "CC-BY-NC-SA-4.0",
    "attribution noncommercial 4.0 international": "CC-BY-NC-4.0",
    "attribution 4.0 international": "CC-BY-4.0",
}
_TITLE_WORDS = 60

# Licences without a title that can be relied upon: every phrase must occur, the first of them near the beginning (a
# file that collects the licences of many parts is none of them). The one that begins first is taken,
# then the first of this list.
_FIRST_PHRASE_WORDS = 300
_PHRASES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("PSF-2.0", ("python software foundation",
                 "python software foundation license version 2", "psf is making python available")),
    ("MIT-CMU", ("by obtaining using and or copying this software", "without specific written prior permission")),
    ("Unlicense", ("this is free and unencumbered software released into the public domain",)),
    ("MIT", ("permission is hereby granted free of charge to any person obtaining a copy",
             "permission notice shall be included in all copies or substantial portions")),
    ("MIT-0", ("permission is hereby granted free of charge to any person obtaining a copy",)),
    ("ISC", ("distribute this software for any purpose with or without fee is hereby granted",
             "permission notice appear in all copies")),
    ("0BSD", ("distribute this software for any purpose with or without fee is hereby granted",)),
    ("Zlib", ("altered source versions must be plainly marked as such",
              "the origin of this software must not be misrepresented")),
    ("BSD-4-Clause", ("redistribution and use in source and binary forms", "all advertising materials mentioning")),
    ("BSD-3-Clause", ("redistribution and use in source and binary forms", "to endorse or promote products derived")),
    ("BSD-2-Clause", ("redistribution and use in source and binary forms", "redistributions in binary form must")),
    ("Apache-2.0", ("licensed under the apache license version 2.0",)),
)  # fmt: skip


def of_source_file(head: str) -> str:
    """The expression of an `SPDX-License-Identifier:` tag in the first 8,192 characters of a file, else empty."""
    tag = _TAG.search(head[:_HEAD])
    expression = _EXPRESSION.match(tag.group(1).strip()) if tag is not None else None
    return " ".join(expression.group().split()) if expression is not None else ""


def of_text(text: str) -> str:
    """The SPDX id of a licence's text: a tag, a title, or its key phrases. `NOASSERTION` when it is none of them.

    GPL-3.0 and its like stand without -only or -or-later: the text of the licence does not say which.
    """
    if tagged := of_source_file(text):
        return tagged
    words = re.sub(r"[^a-z0-9.]+", " ", text.lower()).replace(". ", " ").split()
    title = " ".join(words[:_TITLE_WORDS])
    found = [(title.find(phrase), -len(phrase), name) for phrase, name in _TITLES.items() if phrase in title]
    if found:
        return min(found)[2]
    begin, whole = " ".join(words[:_FIRST_PHRASE_WORDS]), " ".join(words)
    fits = [
        (begin.find(first), place, name)
        for place, (name, (first, *rest)) in enumerate(_PHRASES)
        if first in begin and all(phrase in whole for phrase in rest)
    ]
    return min(fits)[2] if fits else UNKNOWN


def of_address(text: str) -> str:
    """The SPDX id of a Creative Commons address within `text`, else `text` itself on one line."""
    found = _CC.search(text)
    if found is None:
        return " ".join(text.split())
    kind, version, zero = found.groups()
    return "CC0-1.0" if zero else f"CC-{kind.upper()}-{version}"


def of_page(payload: bytes) -> str:
    """What a page's `rel="license"` link points to (a microformat that Creative Commons' own markup uses), or empty."""
    link = _LINK.search(payload)
    address = _HREF.search(link.group()) if link is not None else None
    return of_address(address.group(1).decode("utf-8", "replace")) if address is not None else ""


# --- licence files in a tree of source code -------------------------------------------------------------------------


def is_licence_file(name: str) -> bool:
    """Whether a file of this name holds a licence: LICENSE, LICENCE.md, LICENSE-MIT, COPYING.LESSER, UNLICENSE."""
    ending = os.path.splitext(name)[1].lower()
    return _FILE.match(name) is not None and (ending in _FILE_ENDINGS or ending[1:].isdigit())


def folder_of(path: str) -> str:
    """The folder of a file, local or not."""
    return path.rpartition("/")[0]


def folders_above(path: str, root: str) -> Iterator[str]:
    """The folder of a file and those above it, nearest first, not beyond `root`."""
    folder, top = folder_of(path), root.rstrip("/")
    while True:
        yield folder
        if folder in ("", top) or not folder.startswith(top):
            return
        folder = folder_of(folder)


def of_folder(texts: Mapping[str, str]) -> str:
    """The expression for the licence files of one folder, by name: LICENSE-MIT beside LICENSE-APACHE leave a choice,
    other files hold together."""
    choices = {of_text(text) for name, text in texts.items() if _CHOICE.match(name)}
    all_of = {of_text(text) for name, text in texts.items() if not _CHOICE.match(name)}
    choice = " OR ".join(sorted(choices))
    if choices and all_of - choices:
        return " AND ".join(sorted([*(all_of - choices), f"({choice})" if len(choices) > 1 else choice]))
    return choice if choices else " AND ".join(sorted(all_of))
