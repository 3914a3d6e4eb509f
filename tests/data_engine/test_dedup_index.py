"""A new crawl against the index of an earlier artifact: brute force decides, every removal names what it resembles."""

import json
import random

import networkx as nx
import pyarrow.parquet as pq
import pytest

from core import config
from core.errors import UserError
from data_engine import index
from data_engine.build import STAGE
from tests.data_engine import corpora
from tests.data_engine.test_build import kept_of
from tests.data_engine.test_near_duplicates import brute_force_clusters

# 64 bands of 4 rows miss a pair at 0.75 once in 10^10
EXACT_LSH = {"permutations": 256, "bands": 64, "rows": 4}


def build(folder, rows, dedup=EXACT_LSH, **changes):
    folder.mkdir(exist_ok=True)
    corpora.write_parquet(folder / "rows.parquet", rows)
    settings = {"output": str(folder / "run"), "rules": False, "dedup": dedup, **changes}
    settings["sources"] = [{"name": "web", "paths": [str(folder / "rows.parquet")]}]
    manifest, _ = STAGE.execute(config.parse(STAGE.config, settings, "test"))
    return manifest, folder / "run"


def index_of(run, output, **dedup):
    settings = {"output": str(output), "documents": str(run), "dedup": EXACT_LSH | dedup}
    return index.STAGE.execute(config.parse(index.STAGE.config, settings, "test"))[0]


