"""The same documents from every storage: disk, memory, a web server, an S3 server; failures are lines, not losses."""

import functools
import http.server
import re
import socket
import threading

import pytest

from core import manifest, remote_file, storage
from core.errors import RaymillError, UserError
from data_engine import sources
from data_engine.records import Damage, Skips
from tests.data_engine import books, corpora, trees

HTML = [("Content-Type", "text/html")]
HANGS_UP = 0


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder with ranges (Python's own server knows none), and fails as often as it is told to.

    refused: the status that it answers, by path.
    """

    daemon_threads = True

    def __init__(self, folder, ranges=True):
        self.ranges, self.failures, self.requests, self.refused = ranges, 0, [], {}
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server_port}/"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, client_address):
        """Clients leave in the middle of an answer."""


class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def fails(self):
        status = self.server.refused.get(self.path)
        if status is None and self.server.failures:
            self.server.failures -= 1
            status = 503
        if status == HANGS_UP:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif status is not None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()
        return status is not None

    def do_HEAD(self):
        if not self.fails():
            super().do_HEAD()

    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get("Range")))
        if self.fails():
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        path = self.translate_path(self.path)
        if asked is None or not self.server.ranges:
            super().do_GET()
            return
        with open(path, "rb") as file:
            content = file.read()
        start, end = int(asked[1]), min(int(asked[2]) + 1, len(content))
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        self.wfile.write(content[start:end])


@pytest.fixture
def folder(tmp_path):
    """A WARC, Parquet, lines, a book and a page, each in a folder of its own."""
    path = tmp_path / "data"
    pages = [(f"http://h/{n}", "200 OK", HTML, b"x" * 999) for n in range(40)]
    rows = corpora.rows_of([f"text {n}" for n in range(90)])
    files = {
        "warc/a.warc.gz": corpora.warc(pages),
        "whole/book.epub": books.epub({"a.xhtml": (books.xhtml("<p>x</p>"), "")}),
        "whole/page one.html": corpora.page("words"),
    }
    trees.write(path, files)
    (path / "rows").mkdir()
    corpora.write_parquet(path / "rows" / "a.parquet", rows, group=20)
    corpora.write_jsonl(path / "rows" / "b.jsonl", [{**row, "url": row["url"] + "b"} for row in rows])
    (path / "warc.paths").write_text("warc/a.warc.gz\n")
    return path


@pytest.fixture
def server(folder, monkeypatch):
    import fsspec

    monkeypatch.setattr(remote_file, "_WAITS", (0.01, 0.01, 0.01))
    running = Server(folder)
    yield running
    running.shutdown()
    running.server_close()
    fsspec.filesystem("http").clear_instance_cache()


def payloads(paths, **settings):
    """What makes ids, without urls of files."""
    records, damaged, _ = trees.read(paths, **settings)
    assert damaged == {}
    return sorted((record.payload, record.date, record.media) for record in records.values())


@pytest.mark.parametrize("part", ["warc", "rows", "whole"])
def test_a_web_server_gives_what_the_disk_gives(server, folder, part):
    assert payloads([f"{server.url}{part}/"]) == payloads([folder / part])


def test_documents_of_a_web_server_have_their_address(server):
    records, _, _ = trees.read([f"{server.url}whole/page%20one.html", f"{server.url}whole/*.epub"])
    assert set(records) == {f"{server.url}whole/page%20one.html", f"{server.url}whole/book.epub"}


def test_a_list_of_paths_with_a_web_server_before_it(server, folder):
    assert payloads([folder / "warc.paths"], manifest_prefix=server.url) == payloads([folder / "warc"])
    assert payloads([f"{server.url}warc.paths"], manifest_prefix=server.url) == payloads([folder / "warc"])


@pytest.mark.parametrize("failures", [1, 2, 3, 5])
@pytest.mark.parametrize("part", ["warc", "rows", "whole"])
def test_a_server_that_fails_now_and_then_costs_nothing(server, folder, part, failures):
    """A try to open is two requests: HEAD, and GET where that fails."""
    source, shards = trees.shards_of([f"{server.url}{part}/"])
    server.failures = failures
    found = [one for shard in shards for one in sources.read(shard, source, 10_000, Skips())]
    assert server.failures == 0
    assert sorted(one.payload for one in found) == [one[0] for one in payloads([folder / part])]


@pytest.mark.parametrize("part", ["warc", "rows", "whole"])
def test_a_server_that_fails_for_long_is_no_damage_of_the_file(server, part):
    source, shards = trees.shards_of([f"{server.url}{part}/"])
    server.failures = 10_000
    with pytest.raises(RaymillError, match=r"http://.*reading failed 4 times at byte 0 \(.*503"):
        list(sources.read(shards[0], source, 10_000, Skips()))


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_page_that_is_not_there_any_more_is_damage(server, status):
    source, shards = trees.shards_of([f"{server.url}whole/"])
    server.refused["/whole/book.epub"] = status
    damage, page = (one for shard in shards for one in sources.read(shard, source, 10_000, Skips()))
    assert isinstance(damage, Damage)
    assert damage.error.startswith(f"not readable: {server.url}whole/book.epub: no such file")
    assert page.url.endswith("page%20one.html")


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_page_that_is_not_to_be_had_for_now_is_no_damage(server, status):
    source, shards = trees.shards_of([f"{server.url}whole/"])
    server.refused["/whole/book.epub"] = status
    with pytest.raises(RaymillError, match=rf"book.epub: reading failed 4 times at byte 0 \(.*{status}"):
        list(sources.read(shards[0], source, 10_000, Skips()))


def test_a_server_that_hangs_up_is_no_damage(server):
    source, shards = trees.shards_of([f"{server.url}whole/"])
    server.refused["/whole/book.epub"] = HANGS_UP
    with pytest.raises(RaymillError, match=r"book.epub: reading failed 4 times at byte 0 \(.*isconnected"):
        list(sources.read(shards[0], source, 10_000, Skips()))


def test_large_files_are_read_in_parts_and_not_fetched_to_be_digested(server, folder):
    (folder / "big").mkdir()
    with (folder / "big" / "a.jsonl").open("w") as file:
        file.writelines('{"text": "' + "y" * 1000 + '"}\n' for _ in range(12_000))
    (digest,) = manifest.digest_input(f"{server.url}big/a.jsonl")
    assert all(asked is None for _, asked in server.requests)
    source, shards = trees.shards_of([f"{server.url}big/a.jsonl"], shard_bytes=1 << 20)
    assert len(list(sources.read(shards[-1], source, 10_000, Skips()))) < 1100
    assert sum(asked is not None for _, asked in server.requests) <= 2
    (folder / "big" / "a.jsonl").write_text('{"text": "z"}\n')
    storage.filesystem_of(server.url)[0].invalidate_cache()
    assert manifest.digest_input(f"{server.url}big/a.jsonl") != [digest]


def test_a_server_without_ranges_is_named(folder):
    (folder / "big").mkdir()
    (folder / "big" / "a.jsonl").write_bytes(b'{"text": "' + b"y" * 12_000_000 + b'"}\n')
    running = Server(folder, ranges=False)
    with pytest.raises(UserError, match=r"a.jsonl: this server does not serve parts of files"):
        trees.read([f"{running.url}big/a.jsonl"], shard_bytes=1 << 20)
    assert payloads([f"{running.url}warc/"], shard_bytes=1 << 20) == payloads([folder / "warc"]), (
        "small files need no ranges"
    )
    running.shutdown()
    running.server_close()


def test_a_missing_file_and_an_absent_server_are_one_line(server):
    for url in (f"{server.url}nothing.parquet", "http://127.0.0.1:9/a.parquet"):
        with pytest.raises(UserError, match="no such file"):
            trees.read([url])


def test_documents_in_memory(folder):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(folder / "rows"), "/bucket/rows", recursive=True)
    assert payloads(["memory://bucket/rows"]) == payloads([folder / "rows"])
    assert payloads(["memory://bucket/rows/*.jsonl"]) == payloads([folder / "rows" / "b.jsonl"])
    memory.rm("/bucket", recursive=True)


@pytest.mark.parametrize(
    ("url", "package", "mend"),
    [
        ("s3://bucket/a.parquet", "s3fs", r"pip install raymill\[s3\]"),
        ("gs://bucket/a.parquet", "gcsfs", r"pip install raymill\[gcs\]"),
    ],
)
def test_a_missing_package_is_one_line_that_names_the_extra(monkeypatch, url, package, mend):
    import sys

    from fsspec.core import get_filesystem_class

    monkeypatch.setitem(sys.modules, package, None)
    # a class that was imported before is remembered; this one forgets it
    registry = get_filesystem_class.__globals__["_registry"]
    monkeypatch.delitem(registry, url.partition("://")[0], raising=False)
    with pytest.raises(UserError, match=rf"{re.escape(url)}: .*{mend}"):
        storage.list_files(url)


def test_an_unknown_protocol_is_one_line():
    with pytest.raises(UserError, match=r"nope://x/a.parquet: Protocol not known: nope; name a path"):
        storage.list_files("nope://x/a.parquet")


# --- S3 ---


@pytest.fixture(scope="module")
def bucket():
    """A real S3 server (moto's) on this machine, with an empty bucket."""
    server = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    host, port = running.get_host_and_port()
    patch = pytest.MonkeyPatch()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        patch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    filesystem = s3fs.S3FileSystem()
    filesystem.mkdir("crawls")
    yield filesystem
    patch.undo()
    running.stop()
    s3fs.S3FileSystem.clear_instance_cache()


def test_an_object_store_gives_what_the_disk_gives(bucket, folder):
    bucket.put(f"{folder}/", "crawls/", recursive=True)
    for part in ("warc", "rows", "whole"):
        assert payloads([f"s3://crawls/{part}"]) == payloads([folder / part])
    assert payloads(["s3://crawls/rows/*.parquet"]) == payloads([folder / "rows" / "a.parquet"])
    assert payloads([folder / "warc.paths"], manifest_prefix="s3://crawls") == payloads([folder / "warc"])
    records, _, _ = trees.read(["s3://crawls/whole"])
    assert set(records) == {"s3://crawls/whole/book.epub", "s3://crawls/whole/page one.html"}
    with pytest.raises(UserError, match=r"s3://crawls/nothing.*no such file"):
        trees.read(["s3://crawls/nothing"])
    with pytest.raises(UserError, match=r"s3://absent/a.parquet"):
        trees.read(["s3://absent/a.parquet"])


def test_an_object_that_changes_is_out_of_date(bucket):
    bucket.pipe("crawls/changing.jsonl", b'{"text": "a"}\n')
    before = manifest.digest_input("s3://crawls/changing.jsonl")
    bucket.pipe("crawls/changing.jsonl", b'{"text": "b"}\n')
    assert manifest.digest_input("s3://crawls/changing.jsonl") != before


@pytest.mark.parametrize("cause", [TimeoutError(), ConnectionResetError()])
def test_a_storage_that_did_not_answer_in_time_has_not_said_that_a_file_is_absent(cause):
    error = FileNotFoundError("http://host/page.html")
    error.__cause__ = cause
    assert not remote_file._is_refused(error)
    error.__cause__ = None
    assert remote_file._is_refused(error)
