"""Pages that the project wrote itself: good prose in many languages, and everything that a build must catch.

They lie in planted/*.yaml; answer_key.yaml says what must become of each.
"""

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import yaml

from pages import layout

FOLDER = Path(__file__).parent.parent / "planted"
PREFIX = "/planted/"
_BESIDE = 8


@dataclass(frozen=True)
class Planted:
    """One page as served. charset: how its bytes are encoded."""

    url: str
    title: str
    language: str
    body: bytes
    charset: str


def read() -> list[Planted]:
    """All planted pages, by file and in the order written there. Raises ValueError when an edit finds nothing."""
    entries: dict[str, dict[str, Any]] = {}
    for file in sorted(FOLDER.glob("*.yaml")):
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        for entry in content["pages"]:
            entries[entry["path"]] = {"language": content["language"], **entry}
    links = [layout.Link(PREFIX + path, _title(entry, entries)) for path, entry in entries.items()]
    pages = []
    for number, (path, entry) in enumerate(entries.items()):
        start = max(0, min(number - _BESIDE // 2, len(links) - _BESIDE))
        beside = [link for link in links[start : start + _BESIDE] if link.url != PREFIX + path]
        charset = entry.get("charset", "utf-8")
        pages.append(
            Planted(
                url=PREFIX + path,
                title=_title(entry, entries),
                language=entry["language"],
                body=_body(entry, entries, beside).decode("utf-8").encode(charset, "xmlcharrefreplace"),
                charset=charset,
            )
        )
    return pages


def _title(entry: dict[str, Any], entries: dict[str, dict[str, Any]]) -> str:
    return str(entry.get("title") or (entries[entry["copy_of"]]["title"] if "copy_of" in entry else entry["path"]))


def _body(entry: dict[str, Any], entries: dict[str, dict[str, Any]], beside: list[layout.Link]) -> bytes:
    if "page" in entry:
        return str(entry["page"]).encode()
    title = _title(entry, entries)
    article = entry["html"] if "html" in entry else _paragraphs(_text(entry, entries))
    page = layout.page(title, f"<h1>{escape(title)}</h1>\n{article}", beside, entry["language"])
    # A page in another encoding leaves it to its header, or declares it: both happen on the web.
    declared = {"utf-8": "utf-8", "shift_jis": "shift_jis"}.get(entry.get("charset", "utf-8"))
    return page.replace(b'<meta charset="utf-8">', f'<meta charset="{declared}">'.encode() if declared else b"")


def _text(entry: dict[str, Any], entries: dict[str, dict[str, Any]]) -> str:
    """The paragraphs, each on one line, with blank lines between them; of a copy, with its edits."""
    source = entries[entry["copy_of"]] if "copy_of" in entry else entry
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in source["text"].split("\n\n"))
    for old, new in entry.get("edits", []):
        if text.count(old.strip()) != 1:
            raise ValueError(f"{entry['path']}: the edit {old!r} fits {text.count(old.strip())} places, not one")
        text = text.replace(old.strip(), new.strip())
    return text


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{escape(paragraph, quote=False)}</p>\n" for paragraph in text.split("\n\n"))
