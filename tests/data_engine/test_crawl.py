"""The crawler against real servers: which URLs it fetches, which it leaves out and why, its limits, its failures."""

import gzip
import hashlib
import socket
import time
from pathlib import Path

import pytest

from core import config
from core.errors import RaymillError, UserError
from data_engine.crawl import CrawlConfig
from tests.data_engine.web import HOST, Reply, Web, assert_adds_up, crawl, links, records, settings


def test_follows_links_and_accounts_for_every_url(tmp_path):
    web = Web(
        {
            "/": links(
                "/a.html", "sub/b.html#part", "http://other.test/x", "mailto:me@site.test", "/missing", "/a.html#2"
            ),
            "/a.html": links("/", "/a.html", "?page=2"),
            "/a.html?page=2": links("/../../c.html"),
            "/sub/b.html": links("../c.html"),
            "/c.html": links("/picture.png"),
            "/picture.png": Reply(b"\x89PNG", headers={"Content-Type": "image/png"}),
        }
    )
    with web.serve():
        manifest, found = crawl(web, tmp_path)
    assert {path for path, row in found.items() if row["state"] == "fetched"} == {
        "/", "/a.html", "/a.html?page=2", "/sub/b.html", "/c.html",
    }  # fmt: skip
    assert sorted(web.paths) == sorted(set(web.paths)), "a URL was asked for twice"
    assert found["http://other.test/x"]["reason"] == "outside_scope"
    assert found["/missing"]["reason"] == "http_404"
    assert found["/picture.png"]["reason"] == "content_type"
    assert manifest.counts["seen"] == 8
    assert_adds_up(manifest.counts)
    report = (tmp_path / "crawl" / "report.html").read_text()
    assert "<svg" in report
    assert "http_404" in report


def test_noindex_nofollow_and_their_header(tmp_path):
    web = Web(
        {
            "/": links(
                '<a rel="external nofollow" href="/unwanted">x</a>', "/noindex", "/nofollow", "/header", "/both"
            ),
            "/noindex": links("/below-noindex", head='<meta name="ROBOTS" content="NoIndex">'),
            "/nofollow": links("/below-nofollow", head='<meta name="robots" content="nofollow">'),
            "/header": Reply(links("/below-header"), headers={"X-Robots-Tag": "raymill: none"}),
            "/both": links('<a rel="nofollow" href="/a">x</a>', "/a"),
            "/below-noindex": links(),
            "/a": links(),
        }
    )
    with web.serve():
        manifest, found = crawl(web, tmp_path)
    assert {path for path, row in found.items() if row["state"] == "fetched"} == {
        "/", "/nofollow", "/both", "/below-noindex", "/a",
    }  # fmt: skip
    for path in ("/unwanted", "/below-nofollow", "/below-header"):
        assert found[path]["reason"] == "nofollow"
        assert path not in web.paths
    assert {found[path]["reason"] for path in ("/noindex", "/header")} == {"noindex"}
    assert not any("noindex" in (url or "").split("/")[-1][:7] for _, url, _, _, _ in records(tmp_path / "crawl"))
    assert_adds_up(manifest.counts)


