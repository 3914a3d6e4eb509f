"""The frontier against a model in plain Python, with crashes in between."""

import hashlib
import sqlite3
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine.frontier import Found, Frontier, Outcome, Round, State

URLS = [f"http://h{n % 3}.example/{n}" for n in range(8)]
REFUSALS = [None, None, "nofollow", "max_depth", "outside_scope", "denied_pattern"]
rounds = st.builds(Round, st.integers(0, 3), st.integers(0, 2))
additions = st.tuples(
    st.just("add"), st.lists(st.tuples(st.sampled_from(URLS), st.sampled_from(REFUSALS)), max_size=5), rounds
)
operations = st.lists(
    additions
    | st.tuples(st.just("visit"), st.integers(1, 3), st.sampled_from([State.FETCHED, State.FAILED]))
    | st.sampled_from([("commit",), ("crash",), ("reopen",)]),
    max_size=25,
)


def host(url):
    return url.split("/")[2]


def order(url):
    return hashlib.blake2b(url.encode(), digest_size=16).digest()


class Model:
    """URL to (round, state, reason): the rules of the frontier as sentences."""

    def __init__(self):
        self.urls, self.kept = {}, {}

    def add(self, found, position):
        for url, refusal in found:
            state = (position, State.FILTERED, refusal) if refusal else (position, State.WAITING, None)
            if url not in self.urls:
                self.urls[url] = state
            elif not refusal:
                at, was, why = self.urls[url]
                nearer = was is State.WAITING and position < at
                welcome_now = was is State.FILTERED and why in ("nofollow", "max_depth")
                if nearer or welcome_now:
                    self.urls[url] = state

    def next(self):
        waiting = [(at, order(url), url) for url, (at, state, _) in self.urls.items() if state is State.WAITING]
        if not waiting:
            return None, []
        first = min(at for at, _, _ in waiting)
        return first, [url for at, _, url in sorted(waiting) if at == first]


@settings(deadline=None, max_examples=60)
@given(operations)
def test_frontier_does_what_its_rules_say_across_crashes(tmp_path_factory, operations):
    path = tmp_path_factory.mktemp("frontier") / "f.sqlite"
    frontier, model = Frontier(path), Model()
    for operation in operations:
        match operation:
            case ("add", found, position):
                frontier.add([Found(url, host(url), refusal) for url, refusal in found], position)
                model.add(found, position)
            case ("visit", limit, state):
                position, expected = model.next()
                assert frontier.next_round() == position
                if position is None:
                    continue
                entries = frontier.take(position, limit)
                assert [entry.url for entry in entries] == expected[:limit]
                for entry in entries:
                    reason = "connect" if state is State.FAILED else None
                    frontier.finish(entry, Outcome(state, reason))
                    model.urls[entry.url] = (position, state, reason)
            case ("reopen",):
                frontier.reopen("h1.example", "connect")
                for url, (at, state, _) in model.urls.items():
                    if state is State.FAILED and host(url) == "h1.example":
                        model.urls[url] = (at, State.WAITING, None)
            case ("commit",):
                frontier.commit({"segment": len(model.urls)})
                model.kept = dict(model.urls)
            case ("crash",):
                frontier._db.close()  # without ROLLBACK or COMMIT, as a process that dies
                frontier, model.urls = Frontier(path), dict(model.kept)
        rows = frontier.query("SELECT url, depth, hops, state, reason FROM urls")
        assert {url: (Round(d, h), State(s), r) for url, d, h, s, r in rows} == model.urls
    counted = Counter((state, reason or "") for _, state, reason in model.urls.values())
    assert frontier.by_reason() == counted
    assert all(frontier.count(state) == sum(n for (s, _), n in counted.items() if s is state) for state in State)
    frontier.close()


def test_an_outcome_is_kept_with_every_column(tmp_path):
    frontier = Frontier(tmp_path / "f.sqlite")
    frontier.add([Found("http://a/", "a", None)], Round(0, 0), via="http://b/")
    outcome = Outcome(
        State.FETCHED, None, "ok", 2, 200, None, "text/html", 11, 22, "sha1:X", "segment-00000.warc.gz", 33, 44
    )
    frontier.finish(frontier.take(Round(0, 0), 1)[0], outcome)
    frontier.commit({"segment-00000.warc.gz": 77})
    frontier.close()
    database = sqlite3.connect(tmp_path / "f.sqlite")
    database.row_factory = sqlite3.Row
    row = dict(database.execute("SELECT * FROM urls").fetchone())
    assert {name: row[name] for name in Outcome._fields} == outcome._asdict()
    assert (row["via"], row["depth"], row["hops"]) == ("http://b/", 0, 0)
    database.close()
    assert Frontier(tmp_path / "f.sqlite").segments() == {"segment-00000.warc.gz": 77}


def test_a_closed_frontier_is_one_plain_file_without_what_was_not_committed(tmp_path):
    frontier = Frontier(tmp_path / "f.sqlite")
    frontier.add_origin("http://a", 200, "User-agent: *")
    frontier.commit({})
    frontier.add_origin("http://b", 404, "")
    assert frontier.origin("http://b") == ""
    frontier.close()
    assert [path.name for path in tmp_path.iterdir()] == ["f.sqlite"]
    again = Frontier(tmp_path / "f.sqlite")
    assert again.origin("http://a") == "User-agent: *"
    assert again.origin("http://b") is None


def test_a_damaged_frontier_is_an_error_of_sqlite_not_an_empty_crawl(tmp_path):
    (tmp_path / "f.sqlite").write_bytes(b"not a database, " * 500)
    with pytest.raises(sqlite3.DatabaseError):
        Frontier(tmp_path / "f.sqlite")
