"""The address alone must reject what is listed, nothing that only looks like it, and every such document is counted."""

import json
import random

import pytest

from core.errors import UserError
from data_engine.url_filter import UrlConfig, UrlFilter
from tests.data_engine import corpora
from tests.data_engine.test_build import build


@pytest.fixture
def lists(tmp_path):
    (tmp_path / "domains").write_text("# adult\nbad.example\nShop.Example.org  # a shop\n\n", encoding="utf-8")
    (tmp_path / "urls").write_text("http://news.example/page/\nnews.example/a?b=1\n", encoding="utf-8")
    (tmp_path / "soft").write_text("casino\nbonus\nfree-spins\n", encoding="utf-8")
    return UrlConfig(
        domains=[str(tmp_path / "domains")],
        urls=[str(tmp_path / "urls")],
        soft_word_files=[str(tmp_path / "soft")],
        hard_words=["XXX"],
        hard_parts=["freepills"],
    )


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://bad.example/", "url:domain"),
        ("https://a.b.bad.example:8080/x", "url:domain"),
        ("https://user@SHOP.example.org/", "url:domain"),
        ("https://notbad.example/", None),
        ("https://bad.example.com/", None),
        ("https://example.org/?u=bad.example", None),
        ("https://news.example/page#top", "url:listed"),
        ("http://www.news.example/a?b=1", "url:listed"),
        ("http://news.example/page/2", None),
        ("https://x.example/xxx/1", "url:hard_word"),
        ("https://x.example/xxxl-shirts", None),
        ("https://x.example/casino", None),
        ("https://x.example/casino/casino", None),
        ("https://x.example/Casino-BONUS", "url:soft_words"),
        ("https://x.example/free--pills.html", "url:hard_part"),
        ("file:///data/book.txt", None),
        ("http://[broken", None),
        ("", None),
    ],
)
def test_the_rule_that_rejects_an_address(lists, url, reason):
    found = UrlFilter(lists)(url)
    assert (found.reason if found else None) == reason


@pytest.mark.parametrize(
    ("line", "message"),
    [("http://bad.example/x", "line 1: 'http://bad.example/x' is no domain"), ("one two", "is no domain")],
)
def test_a_wrong_line_of_a_list_is_named(tmp_path, line, message):
    (tmp_path / "domains").write_text(line, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        UrlFilter(UrlConfig(domains=[str(tmp_path / "domains")]))


def test_rejected_addresses_are_counted_and_never_extracted(tmp_path, lists):
    rng = random.Random(3)
    urls = [f"https://good.example/{n}" for n in range(6)] + ["https://bad.example/1", "https://x.example/xxx"]
    lines = [json.dumps({"text": corpora.document(rng, 200), "url": url, "date": "2026-01-01"}) for url in urls]
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    manifest, run = build(tmp_path, [tmp_path / "in.jsonl"], url=lists.model_dump())
    rejected = manifest.counts["rejected"]
    assert rejected["url:domain"] == 1
    assert rejected["url:hard_word"] == 1
    assert manifest.counts["read"] == 8 == manifest.counts["kept"] + sum(rejected.values())
    measured = corpora.read_all(run / "measured")
    assert {row["url"]: row["text"] for row in measured}["https://bad.example/1"] == ""
    rows = corpora.read_all(run / "rejects")
    assert {row["url"] for row in rows if row["reason"].startswith("url:")} == set(urls[6:])