def test_sitemaps_are_read(tmp_path):
    def urlset(*paths):
        entries = "".join(f"<url><loc>http://{HOST}{path}</loc></url>" for path in paths)
        return f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{entries}</urlset>'

    index = (
        '<sitemapindex xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">'
        f"<sitemap><loc>http://{HOST}/one.xml</loc></sitemap><sitemap><loc>http://{HOST}/two.xml.gz</loc></sitemap>"
        f"<sitemap><loc>http://{HOST}/broken.xml</loc></sitemap><sitemap><loc>http://{HOST}/index.xml</loc></sitemap>"
        "</sitemapindex>"
    )
    evil = f'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/hostname">]>{urlset("/&e;")}'
    xml = {"Content-Type": "application/xml"}
    web = Web(
        {
            "/robots.txt": f"Sitemap: http://{HOST}/index.xml\nSitemap: http://{HOST}/list.txt\n",
            "/index.xml": Reply(index, headers=xml),
            "/one.xml": Reply(urlset("/only-in-sitemap"), headers=xml),
            "/two.xml.gz": Reply(
                gzip.compress(urlset("/packed").encode()), headers={"Content-Type": "application/gzip"}
            ),
            "/broken.xml": Reply(evil, headers=xml),
            "/list.txt": Reply(f"http://{HOST}/listed\n", headers={"Content-Type": "text/plain"}),
            "/": links(),
            **{path: links() for path in ("/only-in-sitemap", "/packed", "/listed")},
        }
    )
    with web.serve():
        manifest, found = crawl(web, tmp_path)
    hostname = Path("/etc/hostname").read_text().strip() if Path("/etc/hostname").exists() else "localhost"
    assert not any(hostname in path for path in found)
    assert {path for path, row in found.items() if row["state"] == "fetched"} == {
        "/", "/only-in-sitemap", "/packed", "/listed",
    }  # fmt: skip
    assert manifest.counts["fetched"] == 4


def test_endless_pages_end_at_max_depth(tmp_path):
    class Endless(dict):
        def get(self, path, default=None):
            if path.startswith("/day/"):
                return links(f"/day/{int(path[5:]) + 1}")
            return {"/": links("/day/0")}.get(path, default)

    web = Web(Endless())
    with web.serve():
        manifest, found = crawl(web, tmp_path, max_depth=5)
    assert manifest.counts["fetched"] == 6
    assert found["/day/5"]["reason"] == "max_depth"


def test_allow_prefixes_and_deny_patterns(tmp_path):
    web = Web({f"/docs/{n}": links("/docs/1", "/docs/2", "/docs/2?print=1", "/blog/1") for n in (0, 1, 2)})
    with web.serve():
        _, found = crawl(
            web, tmp_path, seeds=[f"http://{HOST}/docs/0"], allow=[f"http://{HOST}/docs/"], deny=[r"[?&]print="]
        )
    assert {path: row["reason"] for path, row in found.items()} == {
        "/docs/0": None, "/docs/1": None, "/docs/2": None,
        "/docs/2?print=1": "denied_pattern", "/blog/1": "outside_scope",
    }  # fmt: skip


@pytest.mark.parametrize("connections", [1, 8])
def test_pages_of_a_limited_crawl_do_not_depend_on_timing(tmp_path, connections):
    pages = {"/": links(*(f"/p{n}" for n in range(40)))}

    def slow_or_missing(n):
        def answer(_):
            time.sleep(0.02 * (n % 3))
            return Reply(links(f"/q{n}")) if n % 4 else Reply("gone", 404)

        return answer

    pages |= {f"/p{n}": slow_or_missing(n) for n in range(40)}
    web = Web(pages)
    with web.serve():
        manifest, found = crawl(web, tmp_path, max_pages=12, connections_per_host=connections)
    fetched = sorted(path for path, row in found.items() if row["state"] == "fetched")
    visited = sorted(path for path, row in found.items() if row["state"] in ("fetched", "failed"))
    # the order of a round is that of BLAKE2b over the URLs: the first twelve that answer, and nothing beyond them
    ordered = sorted(
        (f"/p{n}" for n in range(40)),
        key=lambda p: hashlib.blake2b(f"http://{HOST}{p}".encode(), digest_size=16).digest(),
    )
    answering = [path for path in ordered if int(path[2:]) % 4][:11]
    assert fetched == sorted(["/", *answering])
    assert visited == sorted(["/", *ordered[: ordered.index(answering[-1]) + 1]])
    assert manifest.counts["fetched"] == 12
    assert_adds_up(manifest.counts)


