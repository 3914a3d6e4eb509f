"""The quickstart's site: the same bytes each time, made by parsing alone, with all that the answer key speaks of."""

import hashlib
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from urllib.parse import quote, urljoin, urlsplit

import pytest
import yaml
from lxml import etree, html

from tests.conftest import ROOT

FOLDER = ROOT / "examples" / "quickstart"
MIN_PLANTED, MIN_LANGUAGES = 60, 8

# A process of its own: `site` and `pages` are names that the test process must not take.
_BUILD = """
import importlib.util, json, sys
sys.path.insert(0, sys.argv[1])
spec = importlib.util.spec_from_file_location("quickstart_site", sys.argv[1] + "/site.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
site = module.Site(small=True)
imported = sorted(sys.modules)
from pages import planted, selection
answers = {url: found() if callable(found) else found for url, found in site.answers.items()}
answers |= {f"/{name}": site.answer(f"/{name}", "docs.test") for name in ["robots.txt", "sitemap.xml", *site.sitemaps]}
json.dump({
    "imported": imported,
    "documented": sorted([*selection.PACKAGES, *selection.STANDARD]),
    "planted": [[page.url, page.language, page.charset] for page in planted.read()],
    "answers": {
        url: [a.status, a.media_type, a.headers, a.body.decode("latin-1")] for url, a in answers.items()
    },
}, sys.stdout)
"""


def build(seed):
    """The small site as a fresh process makes it; PYTHONHASHSEED decides the order of sets there."""
    command = [sys.executable, "-c", _BUILD, str(FOLDER)]
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    answer = subprocess.run(command, capture_output=True, check=False, env=environment, cwd=FOLDER.parent)
    assert answer.returncode == 0, answer.stderr.decode()
    return json.loads(answer.stdout)


@pytest.fixture(scope="module")
def site():
    return build("1")


@pytest.fixture(scope="module")
def pages(site):
    """HTML by URL: status 200, and no page of another kind."""
    return {
        url: body.encode("latin-1")
        for url, (status, media_type, _, body) in site["answers"].items()
        if status == 200 and media_type.startswith("text/html") and url != "/archive/everything.html"
    }


@pytest.fixture(scope="module")
def key():
    return yaml.safe_load((FOLDER / "answer_key.yaml").read_text(encoding="utf-8"))["pages"]


def test_same_packages_give_the_same_bytes(site):
    assert build("2")["answers"] == site["answers"]


def test_nothing_that_is_documented_is_imported(site):
    """Importing a package runs it: it costs seconds, may print, warn, or take the GPU."""
    needed = {"abc", "argparse", "ast", "re", "json", "html", "http", "socketserver"}
    imported = set(site["imported"])
    third_party = {name for name in site["documented"] if name not in sys.stdlib_module_names}
    assert len(third_party) > 10
    assert not third_party & imported
    assert not {"turtle", "pdb", "statistics", "wsgiref", "sqlite3", "xmlrpc", "tarfile"} & imported
    assert needed <= imported, "the list of imported modules is not what it says"


def test_reference_documents_packages_and_projects(pages):
    assert sum(url.startswith("/standard/") for url in pages) > 100
    assert sum(url.startswith("/packages/datasketch/") for url in pages) > 5
    assert sum(url.startswith("/projects/") for url in pages) >= 10
    page = html.fromstring(pages["/standard/textwrap.wrap.html"].decode())
    assert page.findtext(".//h1") == "textwrap.wrap"
    assert "Wrap a single paragraph of text" in page.find(".//article").text_content()


def test_many_pages_are_planted_in_many_languages(site, pages):
    planted = site["planted"]
    assert len(planted) >= MIN_PLANTED
    assert len({language for _, language, _ in planted}) >= MIN_LANGUAGES
    assert {charset for _, _, charset in planted} >= {"utf-8", "iso-8859-1", "shift_jis"}
    for url, _, charset in planted:
        assert "�" not in pages[url].decode(charset)


def test_answer_key_and_planted_pages_are_the_same_set(site, key):
    told = [entry["url"] for entry in key]
    assert len(told) == len(set(told))
    planted = {url for url, _, _ in site["planted"]}
    assert planted <= set(told), "a planted page whose fate is not told"
    assert set(told) <= set(site["answers"]), "the key tells of a page that the site does not have"
    assert {entry["survivor"] for entry in key if "survivor" in entry} <= planted
    assert {entry["expect"] for entry in key} >= {"kept", "rejected", "duplicate"}


def test_exact_copies_have_the_same_text_and_near_copies_do_not(pages, key):
    def text(url):
        return html.fromstring(pages[url].decode()).find(".//article").text_content()

    copies = {kind: [e for e in key if e.get("kind") == kind] for kind in ("exact", "near")}
    assert all(len(found) >= 3 for found in copies.values())
    assert all(text(entry["url"]) == text(entry["survivor"]) for entry in copies["exact"])
    assert all(text(entry["url"]) != text(entry["survivor"]) for entry in copies["near"])


