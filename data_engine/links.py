"""Links of an HTML page, and what the page itself asks of crawlers."""

import codecs
from dataclasses import dataclass, field

from lxml import etree

from data_engine import urls


@dataclass
class PageLinks:
    """Links in normal form, each once, in page order; `nofollow` links are those that only occur marked so."""

    follow: list[str] = field(default_factory=list)
    nofollow: list[str] = field(default_factory=list)
    noindex: bool = False


def directives(header: str, agent: str) -> set[str]:
    """The directives of an X-Robots-Tag header that speak to `agent` (a product token in lower case) or to all.

    `noindex, nofollow` and `raymill: noindex` are understood; `none` means both.
    """
    found: set[str] = set()
    speaks_to_us = True
    for part in header.lower().split(","):
        name, colon, value = part.strip().partition(":")
        if colon and name != "unavailable_after":
            speaks_to_us = name.strip() == agent
        if speaks_to_us:
            found.add((value if colon else name).strip())
    return found | {"noindex", "nofollow"} if "none" in found else found


def read_page(url: str, body: bytes, charset: str | None, agent: str, header: str = "") -> PageLinks:
    """Links of `<a>` and `<area>`, `rel=nofollow`, `<base>`, and robots directives of the page and of `header`.

    url: where the page was fetched; charset: as the HTTP header says, None lets the page's own declaration count;
    header: value of X-Robots-Tag. Broken markup gives what can be read of it.
    """
    asked = directives(header, agent)
    links: dict[str, bool] = {}  # URL to whether it may be followed
    base = url
    for element in _elements(body, charset):
        if element.tag == "meta":
            if element.get("name", "").strip().lower() in ("robots", agent):
                asked |= directives(element.get("content", "").replace(":", " "), agent)
        elif element.tag == "base":
            base = urls.resolve(url, element.get("href", "")) or base
        elif (reference := element.get("href")) and (target := urls.resolve(base, reference)) is not None:
            marked = "nofollow" in element.get("rel", "").lower().split()
            links[target] = links.get(target, False) or not marked
    all_marked = "nofollow" in asked
    return PageLinks(
        follow=[link for link, follow in links.items() if follow and not all_marked],
        nofollow=[link for link, follow in links.items() if all_marked or not follow],
        noindex="noindex" in asked,
    )


def _elements(body: bytes, charset: str | None) -> "list[etree._Element]":
    parser = etree.HTMLParser(encoding=_known(charset), no_network=True, remove_comments=True)
    try:
        root = etree.fromstring(body, parser) if body.strip() else None
    except (etree.XMLSyntaxError, ValueError):
        root = None
    return [] if root is None else list(root.iter("a", "area", "base", "meta"))


def _known(charset: str | None) -> str | None:
    """The charset when both Python and libxml2 are likely to know it."""
    if charset is None:
        return None
    try:
        name = codecs.lookup(charset).name
        etree.HTMLParser(encoding=name)
    except LookupError:
        return None
    return name
