"""A plain text becomes documents without loss, and trains without a script of one's own."""

import io

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import UserError
from data_engine import text_pieces
from data_engine.text_pieces import PIECE, pieces, write_documents
from data_engine.tokenize import STAGE, TokenizeConfig

parts = st.lists(
    st.sampled_from(["a" * 5000, "word ", "\n", "\n\n", "\r\n", "\u2028", "🎉é", "x" * PIECE]), max_size=30
)


@given(parts.map("".join))
def test_the_pieces_joined_are_the_text(text):
    found = list(pieces(io.StringIO(text, newline="")))
    assert "".join(found) == text
    assert all(0 < len(piece) <= PIECE for piece in found)
    assert all(len(piece) > PIECE // 2 for piece in found[:-1])


def test_a_piece_ends_where_a_paragraph_does_else_a_line_else_a_word():
    for border in ("\n\n", "\n", " "):
        text = "a" * (PIECE - 10) + border + "b" * PIECE
        assert next(pieces(io.StringIO(text))) == "a" * (PIECE - 10) + border
    assert next(pieces(io.StringIO("a" * 2 * PIECE))) == "a" * PIECE


def test_documents_hold_the_bytes_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(text_pieces, "_ROWS", 3)
    text = "".join(f"line {n} of naïve café\r\n" for n in range(5000))
    (tmp_path / "book.txt").write_bytes(text.encode())
    write_documents(str(tmp_path / "book.txt"), tmp_path / "a" / "pieces.parquet")
    found = pq.read_table(tmp_path / "a" / "pieces.parquet")
    assert "".join(found["text"].to_pylist()) == text
    assert len(set(found["id"].to_pylist())) == found.num_rows > 10


def test_other_bytes_are_refused_by_name(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match=r"latin\.txt: no UTF-8 text"):
        write_documents(str(tmp_path / "latin.txt"), tmp_path / "out.parquet")


def test_an_empty_text_is_an_empty_corpus(tmp_path):
    (tmp_path / "empty.txt").touch()
    with pytest.raises(UserError, match="the corpus is empty"):
        STAGE.execute(TokenizeConfig(documents=str(tmp_path / "empty.txt"), output=str(tmp_path / "out")))


def test_a_book_becomes_tokens_of_both_splits(real_data, tmp_path):
    book = real_data / "text" / "tinyshakespeare.txt"
    config = TokenizeConfig(documents=str(book), output=str(tmp_path / "tokens"), vocab_size=300)
    made = STAGE.execute(config)[0]
    assert made.counts["bytes"] == book.stat().st_size
    assert made.counts["validation_documents"] > 1
    assert 0.01 < made.counts["validation_tokens"] / made.counts["tokens"] < 0.15
    assert not (tmp_path / "tokens" / ".pieces").exists()
