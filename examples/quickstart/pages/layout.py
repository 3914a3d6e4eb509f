"""The frame of every page: header, navigation, article, footer."""

from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Link:
    """An address on this site and its text."""

    url: str
    text: str

    def html(self) -> str:
        """An anchor."""
        return f'<a href="{escape(self.url)}">{escape(self.text)}</a>'


SITE = "Quickstart reference"
ABOUT = Link("/about.html", "About this site")
SECTIONS = [
    Link("/standard/", "Standard library"),
    Link("/packages/", "Packages"),
    Link("/projects/", "Projects"),
    Link("/licences/", "Licences"),
    Link("/planted/", "Reading room"),
]


def page(title: str, article: str, beside: list[Link], language: str = "en", head: str = "") -> bytes:
    """A whole page. article: HTML of the main part; beside: links of the sidebar; head: more of `<head>`."""
    sections = "".join(f"<li>{link.html()}</li>" for link in SECTIONS)
    sidebar = "".join(f"<li>{link.html()}</li>" for link in beside)
    aside = f'<aside class="sidebar"><ul>{sidebar}</ul></aside>\n' if beside else ""
    return f"""<!DOCTYPE html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<title>{escape(title)} - {SITE}</title>
{head}</head>
<body>
<header><a href="/">{SITE}</a>
<nav><ul>{sections}</ul></nav></header>
<main>
<article>
{article}</article>
</main>
{aside}<footer><p>Made from the documentation of installed packages. {ABOUT.html()}</p></footer>
</body>
</html>
""".encode()


def listing(title: str, links: list[Link], beside: list[Link]) -> bytes:
    """A page of links."""
    items = "".join(f"<li>{link.html()}</li>\n" for link in links)
    return page(title, f"<h1>{escape(title)}</h1>\n<ul>\n{items}</ul>\n", beside)


def listings(base: str, title: str, links: list[Link], per_page: int) -> dict[str, bytes]:
    """Links on as many pages as they need, by URL: `base` itself lists the parts when there are several."""
    parts = [links[begin : begin + per_page] for begin in range(0, len(links), per_page)]
    if len(parts) <= 1:
        return {base: listing(title, links, [])}
    numbered = [Link(f"{base}part-{number}.html", f"{title}, part {number}") for number in range(1, len(parts) + 1)]
    pages = {base: listing(title, numbered, [])}
    for link, part in zip(numbered, parts, strict=True):
        pages[link.url] = listing(link.text, part, [Link(base, title)])
    return pages
