"""Rows of Parquet and lines of JSONL: each once, however the file is cut, bad ones reported."""

import bz2
import gzip
import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import UserError
from core.manifest import digest_input
from data_engine import read_tables, sources
from data_engine.records import Damage, Record, Skips
from data_engine.sources import Source, list_shards
from tests.data_engine import corpora

COLUMNS = read_tables.Columns("text", "url", "date", "license")


def zstd(data):
    return pa.compress(data, "zstd", asbytes=True)


def jsonl(path, start=0, end=1 << 62):
    return list(read_tables.read_jsonl(str(path), start, end, COLUMNS, 10_000, Skips()))


@pytest.mark.parametrize("step", [1, 7, 100, 5000])
def test_every_cut_of_a_jsonl_file_reads_every_line_once(tmp_path, step):
    path = tmp_path / "a.jsonl"
    # U+2028 and U+0085 end no line
    corpora.write_jsonl(path, [{"text": f"line {n}\u2028\x85 é", "url": str(n)} for n in range(30)])
    size = path.stat().st_size
    whole = jsonl(path)
    assert [r for start in range(0, size, step) for r in jsonl(path, start, min(start + step, size))] == whole
    assert [record.url for record in whole] == [str(n) for n in range(30)]
    content = path.read_bytes()
    assert all(json.loads(content[r.offset :].split(b"\n")[0])["url"] == r.url for r in whole)


def test_bad_lines_are_reported_with_their_place(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [
        b'{"text": "ok"}',
        b'{"text": "cut',
        b'{"text": 5}',
        "{'text': 'é'}".encode("latin-1"),
        b"[1]",
        b"",
        b'{"text": "x"}',
    ]
    path.write_bytes(b"\n".join(lines) + b"\n" + json.dumps({"text": "y" * 20_000}).encode())
    found = jsonl(path)
    assert [type(r) is Record for r in found] == [True, False, False, False, False, True, False]
    assert found[1].offset == 15
    assert "no JSON" in found[1].error
    assert "no text" in found[2].error
    assert "no UTF-8" in found[3].error
    assert "longer than" in found[-1].error


def test_a_line_nested_beyond_every_limit_costs_itself(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n' + "[" * 200_000 + '\n{"text": "b"}\n')
    first, damage, last = jsonl(path)
    assert (first.payload, last.payload) == (b"a", b"b")
    assert damage.error == "the line is nested too deeply"


LONG = 30_000_000


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
@pytest.mark.parametrize("last", [True, False])
def test_an_endless_line_is_one_damage_in_bounded_memory(tmp_path, monkeypatch, ending, last):
    """Also for the parts of a file that begin within it."""
    monkeypatch.setattr(read_tables, "_LONG", 0)
    lines = [b'{"text": "a"}', b'{"text": "' + b"x" * LONG + b'"}', *([] if last else [b'{"text": "b"}'])]
    content = b"\n".join(lines)
    packed = {"": bytes, ".gz": lambda data: gzip.compress(data, 1), ".zst": zstd}[ending](content)
    (tmp_path / f"a.jsonl{ending}").write_bytes(packed)
    step = 1 << 62 if ending else 7_000_000
    tracemalloc.start()
    try:
        found = [
            one
            for start in range(0, len(content), step)
            for one in jsonl(tmp_path / f"a.jsonl{ending}", start, min(start + step, 1 << 62))
        ]
        assert tracemalloc.get_traced_memory()[1] < LONG / 3
    finally:
        tracemalloc.stop()
    assert [type(one) is Record for one in found] == ([True, False] if last else [True, False, True])
    assert (found[1].offset, found[1].error) == (14, "the line is longer than 1,108,576 bytes; see max_document_bytes")


def test_a_line_that_is_long_for_its_escapes_or_its_other_fields_is_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "\7" * 10_000, "other": "x" * 1_000_000}) + "\n")
    assert [len(one.payload) for one in jsonl(path)] == [10_000]


def test_values_that_cannot_be_read_cost_their_row_and_a_date_its_date(tmp_path):
    far = pa.array([0, 400_000_000_000_000_000, 0, 0], pa.timestamp("us"))
    rows = {"text": corpora.strings([b"a", b"b", b"\xff\xfe", b"d"]), "url": ["1", "2", "3", "4"], "date": far}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    found = list(read_tables.read_parquet(str(tmp_path / "a.parquet"), 0, 1, COLUMNS, 10_000))
    assert [type(one) is Record for one in found] == [True, True, False, True]
    assert [one.date for one in found if isinstance(one, Record)] == [
        "1970-01-01T00:00:00Z",
        "",
        "1970-01-01T00:00:00Z",
    ]
    assert found[2].offset == 2
    assert "does not decode" in found[2].error


