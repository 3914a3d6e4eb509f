"""URLs: one normal form for each address, against the examples of RFC 3986, yarl, and whatever hypothesis finds."""

import re
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

from data_engine import urls

hosts = st.sampled_from(["example.org", "EXAMPLE.org", "münchen.example", "a.b-c.example", "[::1]", "127.0.0.1", "x."])
ports = st.sampled_from(["", ":80", ":443", ":8000", ":"])
pieces = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    ["..", ".", "%2e%2E", "%2f", "%C3%A9", "%zz", "%", "a;b", "ü", "a b", "//", "\\", "[x]", "{y}", "|", "+", "'"]
)
addresses = st.builds(
    lambda scheme, user, host, port, path, query, fragment: (
        f"{scheme}://{user}{host}{port}/{'/'.join(path)}"
        + (f"?{'&'.join(query)}" if query else "")
        + (f"#{fragment}" if fragment else "")
    ),
    st.sampled_from(["http", "https", "HTTP", "hTTps"]),
    st.sampled_from(["", "", "user@", "user:pass@"]),
    hosts,
    ports,
    st.lists(pieces, max_size=5),
    st.lists(pieces, max_size=3),
    pieces,
)


@given(addresses)
@example("http://x/%252e%252e/a")
@example("http://x/%25%32%65")
def test_normalising_twice_changes_nothing(address):
    once = urls.normalise(address)
    assert once is None or urls.normalise(once) == once


@given(addresses | st.text())
def test_a_normal_url_is_plain_ascii_without_what_never_counts(address):
    normal = urls.normalise(address)
    if normal is None:
        return
    parts = urlsplit(normal)
    assert normal.isascii()
    assert normal.isprintable()
    assert " " not in normal
    assert "#" not in normal
    assert parts.username is None
    assert parts.hostname == parts.hostname.lower()
    assert parts.port not in (None, 80 if parts.scheme == "http" else 443) or parts.netloc == normal.split("/")[2]
    assert not {".", ".."} & set(parts.path.split("/"))
    assert normal == f"{urls.origin(normal)}{normal.removeprefix(urls.origin(normal))}"
    assert urls.host(normal).strip("[]") == parts.hostname


@pytest.mark.parametrize(
    "same",
    [
        ["http://example.org", "HTTP://EXAMPLE.ORG:80/", "http://example.org/#top", "http://u:p@example.org./"],
        ["http://example.org/~a", "http://example.org/%7Ea", "http://example.org/x/../%7ea", " http://example.org/~\na"],
        ["http://example.org/é?ü", "http://example.org/%C3%A9?%C3%BC", "http://example.org/%c3%a9?%c3%bc"],
        ["https://münchen.example/", "https://MÜNCHEN.example:443", "https://xn--mnchen-3ya.example/"],
        ["http://example.org/a", "http://example.org/a?", "http://example.org/a?#b"],
        ["http://example.org/a%1Fb?%7F", "http://example.org/a\x1fb?\x7f"],
        ["http://example.org/a/", "http://example.org/a/b/..", "http://example.org/a/%2E", "http://example.org/a/b/%2e."],
    ],
)  # fmt: skip
def test_spellings_of_one_address_have_one_form(same):
    assert len({urls.normalise(url) for url in same}) == 1
    assert urls.normalise(same[0]) is not None


def test_different_resources_keep_different_forms():
    different = [
        "/a",
        "/A",
        "/a/",
        "/a?",
        "/a?b",
        "/a?B",
        "/a%2Fb",
        "/a/b",
        "/a//b",
        "/a;b",
        "/a?x=1&y=2",
        "/a?y=2&x=1",
    ]
    assert len({urls.normalise(f"http://example.org{path}") for path in different} | {None}) >= len(different)


@pytest.mark.parametrize(
    "address",
    ["", "example.org", "//example.org/", "ftp://example.org/", "mailto:a@example.org", "javascript:void(0)", "http://",
     "http:///path", "http://exa mple.org/", "http://example.org:0/", "http://example.org:70000/", "http://a:b/",
     "http://[::1/", "http://a\\b/", 'http://"/', "data:text/html,x", "about:blank", "http://[fe80::1%25eth0]/"],
)  # fmt: skip
def test_what_is_no_web_address_is_none(address):
    assert urls.normalise(address) is None


