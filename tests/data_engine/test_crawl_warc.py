"""WARC files of a crawl as others read them, and a crawl that is interrupted: by its limit, a dead server, kill -9."""

import gzip
import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from types import SimpleNamespace

import pytest
import yaml
from warcio.checker import Checker

from core.errors import RaymillError
from tests.conftest import ROOT
from tests.data_engine.web import HOST, Reply, Web, assert_adds_up, crawl, links, records, rows, settings


def assert_valid(segment):
    """As `warcio check` does: every record parses, every digest is right."""
    assert Checker(SimpleNamespace(inputs=[str(segment)], verbose=False)).process_all() == 0


def test_warc_is_what_other_readers_expect(tmp_path):
    page = "<p>Grüße, привет, 你好</p>" + links("/packed", "/chunked", "/plain", "/ünïcode?q=a b")
    web = Web(
        {
            "/": page,
            "/packed": Reply(gzip.compress(page.encode()), headers={"Content-Encoding": "gzip", "X-Extra": "één"}),
            "/chunked": Reply(b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", headers={"Transfer-Encoding": "chunked"}),
            "/plain": Reply("plain\r\n\r\ntext", headers={"Content-Type": "text/plain; charset=utf-8"}),
            "/%C3%BCn%C3%AFcode?q=a%20b": "<p>x</p>",
        }
    )
    with web.serve():
        manifest, found = crawl(web, tmp_path, segment_bytes=1500)
    assert manifest.counts["fetched"] == 5
    folder = tmp_path / "crawl"
    names = sorted(path.name for path in (folder / "warc").iterdir())
    assert len(names) > 1
    assert names == [f"segment-{n:05d}.warc.gz" for n in range(len(names))]

    found_records = records(folder)
    payloads = {
        url.removeprefix(f"http://{HOST}"): body for kind, url, _, body, _ in found_records if kind == "response"
    }
    assert payloads["/packed"] == payloads["/"] == page.encode()
    assert payloads["/chunked"] == b"hello world"
    assert payloads["/plain"] == b"plain\r\n\r\ntext"
    kinds = [kind for kind, *_ in found_records]
    assert kinds.count("response") == kinds.count("request") == 5
    assert kinds.count("warcinfo") == len(names)
    for kind, _, _, _, record in found_records:
        assert record.rec_headers.protocol == "WARC/1.1"
        assert record.rec_headers.get_header("WARC-Block-Digest").startswith("sha1:")
        if kind == "response":
            assert record.rec_headers.get_header("WARC-Payload-Digest").startswith("sha1:")
    concurrent = {
        record.rec_headers.get_header("WARC-Concurrent-To") for kind, *_, record in found_records if kind == "request"
    }
    assert concurrent == {
        r.rec_headers.get_header("WARC-Record-ID") for kind, *_, r in found_records if kind == "response"
    }
    for name in names:
        assert_valid(folder / "warc" / name)

    for row in found.values():
        raw = (folder / "warc" / row["segment"]).read_bytes()[row["offset"] : row["offset"] + row["length"]]
        head = gzip.decompress(raw)  # one whole gzip member, and nothing else
        assert b"WARC-Type: response" in head
        assert row["url"].encode() in head
        assert row["payload_digest"].encode() in head


def test_connect_to_keeps_the_names(tmp_path):
    """One address, two virtual hosts; the WARC knows the hosts, not the address."""
    web = Web(
        {
            "one.test/": links("http://two.test/page"),
            "one.test/robots.txt": "",
            "two.test/robots.txt": "User-agent: *\nDisallow: /hidden\n",
            "two.test/page": links("/hidden", "http://two.test:8080/port"),
        }
    )
    with web.serve():
        address = f"127.0.0.1:{web.port}"
        manifest, found = crawl(
            web, tmp_path, seeds=["http://one.test"], allow=["one.test", "two.test"],
            connect_to={"one.test": address, "two.test": address, "two.test:8080": "127.0.0.1:1"}, retries=0,
        )  # fmt: skip
    assert manifest.counts["fetched"] == 2
    assert manifest.counts["robots_denied"] == 1
    assert found["http://two.test:8080/port"]["reason"] == "robots_unreachable"
    assert {host for _, host, _, _ in web.asked} == {"one.test", "two.test"}
    assert {url for kind, url, _, _, _ in records(tmp_path / "crawl") if url} == {
        "http://one.test/",
        "http://two.test/page",
    }
    assert not any(str(web.port).encode() in body for *_, body, _ in records(tmp_path / "crawl"))


def test_a_crawl_out_of_time_continues(tmp_path):
    def slow(_):
        time.sleep(0.05)
        return Reply(links())

    web = Web({"/": links(*(f"/{n}" for n in range(40))), **{f"/{n}": slow for n in range(40)}})
    with web.serve():
        with pytest.raises(RaymillError, match="run again to continue"):
            crawl(web, tmp_path, max_seconds=0.3)
        some = len(web.paths)
        assert 1 < some < 41
        manifest, _ = crawl(web, tmp_path)
    assert manifest.counts["fetched"] == 41
    assert len(web.paths) == 41, "a page was fetched again"


def test_a_seed_that_stops_answering_can_be_continued(tmp_path):
    pages = {"/": links(*(f"/{n}" for n in range(60))), **{f"/{n}": links() for n in range(60)}}
    web = Web(pages)
    with web.serve(), pytest.raises(RaymillError, match="run again"):
        crawl(web, tmp_path, max_seconds=0.05, delay_seconds=0.02)
    with pytest.raises(RaymillError, match=r"site\.test stopped answering"):
        crawl(web, tmp_path, retries=3)  # the server is gone
    again = Web(pages)
    with again.serve():
        manifest, _ = crawl(again, tmp_path)
    assert manifest.counts["fetched"] == 61
    assert manifest.counts["failed"] == 0


def test_an_up_to_date_crawl_is_reused_and_inputs_decide(tmp_path):
    web = Web({"/": links()})
    source = tmp_path / "source.txt"
    source.write_text("1")
    with web.serve():
        crawl(web, tmp_path, inputs=[str(source)])
        crawl(web, tmp_path, inputs=[str(source)], delay_seconds=0.01)
        assert len(web.paths) == 1
        source.write_text("2")
        crawl(web, tmp_path, inputs=[str(source)])
        assert len(web.paths) == 2


_DRIVER = """
import sys
from core import config
from data_engine.crawl import STAGE
STAGE.execute(config.load(STAGE.config, sys.argv[1]))
"""


def paths_and_digests(folder):
    """Payload digest of each stored page."""
    return {path: row["payload_digest"] for path, row in rows(folder).items() if row["state"] == "fetched"}


def committed(folder):
    """Stored pages as a crash leaves them, read from a copy so that the crawl's own files stay as they are."""
    with tempfile.TemporaryDirectory() as copy:
        for path in folder.glob("frontier.sqlite*"):
            shutil.copy(path, copy)
        database = sqlite3.connect(f"{copy}/frontier.sqlite")
        urls = {url for (url,) in database.execute("SELECT url FROM urls WHERE state IN ('fetched', 'redirected')")}
        database.close()
    return {url.removeprefix(f"http://{HOST}") for url in urls}


def stored_so_far(frontier):
    """Pages that a running crawl has committed."""
    try:
        database = sqlite3.connect(f"file:{frontier}?mode=ro", uri=True)
        count = database.execute("SELECT count(*) FROM urls WHERE state = 'fetched'").fetchone()[0]
        database.close()
    except sqlite3.OperationalError:  # not there yet
        return 0
    return count


def test_killed_crawl_finishes_with_the_same_pages(tmp_path):
    """kill -9 twice, each time after something was committed and more was written behind it."""
    rng = random.Random(7)
    pages = {
        f"/{n}": links(*(f"/{rng.randrange(200)}" for _ in range(4)), f"/{n + 1}", text=f"Page {n} " + "word " * n)
        for n in range(200)
    }
    pages["/"] = links("/0", "/199", "/17")
    pages["/3"] = Reply("", 302, {"Location": "/4"})
    web = Web(pages)
    with web.serve():
        crawl(web, tmp_path / "undisturbed", segment_bytes=20_000)
        expected = paths_and_digests(tmp_path / "undisturbed" / "crawl")
        assert len(expected) > 150
        folder = tmp_path / "killed" / "crawl"
        given = settings(web, tmp_path / "killed", segment_bytes=20_000, connections_per_host=2, delay_seconds=0.02)
        path = tmp_path / "crawl.yaml"
        path.write_text(yaml.safe_dump(given))
        for _ in range(2):
            process = subprocess.Popen([sys.executable, "-c", _DRIVER, str(path)], cwd=ROOT)
            before = stored_so_far(folder / "frontier.sqlite")
            while process.poll() is None and stored_so_far(folder / "frontier.sqlite") == before:
                time.sleep(0.02)
            time.sleep(rng.uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL, "the crawl ended before it was killed"
            # a torn record behind what was committed, as a power cut leaves it
            for segment in (folder / "warc").glob("*.warc.gz"):
                with segment.open("ab") as file:
                    file.write(b"\x1f\x8b\x08torn")
            stored = committed(folder)
            assert len(stored) > before
            web.asked.clear()
        crawl(web, tmp_path / "killed", segment_bytes=20_000, connections_per_host=2, delay_seconds=0)
        assert not stored & set(web.paths), "a stored page was fetched again"
    assert paths_and_digests(folder) == expected
    responses = [url for kind, url, _, _, _ in records(folder) if kind == "response"]
    assert len(responses) == len(set(responses)) == len(expected) + 1, "the redirect is a record too"
    for segment in sorted((folder / "warc").iterdir()):
        assert_valid(segment)
    counts = json.loads((folder / "manifest.json").read_text())["counts"]
    assert_adds_up(counts)
    assert counts["fetched"] == len(expected)
