"""URLs of a crawl: one normal form for each address, links made absolute, and which addresses are in scope."""

import re
from collections.abc import Sequence
from functools import lru_cache

import httpx
from yarl import URL

_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_HOST = re.compile(r"[a-z0-9._:\-]+")  # a name, an IPv4 or an IPv6 address
_ESCAPED_DOT = re.compile("%2[eE]")
_ESCAPE = re.compile("%([0-9A-Fa-f]{2})")
_ENDS_IN_DOTS = re.compile(r"^([^?#]*/\.{1,2})(?=[?#]|$)")
_STRIPPED = re.compile(r"[\t\n\r]")  # WHATWG URL: removed wherever they stand
_UNSEEN = re.compile(r"[\x00-\x20\x7f]")  # WHATWG URL: escaped where it stands in a path or a query
_C0_AND_SPACE = "".join(map(chr, range(0x21)))
_MAX_PORT = 65535
_CACHED_URLS = 65_536


@lru_cache(_CACHED_URLS)
def normalise(url: str) -> str | None:
    """The normal form of an http(s) URL (RFC 3986, section 6.2.2), or None when it is none.

    Case of scheme and host, international hosts, default ports, dot segments and percent-encoding are normalised;
    the fragment, an empty query, user names, passwords and the root dot of the host are dropped.
    """
    url = _STRIPPED.sub("", url.strip(_C0_AND_SPACE))
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    if scheme not in ("http", "https"):
        return None
    try:
        rest = _UNSEEN.sub(_escape, rest)
        # Escapes first: %2e%2e is a dot segment too. And /a/b/.. is the folder /a/, which httpx takes for /a.
        rest = _ENDS_IN_DOTS.sub(r"\1/", _ESCAPE.sub(_normal_escape, rest))
        parsed = httpx.URL(f"{scheme}://{rest}")
        host, port = parsed.raw_host.decode("ascii").rstrip(".").lower(), parsed.port
    except (httpx.InvalidURL, ValueError):
        return None
    if not _HOST.fullmatch(host) or (port is not None and not 0 < port <= _MAX_PORT):
        return None
    host = f"[{host}]" if ":" in host else host
    authority = host if port is None else f"{host}:{port}"
    path = parsed.raw_path.decode("ascii")
    return f"{scheme}://{authority}{path if parsed.query else path.removesuffix('?')}"


def _escape(match: re.Match[str]) -> str:
    return f"%{ord(match[0]):02X}"


def _normal_escape(match: re.Match[str]) -> str:
    character = chr(int(match.group(1), 16))
    return character if character in _UNRESERVED else f"%{match.group(1).upper()}"


def resolve(base: str, reference: str) -> str | None:
    """The normal form of a link found on the page `base`, or None when it is no http(s) address."""
    reference = _STRIPPED.sub("", reference.strip(_C0_AND_SPACE))
    reference = _ESCAPED_DOT.sub(".", _UNSEEN.sub(_escape, reference))  # WHATWG URL: %2e%2e leaves a folder as .. does
    if not reference or reference.startswith("#"):
        return None
    if reference.startswith("/") and not reference.startswith("//"):
        return normalise(origin(base) + reference)  # the usual kind of link; a join costs several times as much
    try:
        # urllib's join drops what is empty: segments, parameters. RFC 3986, 5.2 does not.
        return normalise(str(URL(base, encoded=True).join(URL(reference, encoded=True))))
    except ValueError:
        return None


@lru_cache(_CACHED_URLS)
def origin(url: str) -> str:
    """Scheme, host and port of a normal URL, as `http://example.org:8000`: what one robots.txt speaks for."""
    return url[: url.index("/", 8)]


@lru_cache(_CACHED_URLS)
def host(url: str) -> str:
    """Host of a normal URL without its port: what politeness speaks of."""
    name = origin(url).partition("://")[2]
    return name[: name.index("]") + 1] if name.startswith("[") else name.partition(":")[0]


class Scope:
    """Which URLs belong to a crawl.

    allow: hosts (`example.org`, `example.org:8000`) or URL prefixes (`http://example.org/docs/`); deny: regular
    expressions searched in the URL; max_length: characters of a URL, since crawler traps grow them without end.
    """

    def __init__(self, allow: Sequence[str], deny: Sequence[str], max_length: int) -> None:
        prefixes = [normalise(entry) if "://" in entry else None for entry in allow]
        self._prefixes = tuple(prefix for prefix in prefixes if prefix is not None)
        hosts = [normalise(f"http://{entry}/") for entry in allow if "://" not in entry]
        self._hosts = frozenset(origin(url).partition("://")[2] for url in hosts if url is not None)
        self._deny = [re.compile(pattern) for pattern in deny]
        self._max_length = max_length

    def refusal(self, url: str) -> str | None:
        """Why a normal URL is left out, as `outside_scope`, or None when it is in."""
        authority = origin(url).partition("://")[2]
        if authority not in self._hosts and host(url) not in self._hosts and not url.startswith(self._prefixes):
            return "outside_scope"
        if len(url) > self._max_length:
            return "url_length"
        if any(pattern.search(url) for pattern in self._deny):
            return "denied_pattern"
        return None