@pytest.fixture(scope="module")
def crawls(tmp_path_factory):
    """Two crawls that share pages, near copies and a template; the first one built with an index."""
    rows = corpora.rows_of(corpora.texts(21, originals=30))
    random.Random(5).shuffle(rows)
    folder = tmp_path_factory.mktemp("crawls")
    _, first = build(folder / "first", rows[: len(rows) // 2], dedup=EXACT_LSH | {"index": True})
    return first, rows[len(rows) // 2 :], folder


def expected_kept(run, first):
    """Brute force over what was measured and what the first artifact keeps: the latter come first and stay."""
    earlier = {row["id"]: row["text"] for row in corpora.read_all(first / "documents")}
    known = set(earlier.values())
    new = {}
    for row in sorted(corpora.read_all(run / "measured"), key=lambda row: row["id"]):
        if row["text"] and row["text"] not in known:
            known.add(row["text"])
            new[row["id"]] = row["text"]
    texts = earlier | new
    graph, own = brute_force_clusters(texts, 0.75)
    kept = {identity for identity in new if identity not in graph}
    for component in nx.connected_components(graph):
        left = sorted(component, key=lambda i: (i in new, -len(texts[i]), i))
        while left:
            survivor, *others = left
            if survivor in new:
                kept.add(survivor)
            alike = lambda i, s=survivor: len(own[i] & own[s]) / len(own[i] | own[s]) >= 0.75  # noqa: E731
            left = [i for i in others if i not in new or not alike(i)]
    return kept


@pytest.mark.slow
@pytest.mark.parametrize("rows_per_shard", [1 << 20, 50])
def test_survivors_of_a_second_crawl_equal_brute_force_and_removals_name_their_match(
    tmp_path, crawls, ray_session, rows_per_shard
):
    first, rows, _ = crawls
    dedup = EXACT_LSH | {"against": [str(first)]}
    manifest, run = build(tmp_path, rows, dedup=dedup, rows_per_shard=rows_per_shard)
    assert {identity for identity, _ in kept_of(run)} == expected_kept(run, first)
    held, kept = ({identity for identity, _ in kept_of(folder)} for folder in (first, run))
    kinds = set()
    for row in corpora.read_all(run / "duplicates"):
        kinds.add((row["kind"], row["survivor_artifact"]))
        if row["survivor_artifact"] == str(first):
            assert row["survivor_id"] in held
        elif row["kind"] == "near":
            assert row["survivor_id"] in kept
        assert row["jaccard"] >= 0.75
    assert kinds == {(kind, place) for kind in ("exact", "near") for place in (".", str(first))}
    assert manifest.metrics["dedup"]["near_of_earlier"] > 0
    assert manifest.metrics["dedup"]["exact_of_earlier"] > 0


def index_rows(run):
    """What an index says of documents, by kind of file."""
    return [
        [pq.read_table(file).drop_columns("ref").to_pydict() for file in sorted((run / "index").glob(f"{kind}-*"))]
        for kind in ("texts", "bands")
    ]


def test_only_what_is_kept_at_the_end_is_in_the_index(tmp_path):
    rng = random.Random(8)
    question, menu = corpora.document(rng, 30), corpora.document(rng, 40)
    clean = corpora.document(rng, 300)
    leaked, boilerplate = f"{clean} {question}", f"{menu}\none or two words more\n"
    rows = corpora.rows_of([leaked, *(corpora.document(rng, 80) + f"\n{menu}" for _ in range(4)), boilerplate])
    rows += rows[2:4]  # the same rows once more: the same ids
    corpora.write_jsonl(tmp_path / "items.jsonl", [{"question": question, "answer": ""}])
    benchmark = {
        "name": "gsm8k",
        "question": ["question"],
        "answers": ["answer"],
        "path": str(tmp_path / "items.jsonl"),
    }
    late = {"decontaminate": {"benchmarks": [benchmark]}, "repeated_text": {"lines": {"enabled": True, "keep": "none"}}}
    late["repeated_text"] |= {"min_words": 10}
    manifest, first = build(tmp_path / "a", rows, dedup=EXACT_LSH | {"index": True}, **late)
    assert manifest.counts["rejected"] == {"decontaminate:gsm8k": 1, "dedup:exact": 2, "repeated_text:too_short": 1}
    index_of(first, tmp_path / "index")
    assert index_rows(first) == index_rows(tmp_path / "index")
    for place in (first, tmp_path / "index"):
        new = [{"text": clean, "url": "https://else.example/", "date": ""}]
        manifest, _ = build(tmp_path / f"b-{place.name}", new, dedup=EXACT_LSH | {"against": [str(place)]})
        assert manifest.counts["kept"] == 1, "removed in favour of a document that nobody has"


def test_an_index_made_afterwards_removes_the_same_and_two_indexes_are_two_artifacts(tmp_path, crawls):
    first, rows, _ = crawls
    counted = index_of(first, tmp_path / "index")
    assert counted.counts["documents"] == len(kept_of(first))
    assert index_rows(first) == index_rows(tmp_path / "index")
    _, built = build(tmp_path / "a", rows, dedup=EXACT_LSH | {"against": [str(first)]})
    _, made = build(tmp_path / "b", rows, dedup=EXACT_LSH | {"against": [str(tmp_path / "index")]})
    assert kept_of(built) == kept_of(made)

    _, second = build(tmp_path / "c", rows[:40], dedup=EXACT_LSH | {"index": True})
    places = [str(first), str(second)]
    _, third = build(tmp_path / "d", rows, dedup=EXACT_LSH | {"against": places})
    found = {row["survivor_artifact"] for row in corpora.read_all(third / "duplicates")}
    assert found == {*places, "."}
    assert not kept_of(third) & kept_of(second)


def test_the_index_finds_personal_data_that_was_scrubbed(tmp_path):
    text = corpora.document(random.Random(1), 60) + " Write to anna@example.net today."
    _, first = build(tmp_path / "a", corpora.rows_of([text]))
    assert "<EMAIL>" in corpora.read_all(first / "documents")[0]["text"]
    index_of(first, tmp_path / "index")
    dedup = EXACT_LSH | {"against": [str(tmp_path / "index")]}
    manifest, _ = build(tmp_path / "b", [{"text": text, "url": "https://else.example/", "date": ""}], dedup=dedup)
    assert manifest.counts["rejected"] == {"dedup:exact": 1}


@pytest.mark.slow
def test_the_same_build_writes_the_same_index(tmp_path, crawls, ray_session):
    _, rows, _ = crawls
    found = []
    for number in range(2):
        _, run = build(tmp_path / str(number), rows, dedup=EXACT_LSH | {"index": True}, rows_per_shard=50)
        found.append({path.name: path.read_bytes() for path in (run / "index").iterdir()})
    assert found[0] == found[1]
    assert {name.partition("-")[0] for name in found[0]} == {"shards.parquet", "texts", "bands"}


def test_an_index_that_does_not_fit_is_refused_in_one_line(tmp_path, crawls):
    first, rows, _ = crawls
    with pytest.raises(
        UserError, match=r"made with permutations 256 and not 112, bands 64 and not 14, rows 4 and not 8"
    ):
        build(tmp_path / "a", rows, dedup={"against": [str(first)]})
    _, plain = build(tmp_path / "b", rows[:5])
    with pytest.raises(
        UserError, match=r"holds no index; build it with dedup.index: true, or run 'raymill data index'"
    ):
        build(tmp_path / "c", rows, dedup=EXACT_LSH | {"against": [str(plain)]})
    with pytest.raises(UserError, match=r"nowhere: no such file"):
        build(tmp_path / "d", rows, dedup=EXACT_LSH | {"against": [str(tmp_path / "nowhere")]})
    next((plain / "measured").glob("*.parquet")).unlink()
    index_of(first, tmp_path / "index")
    next((tmp_path / "index" / "sketches").glob("*.npy")).unlink()
    with pytest.raises(UserError, match=r"is incomplete: .*\.npy is gone"):
        build(tmp_path / "e", rows, dedup=EXACT_LSH | {"against": [str(tmp_path / "index")]})


def test_an_index_of_another_version_or_family_is_refused_in_one_line(tmp_path, crawls):
    first, rows, _ = crawls
    index_of(first, tmp_path / "index")
    shards = tmp_path / "index" / "index" / "shards.parquet"
    table, told = pq.read_table(shards), json.loads(pq.read_metadata(shards).metadata[b"raymill"])

    def state(settings):
        pq.write_table(table.replace_schema_metadata(settings), shards)
        build(tmp_path / "a", rows[:5], dedup=EXACT_LSH | {"against": [str(tmp_path / "index")]})

    message = (
        r"written by another version of Raymill \(index version {}, here 1\); make it again with 'raymill data index'"
    )
    for settings, version in (({}, "unknown"), ({"raymill": "[]"}, "unknown"), ({"raymill": '{"version": 7}'}, "7")):
        with pytest.raises(UserError, match=message.format(version)):
            state(settings)
    with pytest.raises(UserError, match="made with family mersenne61 and not affine32; use the same here"):
        state({"raymill": json.dumps(told | {"family": "mersenne61"})})
    shards.write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"shards\.parquet: not readable: "):
        build(tmp_path / "a", rows[:5], dedup=EXACT_LSH | {"against": [str(tmp_path / "index")]})
    shards.unlink()
