"""A local web site for the quickstart: reference pages made from installed packages, and pages planted for a build.

    python examples/quickstart/site.py --port 8765

It prints one line when it is ready and serves until it is stopped. The same packages give the same bytes.
"""

import argparse
import gc
import sys
from collections.abc import Callable
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent))

from pages import docstring_html, layout, planted, projects, reference, selection, special
from pages.layout import Link
from pages.special import Answer

LAST_MODIFIED = "Thu, 01 Jan 2026 00:00:00 GMT"
_PER_LISTING = 100
_BESIDE = 10


class Site:
    """Every page by URL."""

    def __init__(self, small: bool = False) -> None:
        self.answers: dict[str, Answer | Callable[[], Answer]] = {}
        self.sitemaps: dict[str, list[str]] = {}
        self._add_reference(reference.read_pages(small))
        limit = selection.SMALL_PROJECTS if small else None
        self._add_texts("projects", "Projects", projects.descriptions(limit))
        self._add_texts("licences", "Licences", projects.licences(limit))
        self._add_planted()
        self.answers.update(special.answers())
        links = [*layout.SECTIONS, *special.LINKS]
        self._add_html({"/": layout.listing(layout.SITE, links, [])})

    def answer(self, path: str, host: str) -> Answer:
        """What a GET of `path` (without its query) gets."""
        found = self.answers.get(path)
        if found is not None:
            return found() if callable(found) else found
        if path == "/robots.txt":
            return special.robots(host)
        if path == "/sitemap.xml":
            return special.sitemap_index(host, list(self.sitemaps))
        if path[1:] in self.sitemaps:
            return special.sitemap(host, self.sitemaps[path[1:]])
        return special.calendar(path) or Answer(layout.page("Not found", "<h1>Not found</h1>\n", []), 404)

    def _add_html(self, pages: dict[str, bytes]) -> None:
        self.answers.update({url: Answer(body) for url, body in pages.items()})

    def _add_reference(self, pages: list[reference.Page]) -> None:
        groups: dict[str, list[reference.Page]] = {}
        for page in pages:
            groups.setdefault(page.package, []).append(page)
        for package, members in groups.items():
            base = f"/packages/{package}/" if package else "/standard/"
            links = [Link(f"{base}{quote(page.name)}.html", page.name) for page in members]
            self._add_html(layout.listings(base, package or "Standard library", links, _PER_LISTING))
            for number, (page, link) in enumerate(zip(members, links, strict=True)):
                start = max(0, min(number - _BESIDE // 2, len(links) - _BESIDE))
                near = [other for other in links[start : start + _BESIDE] if other is not link]
                self._add_html({link.url: layout.page(page.name, reference_article(page), near)})
        packages = [Link(f"/packages/{package}/", package) for package in sorted(groups) if package]
        self._add_html({"/packages/": layout.listing("Packages", packages, [])})

    def _add_texts(self, folder: str, title: str, texts: list[projects.Text]) -> None:
        links = [Link(f"/{folder}/{quote(text.slug)}.html", text.title) for text in texts]
        self._add_html(layout.listings(f"/{folder}/", title, links, _PER_LISTING))
        for text, link in zip(texts, links, strict=True):
            self._add_html({link.url: layout.page(text.title, text.article, [])})
        self.sitemaps[f"sitemap-{folder}.xml"] = [link.url for link in links]

    def _add_planted(self) -> None:
        pages = planted.read()
        for page in pages:
            # Shift JIS is declared in the page alone, the others in the header.
            charset = "" if page.charset == "shift_jis" else f"; charset={page.charset}"
            self.answers[page.url] = Answer(page.body, media_type=f"text/html{charset}")
        self._add_html({planted.PREFIX: layout.listing("Reading room", [Link(p.url, p.title) for p in pages], [])})
        self.sitemaps["sitemap-planted.xml"] = [page.url for page in pages]


def reference_article(page: reference.Page) -> str:
    """The article of a reference page: name, what it is, signature, docstring, smaller members."""
    parts = [f"<h1>{escape(page.name)}</h1>\n<p>{escape(page.sentence())}</p>\n"]
    if page.signature:
        parts.append(docstring_html.code([page.signature]))
    parts.append(docstring_html.render(page.docstring))
    for member in page.members:
        parts.append(f"<h2>{escape(member.signature)}</h2>\n{docstring_html.render(member.docstring)}")
    return "".join(parts)


class Handler(BaseHTTPRequestHandler):
    """HTTP/1.1 with kept-alive connections; no header tells the time."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    site: Site

    def do_GET(self) -> None:
        """Answer one request."""
        host = self.headers.get("Host", "localhost")
        answer = self.site.answer(urlsplit(self.path).path, host)
        self.send_response_only(answer.status)
        self.send_header("Content-Type", answer.media_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Last-Modified", LAST_MODIFIED)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Silent: the crawler keeps the record."""


class Server(ThreadingHTTPServer):
    """One thread a connection."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is no error."""


def main() -> None:
    """Build the pages, say that they are there, serve."""
    parser = argparse.ArgumentParser(description="Serve the quickstart's local web site.")
    parser.add_argument("--port", type=int, required=True, help="on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--small", action="store_true", help="about 250 reference pages, for tests")
    arguments = parser.parse_args()
    try:
        server = Server(("127.0.0.1", arguments.port), Handler)
    except (OSError, OverflowError) as error:
        sys.exit(f"site.py: --port {arguments.port}: {error}; name another port")
    Handler.site = Site(arguments.small)
    gc.freeze()
    print(f"ready: http://127.0.0.1:{server.server_port}/ ({len(Handler.site.answers):,} pages)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


if __name__ == "__main__":
    main()
