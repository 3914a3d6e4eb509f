"""A real web server for the crawler's tests, a record of what it was asked and when, and what a crawl left on disk."""

import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from warcio.archiveiterator import ArchiveIterator

from core import config
from data_engine.crawl import STAGE, CrawlConfig

HOST = "site.test"
HTML = {"Content-Type": "text/html; charset=utf-8"}


class Reply:
    """What a page answers. `send` writes the body piece by piece instead of `body`."""

    def __init__(self, body="", status=200, headers=None, send=None):
        self.body = body.encode() if isinstance(body, str) else body
        self.status = status
        self.headers = {**HTML, **(headers or {})}
        self.send = send


def links(*targets, text="Some words.", head=""):
    """A page with links."""
    anchors = "".join(target if target.startswith("<") else f'<a href="{target}">x</a>' for target in targets)
    return f"<html><head>{head}</head><body><p>{text}</p>{anchors}</body></html>"


class Web:
    """`pages` maps a path, or host+path, to a text, a Reply, or a function of the number of earlier requests."""

    def __init__(self, pages: Mapping[str, str | Reply | Callable[[int], Reply]]) -> None:
        self.pages = pages
        self.asked: list[tuple[float, str, str, dict[str, str]]] = []
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1
            disable_nagle_algorithm = True

            def do_GET(self):
                with web._lock:
                    web.at_once += 1
                    web.most_at_once = max(web.most_at_once, web.at_once)
                try:
                    web._answer(self)
                finally:
                    with web._lock:
                        web.at_once -= 1

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None
        self.port = self._server.server_port

    def _answer(self, handler):
        host = handler.headers.get("Host", "")
        with self._lock:
            before = sum(path == handler.path and host == name for _, name, path, _ in self.asked)
            self.asked.append((time.monotonic(), host, handler.path, dict(handler.headers)))
        page = self.pages.get(host.partition(":")[0] + handler.path, self.pages.get(handler.path, Reply("gone", 404)))
        page = page(before) if callable(page) else page
        reply = page if isinstance(page, Reply) else Reply(page)
        handler.send_response_only(reply.status)
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        if reply.send is None and "Transfer-Encoding" not in reply.headers:
            handler.send_header("Content-Length", str(len(reply.body)))
        handler.end_headers()
        if reply.send is not None:
            handler.close_connection = True
            reply.send(handler.wfile)
        else:
            handler.wfile.write(reply.body)
        handler.wfile.flush()

    @property
    def paths(self) -> list[str]:
        """Paths in the order in which they were asked for, robots.txt left out."""
        return [path for _, _, path, _ in self.asked if path != "/robots.txt"]

    @contextmanager
    def serve(self):
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()


def settings(web, folder, **more):
    return {
        "output": str(folder / "crawl"),
        "seeds": [f"http://{HOST}/"],
        "delay_seconds": 0,
        "backoff_seconds": 0.01,
        "connections_per_host": 4,
        "connect_to": {HOST: f"127.0.0.1:{web.port}"},
        **more,
    }


def crawl(web, folder, **more):
    """Returns the manifest and rows of the frontier by path."""
    manifest, _ = STAGE.execute(config.parse(CrawlConfig, settings(web, folder, **more), "test"))
    return manifest, rows(folder / "crawl")


def rows(folder):
    database = sqlite3.connect(folder / "frontier.sqlite")
    database.row_factory = sqlite3.Row
    found = {row["url"].removeprefix(f"http://{HOST}"): row for row in database.execute("SELECT * FROM urls")}
    database.close()
    return found


def records(folder):
    """(type, url, status or None, payload) of every record, read by warcio, digests checked."""
    found = []
    for path in sorted((folder / "warc").glob("*.warc.gz")):
        with path.open("rb") as file:
            for record in ArchiveIterator(file, check_digests="raise"):
                status = record.http_headers.get_statuscode() if record.rec_type == "response" else None
                url = record.rec_headers.get_header("WARC-Target-URI")
                found.append((record.rec_type, url, status, record.content_stream().read(), record))
    return found


def assert_adds_up(counts):
    states = ("waiting", "fetched", "redirected", "robots_denied", "filtered", "too_large", "failed")
    assert counts["seen"] == sum(counts[state] for state in states)
    assert counts["filtered"] == sum(counts["filtered_by_reason"].values())
    assert counts["failed"] == sum(counts["failed_by_reason"].values())
