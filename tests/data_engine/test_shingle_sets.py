"""Sets of suspects on storage, compared pair by pair with Python sets, in pieces however small."""

import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_engine import rows, shingle_sets
from tests.data_engine import corpora
from tests.data_engine.test_kernels_shingles import reference

WIDTH = 5


def jaccard(one, other):
    union = len(one | other)
    return len(one & other) / union if union else 0.0


@pytest.mark.parametrize(("at_once", "open_files", "group"), [(8 << 20, 256, 512), (1, 1, 7), (5000, 2, 3)])
def test_similarities_equal_those_of_python_sets(tmp_path, monkeypatch, at_once, open_files, group):
    monkeypatch.setattr(shingle_sets, "_VALUES_AT_ONCE", at_once)
    monkeypatch.setattr(shingle_sets, "_OPEN_FILES", open_files)
    rng = random.Random(7)
    shards = [*range(3), int(rows.EARLIER) >> 32]  # the last one lies in an earlier artifact
    own, listed, sets = {}, {}, {}
    for shard in shards:
        texts = [corpora.document(rng, 60) for _ in range(20)]
        texts += [corpora.edited(rng, text, 0.03) for text in texts] + ["", "two words"]
        pq.write_table(pa.table({"text": pa.array(texts, pa.large_string())}), tmp_path / "text", row_group_size=group)
        chosen = np.array(sorted(rng.sample(range(len(texts)), 25)), np.uint64)
        refs = (np.uint64(shard) << np.uint64(32)) + chosen
        listed[shard], sets[shard] = tmp_path / f"{shard}.listed.npy", tmp_path / f"{shard}.sets.npy"
        shingle_sets.write_sets(tmp_path / "text", refs, WIDTH, listed[shard], sets[shard])
        own |= {int(ref): reference(texts[int(row)], WIDTH) for ref, row in zip(refs, chosen, strict=True)}
    known = np.array(sorted(own), np.uint64)
    one, other = (np.random.default_rng(seed).choice(known, 400) for seed in (0, 1))
    with shingle_sets.ShingleSets(listed, sets) as store:
        found = store.similarities(one, other)
    expected = [jaccard(own[int(a)], own[int(b)]) for a, b in zip(one, other, strict=True)]
    assert found.tolist() == expected
    assert sum(0 < value < 1 for value in expected) >= 3


def test_no_suspect_and_no_pair(tmp_path):
    pq.write_table(pa.table({"text": pa.array(["a"], pa.large_string())}), tmp_path / "text")
    none = np.zeros(0, np.uint64)
    shingle_sets.write_sets(tmp_path / "text", none, WIDTH, tmp_path / "l.npy", tmp_path / "s.npy")
    with shingle_sets.ShingleSets({0: tmp_path / "l.npy"}, {0: tmp_path / "s.npy"}) as store:
        assert store.similarities(none, none).size == 0