def test_pages_over_the_size_limit_are_not_stored(tmp_path):
    def endless(wfile):
        for _ in range(10_000):
            wfile.write(b"x" * 65_536)

    bomb = gzip.compress(b"\0" * 50_000_000)
    web = Web(
        {
            "/": links("/announced", "/endless", "/bomb", "/exact"),
            "/announced": Reply("x" * 200_001),
            "/endless": Reply(send=endless),
            "/bomb": Reply(bomb, headers={"Content-Encoding": "gzip"}),
            "/exact": Reply("x" * 200_000),
        }
    )
    with web.serve():
        manifest, found = crawl(web, tmp_path, max_bytes=200_000)
    assert manifest.counts["too_large"] == 3
    assert found["/exact"]["payload_bytes"] == 200_000
    assert_adds_up(manifest.counts)


def test_redirects_are_records_of_their_own_and_loops_end(tmp_path):
    def to(url, status=301):
        return Reply("", status, {"Location": url})

    web = Web(
        {
            "/": links("/old", "/loop", "/self", "/chain0", "/away", "/nowhere", "/long"),
            "/old": to("/new", 302),
            "/new": links(),
            "/loop": to("/pool"),
            "/pool": to("/loop"),
            "/self": to("/self"),
            "/away": to("http://other.test/"),
            "/nowhere": to("javascript:void(0)"),
            **{f"/chain{n}": to(f"/chain{n + 1}", 307) for n in range(3)},
            "/chain3": links(),
        }
    )
    with web.serve():
        manifest, found = crawl(web, tmp_path, max_redirects=2)
    assert {path: (found[path]["state"], found[path]["redirect"]) for path in ("/old", "/self")} == {
        "/old": ("redirected", f"http://{HOST}/new"),
        "/self": ("redirected", f"http://{HOST}/self"),
    }
    assert found["/new"]["state"] == "fetched"
    assert found["/chain2"]["reason"] == "redirect_limit"
    assert "/chain3" not in found
    assert found["/nowhere"]["reason"] == "redirect_nowhere"
    assert found["http://other.test/"]["reason"] == "outside_scope"
    assert max(web.paths.count(path) for path in web.paths) == 1
    statuses = {url: status for kind, url, status, _, _ in records(tmp_path / "crawl") if kind == "response"}
    assert statuses[f"http://{HOST}/old"] == "302"
    assert_adds_up(manifest.counts)


# --- failures of the whole crawl --------------------------------------------------------------------------------------


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_an_unreachable_seed_names_the_host(tmp_path):
    class Nowhere:
        port = free_port()

    with pytest.raises(RaymillError, match=r"http://site\.test does not answer") as caught:
        crawl(Nowhere, tmp_path, retries=1)
    assert caught.value.exit_code == 1
    assert not (tmp_path / "crawl" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": ["ftp://site.test/"]}, "is no URL to begin at"),
        ({"seeds": ["site.test"]}, "is no URL to begin at"),
        ({"seeds": []}, "seeds"),
        ({"deny": ["("]}, "is no regular expression"),
        ({"allow": ["other.test"]}, "left out by allow"),
        ({"connect_to": {HOST: "127.0.0.1"}}, "no host:port"),
        ({"dalay_seconds": 1}, "did you mean delay_seconds"),
        ({"max_pages": 0}, "max_pages"),
        ({"user_agent": "räymill"}, "user_agent"),
        ({"user_agent": "a\r\nX-Injected: 1"}, "user_agent"),
        ({"user_agent": ""}, "user_agent"),
    ],
)
def test_bad_settings_are_the_users_mistakes(tmp_path, change, message):
    class Unused:
        port = 1

    with pytest.raises(UserError, match=message):
        config.parse(CrawlConfig, settings(Unused, tmp_path, **change), "crawl.yaml")


def test_no_page_at_all_is_a_failure(tmp_path):
    web = Web({"/": Reply("gone", 410)})
    with web.serve(), pytest.raises(RaymillError, match=r"no page was fetched .* failed 1"):
        crawl(web, tmp_path)
    assert not (tmp_path / "crawl" / "manifest.json").exists()