# RFC 3986, section 5.4, with the base http://a/b/c/d;p?q; fragments and schemes other than http(s) left out
_RFC_3986 = {
    "g": "http://a/b/c/g", "./g": "http://a/b/c/g", "g/": "http://a/b/c/g/", "/g": "http://a/g", "//g": "http://g/",
    "?y": "http://a/b/c/d;p?y", "g?y": "http://a/b/c/g?y", "g#s": "http://a/b/c/g", "g?y#s": "http://a/b/c/g?y",
    ";x": "http://a/b/c/;x", "g;x": "http://a/b/c/g;x", "g;x?y#s": "http://a/b/c/g;x?y", ".": "http://a/b/c/",
    "./": "http://a/b/c/", "..": "http://a/b/", "../": "http://a/b/", "../g": "http://a/b/g", "../..": "http://a/",
    "../../": "http://a/", "../../g": "http://a/g", "../../../g": "http://a/g", "../../../../g": "http://a/g",
    "/./g": "http://a/g", "/../g": "http://a/g", "g.": "http://a/b/c/g.", ".g": "http://a/b/c/.g",
    "g..": "http://a/b/c/g..", "..g": "http://a/b/c/..g", "./../g": "http://a/b/g", "./g/.": "http://a/b/c/g/",
    "g/./h": "http://a/b/c/g/h", "g/../h": "http://a/b/c/h", "g;x=1/./y": "http://a/b/c/g;x=1/y",
    "g;x=1/../y": "http://a/b/c/y", "g?y/./x": "http://a/b/c/g?y/./x", "g?y/../x": "http://a/b/c/g?y/../x",
    "/x//y": "http://a/x//y", "/..//": "http://a//",
    "x//y": "http://a/b/c/x//y", "g;": "http://a/b/c/g;", "/;": "http://a/;", "g?": "http://a/b/c/g",
    "/ ?": "http://a/%20", "%2e%2e/%2E./g": "http://a/g", "x/%2e%2E/../g": "http://a/b/g",
    "http://g/": "http://g/", "mailto:x@y": None, "g:h": None, "#s": None, "": None,
}  # fmt: skip


@pytest.mark.parametrize(("reference", "expected"), _RFC_3986.items())
def test_references_resolve_as_rfc_3986_says(reference, expected):
    assert urls.resolve("http://a/b/c/d;p?q", reference) == expected


@given(addresses, st.lists(pieces, min_size=1, max_size=4).map("/".join), st.sampled_from(["", "/", "?", "../"]))
@example("http://example.org/", "/\x1f/..", "")
@example("http://example.org/", "/0/%2E%2E/..", "")
@example("http://example.org/", " ?", "/")
def test_the_short_way_to_resolve_equals_the_long_one(base, reference, lead):
    base, reference = urls.normalise(base), lead + reference
    stripped = urls._STRIPPED.sub("", reference.strip(urls._C0_AND_SPACE))
    if base is None or not stripped or stripped.startswith("#"):
        return
    stripped = re.sub("(?i)%2e", ".", re.sub(r"[\x00-\x20\x7f]", lambda unseen: quote(unseen[0]), stripped))
    try:
        expected = urls.normalise(str(URL(base, encoded=True).join(URL(stripped, encoded=True))))
    except ValueError:
        expected = None
    assert urls.resolve(base, reference) == expected


@pytest.mark.parametrize(
    ("allow", "inside", "outside"),
    [
        (["example.org"], ["http://example.org/a", "https://example.org:8443/"], ["http://www.example.org/"]),
        (["example.org:8000"], ["http://example.org:8000/"], ["http://example.org/", "http://example.org:8001/"]),
        (["example.org:80"], ["http://example.org/"], ["http://other.example/"]),
        (["München.example"], ["http://xn--mnchen-3ya.example/"], ["http://munchen.example/"]),
        (["http://example.org"], ["http://example.org/"], ["http://example.org.evil.example/", "https://example.org/"]),
        (["http://example.org/docs/"], ["http://example.org/docs/x"], ["http://example.org/", "http://a/docs/"]),
    ],
)
def test_scope_is_hosts_or_prefixes(allow, inside, outside):
    scope = urls.Scope(allow, [], 100)
    assert [scope.refusal(urls.normalise(url)) for url in inside] == [None] * len(inside)
    assert [scope.refusal(urls.normalise(url)) for url in outside] == ["outside_scope"] * len(outside)


def test_scope_names_the_first_reason():
    scope = urls.Scope(["example.org"], [r"[?&]print=", r"\.pdf$"], 40)
    reasons = {
        "/a.pdf": "denied_pattern",
        "/a?print=1": "denied_pattern",
        "/a.pdf?x": None,
        "/" + "a" * 40: "url_length",
    }
    assert {path: scope.refusal(f"http://example.org{path}") for path in reasons} == reasons
    assert scope.refusal("http://other.example/a.pdf") == "outside_scope"
