"""Reading token artifacts: types at the border of 16 bits, damaged artifacts."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import UserError
from core.token_set import INDEX_SCHEMA, TokenSet, dtype_for


@pytest.mark.parametrize(("vocabulary", "name"), [(260, "uint16"), (65_536, "uint16"), (65_537, "uint32")])
def test_type_holds_the_largest_id(vocabulary, name):
    dtype = dtype_for(vocabulary)
    assert dtype.name == name
    assert dtype.byteorder in "<="
    assert int(np.asarray([vocabulary - 1], dtype)[0]) == vocabulary - 1


def write(directory, documents, dtype):
    """Documents by shard: {name: [tokens, ...]}."""
    (directory / "tokens").mkdir()
    rows = []
    for shard, lists in documents.items():
        np.concatenate(lists).astype(dtype).tofile(directory / "tokens" / shard)
        offset = 0
        for tokens in lists:
            name = f"{shard}{offset}"
            rows.append({"id": name, "shard": shard, "offset": offset, "tokens": len(tokens), "bytes": 9, "words": 2})
            rows[-1] |= {"source": "", "language": "en", "split": "train" if len(rows) % 2 else "validation"}
            offset += len(tokens)
    table = pa.Table.from_pylist(rows, INDEX_SCHEMA)
    pq.write_table(
        table.replace_schema_metadata({"dtype": np.dtype(dtype).str, "separator": "7"}), directory / "index.parquet"
    )


@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
def test_documents_come_back(tmp_path, dtype):
    top = np.iinfo(dtype).max
    write(tmp_path, {"a.bin": [[1, 2, 7], [top, 7]], "b.bin": [[5, 7]]}, dtype)
    tokens = TokenSet(tmp_path)
    assert [tokens.tokens(row).tolist() for row in range(len(tokens))] == [[1, 2, 7], [top, 7], [5, 7]]
    assert tokens.rows("train").tolist() == [0, 2]
    assert tokens.rows("validation").tolist() == [1]
    assert tokens.separator == 7


def test_missing_or_damaged_artifacts_are_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match="raymill data tokenize"):
        TokenSet(tmp_path)
    (tmp_path / "index.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match="not readable as the index"):
        TokenSet(tmp_path)


def test_missing_shard_is_named(tmp_path):
    write(tmp_path, {"a.bin": [[1, 7]]}, "<u2")
    (tmp_path / "tokens" / "a.bin").unlink()
    with pytest.raises(UserError, match=r"a\.bin: missing"):
        TokenSet(tmp_path).tokens(0)
