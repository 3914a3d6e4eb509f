"""Duplicates against brute force: every pair compared, networkx for the components."""

import random
import tracemalloc
from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine import rows
from data_engine.candidates import distinct, find_pairs
from data_engine.connected_components import components, spanning_forest
from data_engine.exact import find_exact
from data_engine.kernels.shingles import jaccard
from data_engine.survivors import order, resolve
from tests.data_engine import corpora
from tests.data_engine.test_kernels_shingles import reference, sets, split


def table_of(ids, **columns):
    table = np.zeros(len(ids), rows.DOCUMENT)
    table["id_lo"] = ids
    table["ref"] = np.arange(len(ids))
    for name, values in columns.items():
        table[name] = values
    return table


def test_exact_duplicates_leave_the_smallest_id_of_each_text():
    rng = np.random.default_rng(0)
    ids, texts = rng.permutation(200), rng.integers(0, 60, 200)
    table = table_of(ids, text_hi=texts, characters=texts)
    removals = find_exact(table, "longest")
    removed = set(removals["ref"].tolist())
    for text in np.unique(texts):
        members = np.flatnonzero(texts == text)
        left = [m for m in members if m not in removed]
        assert [ids[m] for m in left] == [min(ids[members])]
        for removal in removals[np.isin(removals["ref"], members)]:
            assert removal["survivor_lo"] == removal["cluster_lo"] == min(ids[members])
    shuffled = find_exact(table[rng.permutation(200)], "longest")
    np.testing.assert_array_equal(shuffled, removals)


@pytest.mark.parametrize(("preference", "expected"), [("longest", 3), ("best_quality", 2), ("oldest", 1)])
def test_the_survivor_is_the_preferred_one_and_ties_go_to_the_smallest_id(preference, expected):
    table = table_of([9, 1, 2, 3, 4], characters=[5, 5, 5, 8, 8], quality=[0, 0, 1, 0, 1], date=[7, 3, 7, 7, 3])
    assert table["id_lo"][order(table, preference)[0]] == expected
    reversed_table = table[::-1]
    assert reversed_table["id_lo"][order(reversed_table, preference)[0]] == expected


def bands_of(keys_by_document):
    out = []
    for document, keys in keys_by_document.items():
        out += [(key, document, document) for key in keys]
    return np.array(out, rows.BAND)


def all_pairs(*arguments):
    """What `find_pairs` gives in all: (pairs sorted, each once; how many were skipped)."""
    batches, skipped = find_pairs(*arguments)
    return distinct(np.concatenate(list(batches))), skipped


def test_pairs_of_small_buckets_are_all_pairs():
    bands = bands_of({1: [10, 20], 2: [10], 3: [10, 20], 4: [30]})
    pairs, skipped = all_pairs(bands, 64, 8)
    assert pairs.tolist() == [(1, 2), (1, 3), (2, 3)]
    assert skipped == 0


def test_large_buckets_pair_with_the_smallest_ids_and_count_what_they_skip():
    bands = bands_of({n: [7] for n in range(100)})
    pairs, skipped = all_pairs(bands[np.random.default_rng(1).permutation(100)], 64, 8)
    assert {pair[0] for pair in pairs.tolist()} == set(range(8))
    assert len(pairs) == sum(99 - n for n in range(8))
    assert skipped == 100 * 99 // 2 - len(pairs)


@given(st.integers(0, 1 << 30))
@settings(max_examples=60)
def test_pairs_equal_a_loop_over_buckets(seed):
    rng = np.random.default_rng(seed)
    bands = np.zeros(int(rng.integers(0, 120)), rows.BAND)
    bands["key"] = rng.integers(0, 6, bands.size)
    bands["ref"] = rng.permutation(bands.size)
    bands["id"] = 1 + bands["ref"]
    earlier = rng.random(bands.size) < rng.choice([0, 0.3, 0.9])
    bands["id"][earlier] = 0
    bands["ref"][earlier] += rows.EARLIER
    expected, skipped = set(), 0
    for key in range(6):
        bucket = sorted((row for row in bands.tolist() if row[0] == key), key=lambda row: (row[1], row[2]))
        anchors = len(bucket) if len(bucket) <= 10 else 3
        for place, one in enumerate(bucket):
            for other in bucket[place + 1 :]:
                if one[2] >= rows.EARLIER and other[2] >= rows.EARLIER:
                    continue
                if place < anchors:
                    expected.add((other[2], one[2]) if one[2] >= rows.EARLIER else (one[2], other[2]))
                else:
                    skipped += 1
    bands = bands[rng.permutation(bands.size)]
    for at_once in (1, 7, 60, 1 << 19):
        batches, left_out = find_pairs(bands, 10, 3, at_once)
        found = list(batches)
        assert all(part.size <= 2 * max(at_once, 10) and (part == distinct(part)).all() for part in found)
        assert distinct(np.concatenate(found)).tolist() == sorted(expected)
        assert left_out == skipped