@pytest.mark.parametrize("ending", ["gz", "bz2", "zst"])
def test_compressed_lines_are_read_and_a_cut_file_keeps_its_first_lines(tmp_path, ending):
    content = b"".join(json.dumps({"text": f"{n} " * 2000}).encode() + b"\n" for n in range(300))
    packed = {
        "gz": gzip.compress,
        "bz2": bz2.compress,
        "zst": zstd,
    }[ending](content)
    path = tmp_path / f"a.jsonl.{ending}"
    path.write_bytes(packed)
    assert len(jsonl(path)) == 300
    path.write_bytes(packed[: len(packed) * 2 // 3])
    found = jsonl(path)
    assert all(isinstance(r, Record) for r in found[:-1])
    assert isinstance(found[-1], Damage)


def shards_of(paths, **settings):
    source = Source(name="s", paths=[str(path) for path in paths], **settings.pop("source", {}))
    digests = [digest for path in source.paths for digest in digest_input(path)]
    return source, list_shards([source], digests, settings.get("shard_bytes", 1000), settings.get("rows", 100))


def test_parquet_is_cut_at_row_groups(tmp_path):
    rows = corpora.rows_of([f"text {n}" for n in range(230)])
    corpora.write_parquet(tmp_path / "a.parquet", rows, group=40)
    source, shards = shards_of([tmp_path / "a.parquet"])
    assert [(shard.start, shard.end) for shard in shards] == [(0, 2), (2, 4), (4, 6)]
    found = [r for shard in shards for r in sources.read(shard, source, 10_000, Skips())]
    assert [r.url for r in found] == [row["url"] for row in rows]
    assert [r.offset for r in found] == list(range(230))
    assert found[0].date == "2026-01-01T00:00:00Z"


def test_shard_names_depend_on_content_and_not_on_the_path(tmp_path):
    rows = corpora.rows_of(["a", "b"])
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        corpora.write_jsonl(tmp_path / folder / "a.jsonl", rows)
    names = [shards_of([tmp_path / folder / "a.jsonl"])[1][0].name for folder in ("one", "two")]
    assert names[0] == names[1]
    _, both = shards_of([tmp_path / "one", tmp_path / "two"])
    assert len({shard.name for shard in both}) == 2, "a file that lies there twice is read twice, not lost"
    _, overlapping = shards_of([tmp_path / "one", tmp_path / "one" / "a.jsonl"])
    assert len(overlapping) == 1, "a file that two patterns name is one file"


def test_files_of_no_known_format_are_named(tmp_path):
    (tmp_path / "a.bin").write_text("x")
    with pytest.raises(UserError, match=r"a.bin: no format goes by this name; set format of source s"):
        shards_of([tmp_path / "a.bin"])
    with pytest.raises(UserError, match=r"source s holds no .warc.gz"):
        shards_of([tmp_path])
    _, shards = shards_of([tmp_path / "a.bin"], source={"format": "jsonl"})
    assert len(shards) == 1


def test_another_column_can_hold_the_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"content": "hello", "text": "no"}\n')
    source, shards = shards_of([tmp_path / "a.jsonl"], source={"text_field": "content"})
    assert [r.payload for r in sources.read(shards[0], source, 100, Skips())] == [b"hello"]


def test_lists_are_validated_once_and_a_bad_row_is_found_by_halves():
    """To validate a slice of lists validates all of their values: row by row that is quadratic."""
    rows, bad = 5000, 3210
    texts = [f"text {n}".encode() for n in range(rows)]
    texts[bad] = b"\xff"
    text = pa.array(texts, pa.binary()).view(pa.string())
    licences = pa.array([["MIT", "BSD"]] * rows)
    valid = pa.RecordBatch.from_arrays([text, licences], ["text", "license"])
    columns = read_tables.Columns("text", "url", "date", "license")
    found = list(columns.records(valid, "a.parquet", 0, 1 << 20))
    assert [type(one) is Record for one in found] == [n != bad for n in range(rows)]
    assert found[bad].offset == bad and "does not decode" in found[bad].error
    assert found[0].licence == "MIT AND BSD"
