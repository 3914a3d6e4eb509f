"""robots.txt as RFC 9309 has it, and sitemaps from strangers."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_engine.robots import SITEMAP_MAX_BYTES, Robots, Sitemap, product_token, read_sitemap

AGENT = "raymill/1.0 (+https://example.org/bot)"


def allows(text, *paths):
    robots = Robots(text, AGENT)
    return [robots.allows(f"http://example.org{path}") for path in paths]


@pytest.mark.parametrize(
    ("rules", "allowed", "denied"),
    [
        ("Disallow: /x\nAllow: /x/open", ["/", "/x/open/a"], ["/x", "/x/other", "/xy"]),  # the longest match wins
        ("Allow: /x\nDisallow: /x", ["/x"], []),  # the less restrictive of two equals
        ("Disallow: *.gif$", ["/a.gift", "/a.gif?x"], ["/a.gif", "/d/b.gif"]),
        ("Disallow: /this/*/exactly$", ["/this/x/exactly/not"], ["/this/x/exactly"]),
        ("Disallow: /caf%C3%A9", ["/cafe"], ["/caf%C3%A9"]),
        ("Disallow: /café", ["/cafe"], ["/caf%C3%A9"]),
        ("Disallow:", ["/", "/anything"], []),
        ("Disallow: /", [], ["/", "/a"]),
        ("disallow : /a # why not\nALLOW: /a/b", ["/a/b", "/b"], ["/a"]),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_rules_are_those_of_rfc_9309(rules, allowed, denied, newline):
    text = f"User-agent: *\n{rules}\n".replace("\n", newline)
    assert allows(text, *allowed) == [True] * len(allowed)
    assert allows(text, *denied) == [False] * len(denied)


def test_our_own_group_wins_over_the_one_for_all():
    text = "User-agent: *\nDisallow: /\n\nUser-agent: other\nUser-agent: RayMill\nDisallow: /ours\n"
    assert allows(text, "/", "/ours") == [True, False]
    assert Robots(text, "somebody/2").allows("http://example.org/a") is False


def test_a_byte_order_mark_does_not_hide_the_first_group():
    text = b"\xef\xbb\xbfUser-agent: *\nDisallow: /private\n".decode()
    assert allows(text, "/private", "/") == [False, True]


@given(st.text())
def test_any_text_is_some_robots_txt(text):
    robots = Robots(text, AGENT)
    assert robots.allows("http://example.org/a") in (True, False)
    assert robots.delay_seconds >= 0
    assert all(url.startswith(("http://", "https://")) for url in robots.sitemaps)


@pytest.mark.parametrize(
    ("rules", "seconds"),
    [("", 0), ("Crawl-delay: 2.5", 2.5), ("Request-rate: 1/5", 5), ("Request-rate: 2/1m", 30),
     ("Crawl-delay: 7\nRequest-rate: 1/5", 7), ("Crawl-delay: soon", 0)],
)  # fmt: skip
def test_the_slower_of_delay_and_rate_counts(rules, seconds):
    assert Robots(f"User-agent: *\n{rules}\n", AGENT).delay_seconds == seconds


def test_sitemaps_are_named_once_in_normal_form():
    text = "Sitemap: HTTP://Example.org:80/s.xml\nsitemap: http://example.org/s.xml\nSitemap: /relative.xml\nSitemap:\n"
    assert Robots(text, AGENT).sitemaps == ["http://example.org/s.xml"]


@pytest.mark.parametrize(
    ("agent", "token"),
    [("raymill/1.0 (+https://x)", "raymill"), ("RayMill", "raymill"), ("raymill bot/2", "raymill")],
)
def test_product_token(agent, token):
    assert product_token(agent) == token


URLSET = (
    '<?xml version="1.0"?><urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">'
    "<url><loc> http://example.org/a?x=1&amp;y=2 </loc><lastmod>2026-01-01</lastmod></url>"
    "<url><loc>/b</loc></url><url><loc>/b#again</loc></url><url/><url><loc>ftp://example.org/c</loc></url></urlset>"
)
PAGES = ["http://example.org/a?x=1&y=2", "http://example.org/b"]


@pytest.mark.parametrize(
    "body",
    [
        URLSET.encode(),
        b"\xef\xbb\xbf\n" + URLSET.partition("?>")[2].encode(),
        gzip.compress(URLSET.encode()),
        URLSET.replace(' xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"', "").encode(),
        b"http://example.org/a?x=1&y=2\r\n\r\n/b\n",
    ],
    ids=["xml", "bom", "gzip", "no namespace", "plain"],
)
def test_sitemaps_in_every_dress(body):
    assert read_sitemap("http://example.org/sitemap.xml", body) == Sitemap(PAGES, [])


def test_an_index_names_sitemaps_not_pages():
    body = b"<sitemapindex><sitemap><loc>/one.xml</loc></sitemap></sitemapindex>"
    assert read_sitemap("http://example.org/s.xml", body) == Sitemap([], ["http://example.org/one.xml"])


def test_an_entity_bomb_and_a_gzip_bomb_stay_small():
    entities = '<!ENTITY a "http://example.org/">' + "".join(
        f'<!ENTITY {name} "{f"&{before};" * 10}">' for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    )
    bomb = f"<!DOCTYPE u [{entities}]><urlset><url><loc>&i;</loc></url><url><loc>/ok</loc></url></urlset>"
    assert read_sitemap("http://example.org/s.xml", bomb.encode()).pages in (["http://example.org/ok"], [])
    zeros = gzip.compress(b"\0" * (2 * SITEMAP_MAX_BYTES), compresslevel=1)
    assert read_sitemap("http://example.org/s.xml", zeros).sitemaps == []


@given(st.binary() | st.binary().map(gzip.compress) | st.binary().map(lambda rest: b"<urlset><url><loc>/a" + rest))
def test_any_bytes_are_read_or_left(body):
    found = read_sitemap("http://example.org/s.xml", body)
    assert all(url.startswith(("http://", "https://")) for url in [*found.pages, *found.sitemaps])
    read_sitemap("http://example.org/s.xml", gzip.compress(URLSET.encode())[: len(body)])
