"""The whole build: same documents whatever the order and the cut; what is damaged, and what a user gets wrong."""

import json
import random
import re
import tempfile
from collections import Counter
from pathlib import Path

import networkx as nx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core import config, storage
from core.errors import RaymillError, UserError
from data_engine.build import STAGE
from tests.data_engine import books, corpora, trees
from tests.data_engine.test_licences import MIT
from tests.data_engine.test_near_duplicates import brute_force_clusters

ANY = {name: {"enabled": False} for name in ("toxicity", "gopher_repetition", "gopher_quality", "c4", "fineweb")}
BASE = {"language": {"min_score": 0.0}, "policies": ANY}
FOLDERS = ("documents", "measured", "rejects", "duplicates", "quarantine")


def settings(tmp_path, paths, **changes):
    sources = [{"name": "web", "paths": [str(path) for path in paths]}]
    return {"output": str(tmp_path / "run"), "sources": sources, **BASE, **changes}


def build(tmp_path, paths, **changes):
    parsed = config.parse(STAGE.config, settings(tmp_path, paths, **changes), "test")
    manifest, _ = STAGE.execute(parsed)
    return manifest, tmp_path / "run"


def kept_of(run):
    return {(row["id"], row["text"]) for row in corpora.read_all(run / "documents")}


def files_of(run):
    return {
        str(path.relative_to(run)): storage.digest_file(str(path))
        for folder in FOLDERS
        for path in sorted((run / folder).rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def rows():
    return corpora.rows_of(corpora.texts(11))


def expected_survivors(run, threshold):
    """Brute force over what was measured: exact copies, then every pair, components, and the rule of survivors."""
    measured = {row["id"]: row["text"] for row in corpora.read_all(run / "measured") if row["text"]}
    by_text = {}
    for identity in sorted(measured):
        by_text.setdefault(measured[identity], identity)
    texts = {identity: text for text, identity in by_text.items()}
    graph, own = brute_force_clusters(texts, threshold)
    kept = {identity for identity in texts if identity not in graph}
    for component in nx.connected_components(graph):
        left = sorted(component, key=lambda identity: (-len(texts[identity]), identity))
        while left:
            survivor = left[0]
            kept.add(survivor)
            alike = lambda i, s=survivor: len(own[i] & own[s]) / len(own[i] | own[s]) >= threshold  # noqa: E731
            left = [identity for identity in left[1:] if not alike(identity)]
    return kept


@pytest.mark.slow
def test_survivors_equal_brute_force_for_any_order_and_cut(tmp_path, ray_session, rows):
    # 64 bands of 4 rows miss a pair at 0.75 once in 10^10: what is left to differ is our own work
    dedup = {"permutations": 256, "bands": 64, "rows": 4}
    results = []
    for number, (files, shard_bytes) in enumerate([(1, 1 << 30), (1, 20_000), (3, 50_000)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        random.Random(number).shuffle(rows)
        for file in range(files):
            corpora.write_jsonl(folder / f"{file}.jsonl", rows[file::files])
        manifest, run = build(folder, folder.glob("*.jsonl"), dedup=dedup, shard_bytes=shard_bytes)
        assert manifest.counts["read"] == len(rows)
        results.append(kept_of(run))
        assert {identity for identity, _ in results[-1]} == expected_survivors(run, 0.75)
        check_duplicates(run)
    assert results[0] == results[1] == results[2]


def check_duplicates(run):
    kept = {identity for identity, _ in kept_of(run)}
    rejected = Counter(row["id"] for row in corpora.read_all(run / "rejects") if row["reason"].startswith("dedup:"))
    duplicates = corpora.read_all(run / "duplicates")
    assert Counter(row["id"] for row in duplicates) == rejected
    near = {row["id"] for row in duplicates if row["kind"] == "near"}
    assert near
    for row in duplicates:
        # the survivor of an exact copy may itself have gone as a near copy
        assert row["survivor_id"] in kept or (row["kind"] == "exact" and row["survivor_id"] in near)
        assert row["jaccard"] >= 0.75


@pytest.mark.slow
def test_same_shards_give_the_same_bytes(tmp_path, ray_session, rows):
    corpora.write_parquet(tmp_path / "a.parquet", rows)
    found = []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        _, run = build(tmp_path / str(number), [tmp_path / "a.parquet"], rows_per_shard=50)
        found.append(files_of(run))
    assert found[0] == found[1]
    assert len(found[0]) >= 4 * 5


def test_broken_files_cost_their_broken_records_only(tmp_path, real_data):
    broken = real_data / "crawl" / "broken"
    expected = {  # good and bad, from the data's own README
        "truncated-member.warc.gz": (5, 1),
        "flipped-bytes.warc.gz": (7, 1),
        "wrong-content-length.warc.gz": (6, 2),
        "unknown-charset.warc.gz": (5, 0),
        "bad-lines.jsonl": (10, 2),
    }
    for name, (good, bad) in expected.items():
        folder = tmp_path / name
        folder.mkdir()
        manifest, run = build(folder, [broken / name])
        assert (manifest.counts["read"], manifest.counts["quarantined"]) == (good + bad, bad), name
        assert len(corpora.read_all(run / "measured")) == good
        lines = [line for path in (run / "quarantine").glob("*") for line in path.read_text().splitlines()]
        assert len(lines) == bad
        assert all(name in line and '"offset"' in line for line in lines)


@pytest.mark.slow
def test_a_folder_of_broken_files_gives_all_that_is_good_and_accounts_for_the_rest(tmp_path, ray_session, real_data):
    manifest, run = build(tmp_path, [real_data / "crawl" / "broken"], shard_bytes=30_000)
    counts = manifest.counts
    assert (counts["read"], counts["quarantined"]) == (33 + 7, 7)
    assert counts["kept"] + sum(counts["rejected"].values()) == 33
    assert len(corpora.read_all(run / "measured")) == 33
    entries = [json.loads(line) for path in (run / "quarantine").glob("*") for line in path.read_text().splitlines()]
    by_file = Counter(Path(entry["locator"]["file"]).name for entry in entries)
    assert by_file == {
        "truncated-member.warc.gz": 1,
        "flipped-bytes.warc.gz": 1,
        "wrong-content-length.warc.gz": 2,
        "truncated.parquet": 1,
        "bad-lines.jsonl": 2,
    }
    assert all(entry["error"] for entry in entries)


DOCS = Path(__file__).parents[2] / "docs" / "data_engine.md"


@pytest.mark.slow
def test_real_crawls_give_the_counts_of_the_documentation(tmp_path, real_data):
    """Its table says: file, records, read, kept, and how many each policy rejected."""
    section = DOCS.read_text(encoding="utf-8").partition("### Real crawls, counted")[2]
    rows = re.findall(r"^\| `(\S+)` \| \d+ \| (\d+) \| (\d+) \| (.*?) \|", section, re.MULTILINE)
    assert len(rows) == 4
    for name, read, kept, rejected in rows:
        paths = [str(real_data / "crawl" / name)]
        changes = {"sources": [{"name": "web", "paths": paths}], "output": str(tmp_path / name)}
        parsed = config.parse(STAGE.config, {**changes, "shard_bytes": 1 << 30}, "test")  # one shard needs no Ray
        counts = STAGE.execute(parsed)[0].counts
        assert (counts["read"], counts["kept"], counts["quarantined"]) == (int(read), int(kept), 0), name
        by_policy = Counter()
        for reason, number in counts["rejected"].items():
            by_policy[reason.partition(":")[0]] += number
        said = [int(found[0]) for part in rejected.split(", ") if (found := re.match(r"\d+", part))]
        assert sorted(by_policy.values()) == sorted(said), (name, by_policy)


def test_no_single_row_ends_a_build(tmp_path):
    """Dates beyond the calendar, nesting beyond the parser, bytes that are no UTF-8, halves of a surrogate pair."""
    lines = [
        '{"text": "one", "date": "0001-01-01T00:00:00"}',
        '{"text": "two", "date": "0001-01-01T00:00:00+01:00"}',
        "[" * 200_000,
        '{"text": "three", "license": "\\ud800", "url": "\\ud800"}',
        '{"url": "\\ud800"}',
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    pq.write_table(pa.table({"text": corpora.strings([b"four", b"\xff", b"five"])}), tmp_path / "b.parquet")
    page = [("Content-Type", "text/plain"), ("Last-Modified", "Fri, 31 Dec 9999 23:59:59 -0100")]
    (tmp_path / "c.warc.gz").write_bytes(corpora.warc([("http://h/", "200 OK", page, b"six")]))
    rows, quarantined = {}, []
    for name in ("a.jsonl", "b.parquet", "c.warc.gz"):
        manifest, run = build(tmp_path, [tmp_path / name], rules=False, dedup={"near": False})
        rows |= {row["text"]: row for row in corpora.read_all(run / "documents")}
        quarantined.append(manifest.counts["quarantined"])
    assert set(rows) == {"one", "two", "three", "four", "five", "six"}
    assert quarantined == [2, 1, 0]
    assert [rows[text]["date"] for text in ("one", "two", "six")] == [
        "0001-01-01T00:00:00Z",
        "",
        "2026-02-03T04:05:06Z",
    ]
    assert (rows["three"]["licence"], rows["three"]["url"]) == ("?", "?")


def test_a_file_whose_name_is_no_utf8_is_read_or_named(tmp_path):
    folder = tmp_path / "caf\udce9"
    trees.write(folder, {"a\udce9.txt": "words", "b\udce9.txt": b"\0binary"})
    manifest, run = build(tmp_path, [tmp_path / "caf*" / "*"], rules=False, dedup={"near": False})
    assert [row["url"] for row in corpora.read_all(run / "documents")] == ["caf?/a?.txt"]
    assert manifest.counts["quarantined"] == 1


def test_licence_and_language_of_source_code_reach_the_documents(tmp_path):
    tree = {
        "LICENSE": MIT,
        "a.py": "def f():\n    return 1\n",
        "b/c.rs": "// SPDX-License-Identifier: 0BSD\nfn f() {}\n",
    }
    folder = trees.write(tmp_path / "tree", tree)
    sources = [{"name": "code", "paths": [str(folder)], "format": "code"}]
    manifest, run = build(tmp_path, [], sources=sources)
    assert {
        (row["url"], row["language"], row["language_score"], row["licence"])
        for row in corpora.read_all(run / "documents")
    } == {
        ("a.py", "code-python", 1.0, "MIT"),
        ("b/c.rs", "code-rust", 1.0, "0BSD"),
    }
    assert manifest.counts["skipped_records"] == {"file of no known programming language": 1}


@pytest.mark.slow
def test_books_papers_and_pages_of_one_folder_become_documents(tmp_path, ray_session):
    chapter = (books.xhtml("<p>A chapter about yeast.</p>"), "")
    files = {
        "book.epub": books.epub({"a.xhtml": chapter}, rights="https://creativecommons.org/licenses/by/4.0/"),
        "paper.pdf": books.pdf([["A paper about dough."]]),
        "damaged.pdf": books.pdf([["A paper about dough."]])[:200],
        "note.txt": "A note about bread.",
        "page.html": corpora.page("A page about ovens, and about the bread that comes out of them, warm. " * 5),
    }
    manifest, run = build(tmp_path, [trees.write(tmp_path / "library", files)], shard_bytes=1 << 20)
    rows = {row["url"]: row for row in corpora.read_all(run / "documents")}
    assert {url: row["text"][:14] for url, row in rows.items()} == {
        "book.epub": "A chapter abou",
        "paper.pdf": "A paper about ",
        "note.txt": "A note about b",
        "page.html": "A page\nA page ",
    }
    assert (rows["book.epub"]["licence"], rows["note.txt"]["licence"]) == ("CC-BY-4.0", None)
    assert (manifest.counts["read"], manifest.counts["quarantined"]) == (5, 1)


def test_a_file_that_is_not_readable_at_all_is_named_in_one_line(tmp_path, real_data):
    with pytest.raises(RaymillError, match=r"truncated\.parquet: nothing readable.*not readable as Parquet"):
        build(tmp_path, [real_data / "crawl" / "broken" / "truncated.parquet"])


@pytest.mark.slow
def test_a_corrupt_file_beside_good_ones_is_quarantined(tmp_path, ray_session, rows):
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 this is no Parquet file")
    corpora.write_parquet(tmp_path / "good.parquet", rows)
    manifest, _ = build(tmp_path, [tmp_path / "bad.parquet", tmp_path / "good.parquet"])
    assert manifest.counts["quarantined"] == 1
    assert manifest.counts["read"] == len(rows) + 1
    total = manifest.counts["kept"] + sum(manifest.counts["rejected"].values()) + manifest.counts["quarantined"]
    assert total == manifest.counts["read"]


def test_an_empty_corpus_is_the_users_mistake(tmp_path):
    (tmp_path / "empty.warc.gz").write_bytes(
        corpora.warc([("http://x/a.png", "200 OK", [("Content-Type", "image/png")], b"x")])
    )
    with pytest.raises(UserError, match=r"no document in it \(records skipped: 1 x type image/png\)"):
        build(tmp_path, [tmp_path / "empty.warc.gz"])
    (tmp_path / "empty.jsonl").write_bytes(b"")
    with pytest.raises(UserError, match="no document in it"):
        build(tmp_path, [tmp_path / "empty.jsonl"])


def test_a_missing_field_names_itself(tmp_path):
    with pytest.raises(UserError, match=r"test: dedup.threshhold is not a setting; did you mean dedup.threshold\?"):
        build(tmp_path, ["x.jsonl"], dedup={"threshhold": 0.8})
    corpora.write_jsonl(tmp_path / "x.jsonl", [{"text": "some words"}])
    with pytest.raises(UserError, match=r"nowhere.bin: no such file"):
        build(tmp_path, [tmp_path / "x.jsonl"], language={"model": "nowhere.bin"})
    (tmp_path / "no.bin").write_bytes(b"not a model")
    with pytest.raises(UserError, match=r"language.model: .*no.bin"):
        build(tmp_path, [tmp_path / "x.jsonl"], language={"model": str(tmp_path / "no.bin")})


def test_pages_are_extracted_scrubbed_and_dated(tmp_path):
    body = "The harbour office writes to anna@example.org about the boats that came in late. " * 3
    headers = [("Content-Type", "text/html; charset=utf-8"), ("Last-Modified", "Mon, 05 Jan 2026 10:00:00 GMT")]
    pages = [
        ("http://h/a", "200 OK", headers, corpora.page(body).encode()),
        ("http://h/b", "404 Not Found", headers, b"gone"),
        ("http://h/robots.txt", "200 OK", [("Content-Type", "text/plain")], b"User-agent: *"),
        (
            "http://h/c.txt",
            "200 OK",
            [("Content-Type", "text/plain; charset=iso-8859-1")],
            "Plain words über alles.".encode("latin-1"),
        ),
    ]
    (tmp_path / "a.warc.gz").write_bytes(corpora.warc(pages))
    manifest, run = build(tmp_path, [tmp_path / "a.warc.gz"])
    documents = {row["url"]: row for row in corpora.read_all(run / "documents")}
    assert set(documents) == {"http://h/a", "http://h/c.txt"}
    assert "<EMAIL>" in documents["http://h/a"]["text"]
    assert "anna@" not in documents["http://h/a"]["text"]
    assert "All rights" not in documents["http://h/a"]["text"]
    assert documents["http://h/a"]["date"] == "2026-01-05T10:00:00Z"
    assert documents["http://h/c.txt"]["date"] == "2026-02-03T04:05:06Z"
    assert documents["http://h/c.txt"]["text"] == "Plain words über alles."
    assert manifest.counts["skipped_records"] == {"robots.txt": 1, "status 404": 1}
    assert manifest.metrics["pii"] == {"email": 3}


def test_a_page_of_the_same_day_has_the_same_id_on_the_next_crawl(tmp_path):
    headers = [("Content-Type", "text/html"), ("Last-Modified", "Mon, 05 Jan 2026 10:00:00 GMT")]
    ids = []
    for number, extra in enumerate([[], [("Date", "Tue, 06 Jan 2026 10:00:00 GMT")]]):
        folder = tmp_path / str(number)
        folder.mkdir()
        content = corpora.warc([("http://h/a", "200 OK", headers + extra, corpora.page("Some words here.").encode())])
        (folder / "a.warc.gz").write_bytes(content)
        _, run = build(folder, [folder / "a.warc.gz"])
        ids.append([row["id"] for row in corpora.read_all(run / "documents")])
    assert ids[0] == ids[1]
    assert len(ids[0][0]) == 32


def test_files_of_a_run_are_all_below_it(tmp_path, rows, monkeypatch):
    import matplotlib.font_manager  # noqa: F401  # the list of fonts that it keeps in the home directory is there before

    for name in ("input", "home", "temporary", "here"):
        (tmp_path / name).mkdir()
    headers = [("Content-Type", "text/html")]
    pages = [(row["url"], "200 OK", headers, corpora.page(row["text"]).encode()) for row in rows[:40]]
    (tmp_path / "input" / "a.warc.gz").write_bytes(corpora.warc(pages))
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)

    def outside():
        paths = [path for path in tmp_path.rglob("*") if tmp_path / "run" not in [path, *path.parents]]
        return {path: path.is_file() and path.stat().st_mtime_ns for path in paths}

    before = outside()
    _, run = build(tmp_path, [tmp_path / "input" / "a.warc.gz"])
    assert outside() == before
    assert {path.name for path in run.iterdir()} >= {
        "manifest.json",
        "report.html",
        "documents",
        "rejects",
        "duplicates",
    }
    assert not (run / ".work").exists()
    html = Path(run / "report.html").read_text(encoding="utf-8")
    for title in ("Funnel of documents", "Languages of the documents kept", "Duplicate clusters"):
        assert f">{title}</h2>" in html
    assert not re.search(r"""(src|href)=["'](?!#)""", html)
