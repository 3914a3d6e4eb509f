"""The answer key finds what differs, and says it."""

import random

import pytest
import yaml

from core import config
from core.errors import RaymillError, UserError
from data_engine.build import STAGE
from tests.data_engine import corpora
from tests.data_engine.test_build import BASE

PROSE = corpora.document(random.Random(0), 200)
ROWS = [
    {"url": "http://h:1/kept?x=1", "text": PROSE + " Write to anna@example.org.", "date": "2026-01-01"},
    {"url": "http://h:1/short", "text": "Too short."},
    {"url": "http://h:1/copy", "text": PROSE + " Write to anna@example.org.", "date": "2026-01-02"},
    {"url": "http://h:1/near", "text": PROSE, "date": "2026-01-03"},
]
KEY = [
    {"url": "/kept?x=1", "expect": "kept", "contains": ["<EMAIL>"], "absent": ["anna@"]},
    {"url": "/short", "expect": "rejected", "reason": "gopher_quality:short_doc"},
    {"url": "http://h:1/copy", "expect": "duplicate", "kind": "exact", "survivor": "/kept?x=1"},
    {"url": "/near", "expect": "duplicate", "kind": "near", "survivor": "/kept?x=1"},
]


def build(tmp_path, key):
    corpora.write_jsonl(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "key.yaml").write_text(yaml.safe_dump({"pages": key}))
    policies = BASE["policies"] | {"gopher_quality": {"min_stop_words": None, "max_mean_word_length": None}}
    settings = {
        "output": str(tmp_path / "run"),
        "sources": [{"name": "s", "paths": [str(tmp_path / "a.jsonl")]}],
        **BASE,
        "policies": policies,
        "dedup": {"survivor": "oldest"},
        "answer_key": str(tmp_path / "key.yaml"),
    }
    return STAGE.execute(config.parse(STAGE.config, settings, "test"))[0]


def test_a_met_key_is_counted_and_reported(tmp_path):
    manifest = build(tmp_path, KEY)
    assert manifest.metrics["answer_key"] == "4 of 4"
    assert "4 of 4" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    ("number", "change", "message"),
    [
        (0, {"expect": "rejected"}, "expected rejected, was kept"),
        (0, {"contains": ["anna@"]}, r"lacks 'anna@'"),
        (0, {"absent": ["EMAIL"]}, r"still holds 'EMAIL'"),
        (0, {"language": "tlh"}, r"expected language tlh, was \w+"),
        (1, {"expect": "kept"}, r"expected kept, was rejected \(gopher_quality:short_doc 2 against 50\)"),
        (1, {"reason": "c4"}, r"expected c4, was \(gopher_quality:short_doc"),
        (2, {"kind": "near"}, "expected a copy of kind near, was exact"),
        (3, {"survivor": "/copy"}, r"expected survivor /copy, was /kept\?x=1"),
        (3, {"url": "/nowhere"}, "expected duplicate, was never read"),
        (3, {"expect": "quarantined"}, r"expected quarantined, was duplicate \(dedup:near"),
    ],
)
def test_each_mismatch_is_named(tmp_path, number, change, message):
    key = [dict(answer) for answer in KEY]
    key[number] |= change
    with pytest.raises(RaymillError, match=rf"answer key: 3 of 4 as expected; .*{message}"):
        build(tmp_path, key)
    assert not (tmp_path / "run" / "manifest.json").exists()


def test_a_key_with_an_unknown_word_is_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match=r"pages.0.reson is not a setting; did you mean pages.0.reason"):
        build(tmp_path, [{"url": "/x", "expect": "kept", "reson": "x"}])
    with pytest.raises(UserError, match=r"pages.0.expect: .*kept"):
        build(tmp_path, [{"url": "/x", "expect": "loved"}])
