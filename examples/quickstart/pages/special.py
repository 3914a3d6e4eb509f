"""What a crawler meets besides pages: denied folders, redirects, loops, refusals, traps, oversized files."""

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from pages import layout
from pages.layout import Link

OVERSIZED_BYTES = 12_000_000
_CALENDAR = re.compile(r"^/calendar/(\d{4})-(\d{2})\.html$")


@dataclass(frozen=True)
class Answer:
    """A response: status, media type, body, and further headers."""

    body: bytes
    status: int = 200
    media_type: str = "text/html; charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict)


LINKS = [
    Link("/about.html", "About this site"),
    Link("/unsteady.html", "A page that needs a second try"),
    Link("/old/about.html", "The former address of the about page"),
    Link("/loop/one.html", "A redirect in circles"),
    Link("/missing.html", "A page that is gone"),
    Link("/private/diary.html", "A private page"),
    Link("/archive/everything.html", "Everything on one page"),
    Link("/calendar/2026-01.html", "Calendar"),
    Link("/drafts/draft.html", "A draft"),
]


def answers() -> dict[str, Answer | Callable[[], Answer]]:
    """The fixed special pages by URL; what depends on an earlier request is a function."""
    private = layout.page(
        "Diary", "<h1>Diary</h1>\n<p>Robots are asked to stay out, and nothing links further.</p>\n", []
    )
    return {
        "/about.html": Answer(layout.page("About this site", _ABOUT, [])),
        "/unsteady.html": Unsteady(),
        "/old/about.html": _redirect("/about.html"),
        "/loop/one.html": _redirect("/loop/two.html"),
        "/loop/two.html": _redirect("/loop/one.html"),
        "/private/diary.html": Answer(private),
        "/private/letters.html": Answer(private),
        "/archive/everything.html": oversized,
        "/drafts/draft.html": Answer(layout.page("Draft", _DRAFT, [], head='<meta name="robots" content="noindex">\n')),
    }


def _redirect(url: str) -> Answer:
    return Answer(b"", 301, headers={"Location": url})


def oversized() -> Answer:
    """A page beyond the crawler's limit, made when asked for."""
    line = b"<p>The same line again, as often as it takes to be too long for anybody.</p>\n"
    return Answer(line * (OVERSIZED_BYTES // len(line) + 1))


class Unsteady:
    """503 for the first request, then the page."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = 0

    def __call__(self) -> Answer:
        """The next answer."""
        with self._lock:
            self._asked += 1
            if self._asked == 1:
                return Answer(b"", 503, headers={"Retry-After": "1"})
        return Answer(layout.page("A second try", _UNSTEADY, []))


def calendar(path: str) -> Answer | None:
    """A month of the endless calendar: each leads to the next and the one before."""
    found = _CALENDAR.match(path)
    if found is None or not 1 <= int(found.group(2)) <= 12:
        return None
    months = int(found.group(1)) * 12 + int(found.group(2)) - 1
    links = [
        Link(f"/calendar/{month // 12:04d}-{month % 12 + 1:02d}.html", name)
        for month, name in ((months - 1, "Earlier"), (months + 1, "Later"))
    ]
    title = f"Calendar {found.group(1)}-{found.group(2)}"
    return Answer(layout.page(title, f"<h1>{title}</h1>\n<p>No events.</p>\n", links))


def robots(host: str) -> Answer:
    """robots.txt; a sitemap's address must be absolute."""
    text = f"User-agent: *\nDisallow: /private/\n\nSitemap: http://{host}/sitemap.xml\n"
    return Answer(text.encode(), media_type="text/plain; charset=utf-8")


def sitemap(host: str, urls: list[str]) -> Answer:
    """A sitemap of URLs on this site."""
    entries = "".join(f"<url><loc>http://{host}{url}</loc></url>\n" for url in urls)
    return _xml(f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{entries}</urlset>\n')


def sitemap_index(host: str, names: list[str]) -> Answer:
    """A sitemap of sitemaps."""
    entries = "".join(f"<sitemap><loc>http://{host}/{name}</loc></sitemap>\n" for name in names)
    return _xml(f'<sitemapindex xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{entries}</sitemapindex>\n')


def _xml(content: str) -> Answer:
    return Answer(f'<?xml version="1.0" encoding="UTF-8"?>\n{content}'.encode(), media_type="application/xml")


_ABOUT = """<h1>About this site</h1>
<p>This site exists so that a crawler has something real to read. Its reference pages are made from docstrings of the
standard library and of installed packages, its project pages from the descriptions that come with them, and its reading
room from a few dozen pages that were written for it.</p>
<p>Nothing here is generated at random. Two copies of the site with the same packages serve the same bytes, and
the order of every list is fixed. A crawler that behaves well stays out of the private folder, waits when it is told to
come back later, and does not follow the calendar to the end, because it has none.</p>
"""
_DRAFT = """<h1>Draft</h1>
<p>This page asks not to be kept. A polite crawler reads it, sees the request in its head and forgets it again, although
it may follow the links that it finds here.</p>
"""
_UNSTEADY = """<h1>A second try</h1>
<p>The first visitor of this page is told that the server is too busy, and to come back after a second. Whoever waits as
long as that gets this text, and may draw the conclusion that patience is part of the protocol. Servers say it in two
ways: with a number of seconds or with a date. A crawler has to understand both of them, and it should leave the whole
host alone until then, not only the page that it asked for.</p>
"""
