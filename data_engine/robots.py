"""robots.txt (RFC 9309) and the sitemaps that it names."""

import gzip
import io
import zlib
from dataclasses import dataclass

from lxml import etree
from protego import Protego

from data_engine import urls

MAX_BYTES = 512_000
"""RFC 9309, section 2.5: at least 500 KiB must be read."""

SITEMAP_MAX_BYTES = 52_428_800
"""sitemaps.org: a sitemap is at most 50 MiB uncompressed."""


class Robots:
    """What one origin's robots.txt asks of us.

    text: its content, empty when the origin has none; user_agent: our full User-Agent, whose first product token is
    matched against the groups.
    """

    def __init__(self, text: str, user_agent: str) -> None:
        self._agent = product_token(user_agent)
        self._rules = Protego.parse(text.removeprefix("\ufeff"))  # with a BOM the first group would be lost

    def allows(self, url: str) -> bool:
        """Whether we may fetch a URL of this origin."""
        return bool(self._rules.can_fetch(url, self._agent))

    @property
    def delay_seconds(self) -> float:
        """Seconds between requests: the larger of Crawl-delay and Request-rate, 0 without them."""
        rate = self._rules.request_rate(self._agent)
        spacing = rate.seconds / rate.requests if rate is not None and rate.requests else 0.0
        return max(float(self._rules.crawl_delay(self._agent) or 0.0), spacing)

    @property
    def sitemaps(self) -> list[str]:
        """Sitemap addresses in normal form."""
        found = (urls.normalise(address) for address in self._rules.sitemaps)
        return list(dict.fromkeys(address for address in found if address is not None))


def product_token(user_agent: str) -> str:
    """`raymill/1.0 (+https://example.org)` -> `raymill`."""
    return user_agent.partition("/")[0].partition(" ")[0].lower()


@dataclass(frozen=True)
class Sitemap:
    """Addresses of one sitemap file, in normal form: pages, and further sitemaps when it is an index."""

    pages: list[str]
    sitemaps: list[str]


def read_sitemap(url: str, body: bytes) -> Sitemap:
    """Read a sitemap (XML, its gzip, or a plain list of URLs). What cannot be read gives no addresses."""
    if body[:2] == b"\x1f\x8b":
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(body)) as file:
                body = file.read(SITEMAP_MAX_BYTES)
        except (OSError, EOFError, zlib.error):
            return Sitemap([], [])
    if not body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return Sitemap(_normal(url, body.decode("utf-8", "replace").splitlines()), [])
    # Entities stay unresolved and nothing is loaded: a sitemap is input from strangers.
    parser = etree.XMLParser(resolve_entities=False, no_network=True, recover=True, remove_comments=True)
    try:
        root = etree.fromstring(body, parser)
    except etree.XMLSyntaxError:
        root = None
    if root is None:
        return Sitemap([], [])
    located: dict[str, list[str]] = {"url": [], "sitemap": []}
    for element in root.iter("{*}loc"):
        parent = element.getparent()
        kind = etree.QName(parent).localname if parent is not None else ""
        if kind in located and element.text:
            located[kind].append(element.text)
    return Sitemap(_normal(url, located["url"]), _normal(url, located["sitemap"]))


def _normal(base: str, references: list[str]) -> list[str]:
    found = (urls.resolve(base, reference) for reference in references if reference.strip())
    return list(dict.fromkeys(address for address in found if address is not None))
