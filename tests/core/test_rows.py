import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import UserError
from core.rows import read_rows

ROWS = [{"a": 1, "b": "x\u2028y"}, {"a": 2, "b": "\u0085"}]  # str.splitlines would cut both


def write(path, kind):
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif kind == "json":
        path.write_text(json.dumps(ROWS, indent=2))
    else:
        path.write_bytes(gzip.compress(lines) if kind == "jsonl.gz" else lines)
    return str(path)


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "jsonl.gz", "json"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path, kind):
    assert read_rows(write(tmp_path / f"rows.{kind}", kind), ["a", "b"]) == ROWS


def test_files_of_a_folder_come_in_order_up_to_the_limit(tmp_path):
    for name in ("2.jsonl", "1.jsonl"):
        (tmp_path / name).write_text(json.dumps({"from": name}) + "\n")
    (tmp_path / "notes.txt").write_text("no data")
    assert [row["from"] for row in read_rows(str(tmp_path))] == ["1.jsonl", "2.jsonl"]
    assert len(read_rows(str(tmp_path), limit=1)) == 1


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": \n', r"a\.jsonl: line 2: not readable as JSON"),
        ("a.jsonl", '{"a": 1}\n7\n', r"a\.jsonl: line 2 is no JSON object"),
        ("a.json", '[{"a": 1}, 7]', r"a\.json: item 1 is no JSON object"),
        ("a.json", "[", r"a\.json: not readable as JSON"),
        ("a.jsonl", '{"c": 1}\n', r"a\.jsonl: has no column a; it holds c"),
        ("a.jsonl", "\n", "holds no rows"),
        ("a.csv", "a\n1\n", r"holds no file that ends with \.parquet"),
        ("a.parquet", "PAR1", r"a\.parquet: not readable as Parquet"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(tmp_path, name, content, reason):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=reason):
        read_rows(str(tmp_path / name), ["a"])