def test_pairs_of_many_buckets_are_never_in_memory_together():
    bands = np.zeros(100_000, rows.BAND)
    bands["id"] = bands["ref"] = np.arange(bands.size)
    bands["key"] = bands["ref"] // 64
    tracemalloc.start()
    batches, _ = find_pairs(bands, 64, 8, 1 << 16)
    pairs = sum(part.size for part in batches)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert pairs == 1562 * (64 * 63 // 2) + 32 * 31 // 2
    assert 2 * peak < pairs * rows.PAIR.itemsize


def test_documents_that_share_many_buckets_are_nearly_always_a_pair_in_one_batch_alone():
    bands = bands_of({n: [n // 6 + 100 * band for band in range(14)] for n in range(600)})
    batches, _ = find_pairs(bands, 64, 8, 500)
    assert 1500 <= sum(part.size for part in batches) < 1600


def test_a_bucket_of_a_hundred_thousand_needs_no_square():
    bands = np.zeros(100_000, rows.BAND)
    bands["id"] = bands["ref"] = np.arange(100_000)
    pairs, _ = all_pairs(bands, 64, 8)
    assert len(pairs) == 8 * 100_000 - 36


def test_components_equal_networkx_also_when_reduced_in_parts():
    rng = np.random.default_rng(2)
    edges = np.zeros(3000, rows.PAIR)
    edges["one"], edges["other"] = np.sort(rng.integers(0, 2500, (2, 3000)), axis=0)
    edges = edges[edges["one"] != edges["other"]]
    edges["one"] += np.uint64(1 << 33)
    edges["other"] += np.uint64(1 << 33)
    graph = nx.Graph(edges.tolist())
    expected = {frozenset(c) for c in nx.connected_components(graph)}
    for parts in (1, 2, 8):
        forests = [spanning_forest(part) for part in np.array_split(edges[rng.permutation(len(edges))], parts)]
        assert all(len(f) < len(np.unique(np.concatenate([f["one"], f["other"]]))) for f in forests)
        nodes, labels = components(np.concatenate(forests))
        found = {frozenset(nodes[labels == label].tolist()) for label in np.unique(labels)}
        assert found == expected


class Store:
    """The shingle sets of texts by ref, compared one pair at a time."""

    def __init__(self, texts):
        self.sets = split(*sets(texts, 5))

    def __getitem__(self, ref):
        return self.sets[ref]

    def similarities(self, one, other):
        return np.array([jaccard(self[a], self[b]) for a, b in zip(one, other, strict=True)], float)


def reference_resolve(members, preference, threshold, similarities):
    """One component, one comparison at a time: (removed, survivor, smallest id of the cluster, similarity)."""
    key = {"longest": lambda row: -row["characters"], "oldest": lambda row: row["date"]}[preference]
    left = sorted(members, key=lambda row: (row["ref"] < rows.EARLIER, key(row), row["id_lo"], row["ref"]))
    removed = set()
    while left:
        survivor, *others = left
        found = [(row, similarities([survivor["ref"]], [row["ref"]])[0]) for row in others]
        gone = [(row, s) for row, s in found if s >= threshold and row["ref"] < rows.EARLIER]
        smallest = min([survivor["id_lo"], *(row["id_lo"] for row, _ in gone)])
        removed |= {(int(row["ref"]), int(survivor["ref"]), int(smallest), s) for row, s in gone}
        names = {int(row["ref"]) for row, _ in gone}
        left = [row for row in others if int(row["ref"]) not in names]
    return removed


def resolved(members, component, preference, threshold, similarities):
    found = resolve(members, np.asarray(component), preference, threshold, similarities)
    assert (np.diff(found["ref"].astype(np.int64)) > 0).all()
    return {(int(r["ref"]), int(r["survivor"]), int(r["cluster_lo"]), float(r["jaccard"])) for r in found}


def test_a_chain_of_near_copies_keeps_both_ends():
    # neighbours are alike, the ends are not: transitive closure alone would remove all but one
    rng = random.Random(3)
    chain = [corpora.document(rng, 200)]
    for _ in range(12):
        chain.append(corpora.edited(rng, chain[-1], 0.02))
    store = Store(chain)
    assert all(jaccard(a, b) > 0.75 for a, b in pairwise(store.sets))
    assert jaccard(store.sets[0], store.sets[-1]) < 0.5
    table = table_of(range(len(chain)), characters=[-n for n in range(len(chain))])
    removals = resolve(table, np.zeros(len(chain), int), "longest", 0.75, store.similarities)
    kept = sorted(set(range(len(chain))) - set(removals["ref"].tolist()))
    assert len(kept) > 1
    for removal in removals:
        true = jaccard(store[removal["ref"]], store[removal["survivor_lo"]])
        assert true == removal["jaccard"] >= 0.75
        assert removal["survivor_lo"] in kept
    for n, one in enumerate(kept):
        for other in kept[n + 1 :]:
            assert jaccard(store[one], store[other]) < 0.75


def test_resolution_does_not_depend_on_the_order_of_members():
    rng = random.Random(4)
    texts = [corpora.document(rng, 100)]
    texts += [corpora.edited(rng, texts[0], share) for share in (0.01, 0.02, 0.05, 0.08, 0.1)]
    store = Store(texts)
    table = table_of([30, 10, 50, 20, 40, 60], characters=[len(text) for text in texts])
    expected = reference_resolve(table, "longest", 0.75, store.similarities)
    assert expected
    for seed in range(5):
        shuffled = table[np.random.default_rng(seed).permutation(6)]
        assert resolved(shuffled, np.zeros(6, int), "longest", 0.75, store.similarities) == expected


@given(st.integers(0, 1 << 30), st.sampled_from(["longest", "oldest"]))
@settings(max_examples=60)
def test_components_resolved_together_equal_each_one_alone(seed, preference):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 30))
    table = table_of(rng.permutation(count), characters=rng.integers(0, 4, count), date=rng.integers(0, 3, count))
    table["ref"] = rng.permutation(count)
    table["ref"][rng.random(count) < 0.2] += rows.EARLIER
    component = rng.integers(0, 4, count)
    fixed = np.random.default_rng(seed).random((count, count))
    numbered = {int(ref): n for n, ref in enumerate(table["ref"])}

    def similarities(one, other):
        pairs = [sorted((numbered[int(a)], numbered[int(b)])) for a, b in zip(one, other, strict=True)]
        return np.array([fixed[a, b] for a, b in pairs], float)

    expected = set()
    for number in np.unique(component):
        expected |= reference_resolve(table[component == number], preference, 0.5, similarities)
    assert resolved(table, component, preference, 0.5, similarities) == expected


def test_what_only_a_hub_ties_together_is_not_loaded_once_for_each_of_its_members():
    count = 2000
    table = table_of(range(count), characters=[5] * (count - 1) + [1])
    loads = 0

    def similarities(one, other):
        nonlocal loads
        loads += np.unique(np.concatenate([one, other])).size
        hub = (one == count - 1) | (other == count - 1)
        return np.where(hub, 0.78, 0.6)

    expected = {(count - 1, 0, 0, 0.78)}
    assert resolved(table, np.zeros(count, int), "longest", 0.75, similarities) == expected
    assert loads < count * count // 64


def brute_force_clusters(texts, threshold, width=5):
    """Components of all pairs whose Jaccard similarity reaches the threshold. texts: by id."""
    own = {key: reference(text, width) for key, text in texts.items()}
    graph = nx.Graph()
    graph.add_nodes_from(key for key in own if own[key])
    keys = sorted(graph)
    for number, one in enumerate(keys):
        for other in keys[number + 1 :]:
            union = len(own[one] | own[other])
            if len(own[one] & own[other]) / union >= threshold:
                graph.add_edge(one, other)
    return graph, own


def test_brute_force_itself_finds_planted_copies():
    texts = dict(enumerate(corpora.texts(5, originals=12)))
    graph, _ = brute_force_clusters(texts, 0.75)
    assert sum(len(c) > 1 for c in nx.connected_components(graph)) > 2
