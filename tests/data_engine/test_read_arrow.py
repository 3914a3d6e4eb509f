"""Data sets as the `datasets` library saves them: every row once, no cache file among them, damage reported."""

import pyarrow as pa
import pyarrow.feather
import pytest

from core.errors import UserError
from data_engine import sources
from data_engine.records import Damage, Skips
from tests.data_engine import corpora, trees

ROWS = [{**row, "license": "CC-BY-4.0"} for row in corpora.rows_of([f"text {n}" for n in range(230)])]


@pytest.fixture
def saved(tmp_path):
    datasets = pytest.importorskip("datasets")
    path = tmp_path / "saved"
    dataset = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"train": dataset.select(range(200)), "test": dataset.select(range(200, 230))}).save_to_disk(
        path, num_shards={"train": 3, "test": 1}
    )
    return path


def test_every_row_of_every_split_once(saved):
    records, damaged, skipped = trees.read([saved])
    assert sorted(records) == sorted(row["url"] for row in ROWS)
    assert damaged == {}
    assert set(skipped) == {"file .json"}
    first = records[ROWS[0]["url"]]
    assert (first.payload, first.date, first.licence) == (b"text 0", "2026-01-01T00:00:00Z", "CC-BY-4.0")
    assert len(trees.read([saved / "test"])[0]) == 30


def test_chosen_rows_are_read_and_cached_transformations_are_not(saved):
    import datasets

    loaded = datasets.load_from_disk(str(saved / "train"))
    loaded.map(lambda row: {"text": row["text"] + " again"})
    assert list((saved / "train").glob("cache-*.arrow")), "the library left its cache beside the data"
    loaded.select([5, 3, 9]).save_to_disk(str(saved.parent / "chosen"))
    assert {record.payload for record in trees.read([saved.parent / "chosen"])[0].values()} == {
        b"text 5",
        b"text 3",
        b"text 9",
    }
    records, _, skipped = trees.read([saved / "train"])
    assert len(records) == 200
    assert skipped["file .arrow, a cache"] == 1


def test_a_missing_part_is_an_error_not_a_smaller_data_set(saved):
    next((saved / "train").glob("data-00001*")).unlink()
    with pytest.raises(UserError, match=r"data-00001-of-00003.arrow: no such file, but .*state.json names it"):
        trees.read([saved])


@pytest.mark.parametrize("in_stream_format", [True, False])
def test_cut_at_record_batches(tmp_path, in_stream_format):
    table = pa.Table.from_pylist(ROWS)
    path = tmp_path / "a.arrow"
    if in_stream_format:
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=40)
    else:
        pyarrow.feather.write_feather(table, path, chunksize=40)
    source, shards = trees.shards_of([path])
    assert [(shard.start, shard.end) for shard in shards] == [(0, 2), (2, 4), (4, 6)]
    found = [one for shard in shards for one in sources.read(shard, source, 1000, Skips())]
    assert [one.url for one in found] == [row["url"] for row in ROWS]
    assert [one.offset for one in found] == list(range(230))


def test_a_cut_file_keeps_its_first_batches(tmp_path):
    path = tmp_path / "a.arrow"
    with pa.ipc.new_stream(path, pa.Table.from_pylist(ROWS).schema) as writer:
        writer.write_table(pa.Table.from_pylist(ROWS), max_chunksize=40)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    records, damaged, _ = trees.read([path])
    assert len(records) % 40 == 0
    assert len(records) >= 80
    (damage,) = damaged.values()
    assert damage.error.startswith(f"not readable as Arrow from row {len(records)} on: ")
    path.write_bytes(b"no Arrow at all")
    records, damaged, _ = trees.read([path])
    assert (len(records), len(damaged)) == (0, 1)


def test_rows_without_text_are_damage_of_their_own(tmp_path):
    path = tmp_path / "a.arrow"
    table = pa.table({"text": ["x", None, "z"], "url": ["1", "2", "3"]})
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)
    source, shards = trees.shards_of([path])
    found = list(sources.read(shards[0], source, 1000, Skips()))
    assert [type(one) is Damage for one in found] == [False, True, False]


@pytest.mark.parametrize("in_stream_format", [True, False])
def test_a_row_that_is_no_utf8_costs_itself_whatever_the_cut(tmp_path, in_stream_format):
    path = tmp_path / "a.arrow"
    batches = [corpora.strings([b"a", b"b", b"c"]), corpora.strings([b"d", b"\xff\xfe", b"f"]), corpora.strings([b"g"])]
    table = pa.Table.from_batches([pa.record_batch([column], ["text"]) for column in batches])
    with (pa.ipc.new_stream if in_stream_format else pa.ipc.new_file)(path, table.schema) as writer:
        writer.write_table(table)
    for rows in (1, 4, 100):
        source, shards = trees.shards_of([path], rows=rows)
        found = [one for shard in shards for one in sources.read(shard, source, 1000, Skips())]
        assert [getattr(one, "payload", None) for one in found] == [b"a", b"b", b"c", b"d", None, b"f", b"g"]
        assert [one.offset for one in found] == list(range(7))


def test_offsets_beyond_their_buffer_cost_their_rows(tmp_path):
    """Arrow itself reads what lies in memory there."""
    offsets = pa.array([0, 1, 1 << 30, 3], pa.int32()).buffers()[1]
    column = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"abc")])
    with pa.ipc.new_stream(tmp_path / "a.arrow", pa.schema([("text", pa.string())])) as writer:
        writer.write_batch(pa.record_batch([column], ["text"]))
    source, shards = trees.shards_of([tmp_path / "a.arrow"])
    found = list(sources.read(shards[0], source, 1000, Skips()))
    assert [type(one) is Damage for one in found] == [False, True, True]
