"""Pages of installed distributions: the description that each project gives of itself, and its licence files."""

import re
from dataclasses import dataclass
from html import escape
from importlib import metadata
from pathlib import Path

from markdown_it import MarkdownIt

from pages import docstring_html

_LICENCE_NAME = re.compile(r"^(licen[cs]e|copying|copyright|notice|authors)", re.IGNORECASE)
_TEXT_SUFFIXES = {"", ".txt", ".md", ".rst", ".apache", ".bsd", ".mit", ".psf", ".apache2"}
_MAX_CHARACTERS = 40_000
_LOCAL_REFERENCE = re.compile(r"""\s(?:href|src|srcset)=(["'])(?!https?://)[^"']*\1""")
_ACTIVE = re.compile(r"<(script|style|iframe)\b.*?</\1>", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Text:
    """A page's title and the HTML of its article."""

    slug: str
    title: str
    article: str


def _distributions(limit: int | None) -> list[tuple[str, metadata.Distribution]]:
    """Installed distributions by normal name, each once; this project itself is left out."""
    found: dict[str, metadata.Distribution] = {}
    for distribution in metadata.distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"] or "").lower()
        if name and name != "raymill":
            found.setdefault(name, distribution)
    return sorted(found.items())[:limit]


def descriptions(limit: int | None = None) -> list[Text]:
    """The long description of each distribution that has one, sorted by name."""
    texts = []
    for name, distribution in _distributions(limit):
        about = distribution.metadata
        body = about.get_payload() if hasattr(about, "get_payload") else ""
        description = (about.get("Description") or (body if isinstance(body, str) else "")).strip()
        summary = " ".join((about.get("Summary") or "").split())
        if len(description.split()) < 40:
            continue
        description = description[:_MAX_CHARACTERS]
        markdown = "markdown" in (about.get("Description-Content-Type") or "text/markdown").lower()
        html = _from_markdown(description) if markdown else docstring_html.render(description)
        lead = f"<p>{escape(summary)}</p>\n" if summary else ""
        texts.append(Text(name, f"{name} {distribution.version}", f"<h1>{escape(name)}</h1>\n{lead}{html}"))
    return texts


def _from_markdown(text: str) -> str:
    """HTML without scripts, and without links and images that would lead to places which this site does not have."""
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    return _LOCAL_REFERENCE.sub("", _ACTIVE.sub("", html))


def licences(limit: int | None = None) -> list[Text]:
    """Every licence file of each distribution, sorted: many differ in a name and a year only."""
    texts = []
    for name, distribution in _distributions(limit):
        paths = [path for path in distribution.files or [] if _is_licence(path)]
        for number, path in enumerate(sorted(paths, key=str)):
            file = Path(str(distribution.locate_file(path)))
            try:
                content = file.read_text(encoding="utf-8")[:_MAX_CHARACTERS]
            except (OSError, UnicodeDecodeError):
                continue
            if len(content.split()) < 40:
                continue
            paragraphs = (" ".join(part.split()) for part in re.split(r"\n\s*\n", content))
            html = "".join(f"<p>{escape(paragraph)}</p>\n" for paragraph in paragraphs if paragraph)
            title = f"Licence of {name}" if number == 0 else f"Licence of {name}, file {number + 1}"
            texts.append(Text(f"{name}-{number + 1}", title, f"<h1>{escape(title)}</h1>\n{html}"))
    return texts


def _is_licence(path: metadata.PackagePath) -> bool:
    in_metadata = any(part.endswith(".dist-info") for part in path.parts)
    return in_metadata and bool(_LICENCE_NAME.match(path.name)) and path.suffix.lower() in _TEXT_SUFFIXES
