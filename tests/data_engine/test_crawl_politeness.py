"""The crawler's manners: robots.txt, the pace towards a host, retries and backing off, patience and its end."""

import time
from itertools import pairwise

import pytest

from core.errors import RaymillError
from tests.data_engine.web import Reply, Web, crawl, links


def test_robots_txt_is_obeyed(tmp_path):
    robots = "User-agent: raymill\nDisallow: /private/\nAllow: /private/open.html\n\nUser-agent: *\nDisallow: /\n"
    web = Web(
        {
            "/robots.txt": Reply(robots, headers={"Content-Type": "text/plain"}),
            "/": links("/private/secret.html", "/private/open.html", "/private/"),
            "/private/open.html": links("/private/more.html"),
        }
    )
    with web.serve():
        manifest, found = crawl(web, tmp_path)
        assert sorted(web.paths) == ["/", "/private/open.html"]
        assert found["/private/secret.html"]["state"] == "robots_denied"
        assert manifest.counts["robots_denied"] == 3
        with pytest.raises(RaymillError, match="robots denied 1"):
            crawl(web, tmp_path / "other", user_agent="other/1.0")


@pytest.mark.parametrize(("status", "may_crawl"), [(404, True), (403, True), (503, False), (500, False), (429, False)])
def test_robots_txt_that_fails(tmp_path, status, may_crawl):
    web = Web({"/robots.txt": Reply("", status), "/": links("/a"), "/a": links()})
    with web.serve():
        if may_crawl:
            manifest, _ = crawl(web, tmp_path)
            assert manifest.counts["fetched"] == 2
        else:
            with pytest.raises(RaymillError, match=f"robots.txt answers {status}"):
                crawl(web, tmp_path, retries=1)
            assert web.paths == []


@pytest.mark.parametrize("source", ["config", "robots"])
def test_delay_between_requests(tmp_path, source):
    """Over all requests: how long one is on its way is not the crawler's doing."""
    robots = "User-agent: *\nCrawl-delay: 0.6\n" if source == "robots" else ""
    web = Web({"/robots.txt": robots, "/": links("/a", "/b", "/c"), "/a": links(), "/b": links(), "/c": links()})
    with web.serve():
        began = time.monotonic()
        crawl(web, tmp_path, delay_seconds=0.6 if source == "config" else 0.01, connections_per_host=1)
        seconds = time.monotonic() - began
    assert len(web.asked) == 5
    # between robots.txt and the first page only the configured delay is known
    assert seconds >= 3 * 0.6, "without a delay it is 0.2, or 1.2 where the crawler is loaded first"


def test_connections_per_host_are_bounded(tmp_path):
    def slow(_):
        time.sleep(0.03)
        return Reply(links())

    web = Web({"/": links(*(f"/{n}" for n in range(30))), **{f"/{n}": slow for n in range(30)}})
    with web.serve():
        crawl(web, tmp_path, connections_per_host=3)
    assert web.most_at_once == 3


def test_temporary_failures_are_retried_and_others_are_not(tmp_path):
    def unsteady(status, failures):
        return lambda before: Reply("", status) if before < failures else Reply(links())

    web = Web(
        {
            "/": links("/busy", "/many", "/always", "/forbidden"),
            "/busy": unsteady(503, 2),
            "/many": unsteady(429, 1),
            "/always": unsteady(500, 99),
            "/forbidden": Reply("", 403),
        }
    )
    with web.serve():
        manifest, found = crawl(web, tmp_path, retries=2)
    assert [web.paths.count(path) for path in ("/busy", "/many", "/always", "/forbidden")] == [3, 2, 3, 1]
    assert (found["/busy"]["state"], found["/busy"]["tries"]) == ("fetched", 3)
    assert manifest.counts["failed_by_reason"] == {"http_403": 1, "http_500": 1}


def test_the_pause_before_a_retry_doubles_up_to_its_limit(tmp_path):
    web = Web({"/": links("/always"), "/always": Reply("", 503)})
    with web.serve():
        crawl(web, tmp_path, retries=4, backoff_seconds=0.1, max_backoff_seconds=0.3)
    times = [moment for moment, _, path, _ in web.asked if path == "/always"]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert len(gaps) == 4
    assert all(gap >= 0.9 * pause for gap, pause in zip(gaps, (0.1, 0.2, 0.3, 0.3), strict=True))


def test_retry_after_stops_the_whole_host(tmp_path):
    busy = Reply("", 503, {"Retry-After": "1"})
    pages = {"/": links("/busy", *(f"/{n}" for n in range(5))), **{f"/{n}": links() for n in range(5)}}
    web = Web({**pages, "/busy": lambda before: busy if before == 0 else Reply(links())})
    with web.serve():
        manifest, _ = crawl(web, tmp_path, connections_per_host=1)
    assert manifest.counts["fetched"] == 7
    first = next(moment for moment, _, path, _ in web.asked if path == "/busy")
    later = [moment for moment, *_ in web.asked if moment > first]
    assert min(later) - first >= 0.95


def test_a_server_that_asks_for_too_much_patience_is_left_alone(tmp_path):
    web = Web({"/": links("/busy"), "/busy": Reply("", 503, {"Retry-After": "86400"})})
    with web.serve():
        manifest, _ = crawl(web, tmp_path, max_backoff_seconds=0.1)
    assert manifest.counts["failed_by_reason"] == {"retry_after": 1}
    assert web.paths.count("/busy") == 1


def test_a_server_that_drips_is_given_up(tmp_path):
    def drip(wfile):
        for _ in range(100):
            wfile.write(b"x")
            wfile.flush()
            time.sleep(0.05)

    web = Web({"/": links("/slow"), "/slow": Reply(send=drip)})
    with web.serve():
        manifest, found = crawl(web, tmp_path, timeout_seconds=0.5, retries=1)
    assert manifest.counts["failed_by_reason"] == {"timeout": 1}
    assert found["/slow"]["tries"] == 2