def test_what_must_vanish_from_a_page_stands_on_it(pages, key, site):
    """Otherwise the scrubbing of a page would pass without anything to scrub."""
    charsets = {url: charset for url, _, charset in site["planted"]}
    checked = 0
    for entry in key:
        for absent in entry.get("absent", []) if entry["expect"] == "kept" else []:
            assert absent in pages[entry["url"]].decode(charsets[entry["url"]]), entry["url"]
            checked += 1
    assert checked >= 10


def test_no_page_acts_in_a_browser(pages):
    for url, body in pages.items():
        root = etree.fromstring(body, etree.HTMLParser())
        for element in root.iter("*"):
            assert element.tag not in ("script", "iframe", "object", "embed", "link"), (url, element.tag)
            assert not any(name.lower().startswith("on") for name in element.attrib), (url, dict(element.attrib))
            address = (element.get("href") or element.get("src") or element.get("action") or "").strip().lower()
            assert not address.startswith(("javascript:", "data:", "vbscript:")), (url, address)
        refresh = root.xpath("//meta[@http-equiv]/@http-equiv")
        assert "refresh" not in [value.lower() for value in refresh], url


def test_every_link_of_the_frame_leads_to_a_page(site, pages):
    """Links of navigation, sidebars and listings; what a documented text links to is its own affair."""
    known = set(site["answers"]) | {"/missing.html", "/calendar/2026-01.html"}
    counted = 0
    for url, body in pages.items():
        root = etree.fromstring(body, etree.HTMLParser())
        frame = root.xpath("//header//a/@href | //aside[@class='sidebar']//a/@href | //footer//a/@href")
        listing = root.xpath("//article/ul/li/a/@href") if url.endswith("/") or "/part-" in url else []
        for reference in [*frame, *listing]:
            target = urlsplit(urljoin(f"http://docs.test{url}", reference))
            if target.netloc == "docs.test":
                assert target.path in known, f"{url} links to {target.path}"
                counted += 1
    assert counted > 1000


def test_sitemaps_name_pages_that_exist(site):
    namespace = "{http://www.sitemaps.org/schemas/sitemap/0.9}"

    def locations(url):
        status, media_type, _, body = site["answers"][url]
        assert (status, media_type) == (200, "application/xml")
        return [urlsplit(e.text).path for e in etree.fromstring(body.encode("latin-1")).iter(f"{namespace}loc")]

    maps = locations("/sitemap.xml")
    listed = [path for one in maps for path in locations(one)]
    assert len(maps) >= 3
    assert len(listed) == len(set(listed)) > MIN_PLANTED
    assert set(listed) <= set(site["answers"])
    assert "Sitemap: http://docs.test/sitemap.xml" in site["answers"]["/robots.txt"][3]


# --- served -----------------------------------------------------------------------------------------------------------


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


@pytest.fixture(scope="module")
def get():
    """GET from the site as `python examples/quickstart/site.py --small` serves it."""
    command = [sys.executable, str(FOLDER / "site.py"), "--port", "0", "--small"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        ready = process.stdout.readline()
        assert ready.startswith("ready: http://127.0.0.1:"), ready
        address = ready.split()[1].rstrip("/")
        opener = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({}))

        def request(path):
            try:
                answer = opener.open(address + path, timeout=30)
            except urllib.error.HTTPError as error:
                answer = error
            with answer:
                return answer.status, dict(answer.headers), answer.read()

        request.address = address
        yield request
    finally:
        process.kill()
        process.wait()


def test_served_bytes_are_those_of_the_site(site, get):
    for url in ["/", "/planted/de/latin1.html", "/planted/zh/chaguan.html", "/standard/", "/about.html"]:
        status, headers, body = get(quote(url))
        assert status == 200
        assert headers["Content-Type"] == site["answers"][url][1]
        assert hashlib.sha256(body).digest() == hashlib.sha256(site["answers"][url][3].encode("latin-1")).digest()
        assert not {"Date", "Server", "Set-Cookie"} & set(headers), "a header that differs from run to run"


def test_special_answers_are_what_a_crawler_must_cope_with(get):
    assert get("/missing.html")[0] == 404
    status, headers, body = get("/old/about.html")
    assert (status, headers["Location"], body) == (301, "/about.html", b"")
    first, second = get("/unsteady.html"), get("/unsteady.html")
    assert (first[0], first[1]["Retry-After"], second[0]) == (503, "1", 200)
    assert len(get("/archive/everything.html")[2]) > 10_000_000
    assert b"/calendar/2026-02.html" in get("/calendar/2026-01.html")[2]
    assert get("/calendar/2026-13.html")[0] == 404
    assert get("/standard/?page=2")[0] == 200, "a query does not change the page"
    robots = get("/robots.txt")[2].decode()
    assert "Disallow: /private/" in robots
    assert f"Sitemap: {get.address}/sitemap.xml" in robots


@pytest.mark.parametrize("port", ["taken", "-1", "70000"])
def test_a_port_that_cannot_be_had_is_one_line(get, port):
    port = get.address.rpartition(":")[2] if port == "taken" else port
    answer = subprocess.run(
        [sys.executable, str(FOLDER / "site.py"), "--port", port, "--small"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode != 0
    assert answer.stderr.startswith(f"site.py: --port {port}: ")
    assert answer.stderr.count("\n") == 1
