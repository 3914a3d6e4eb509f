"""The Shakespeare example writes tokens that training can read, and holds out the end of the text."""

import runpy
import sys

from core import checkpoint
from core.token_set import TokenSet
from tests.conftest import ROOT


def test_characters_come_back_in_order_and_the_end_is_held_out(tmp_path, monkeypatch):
    text = "First Citizen:\nBefore we proceed any further, hear me speak.\n\n" * 400
    (tmp_path / "text.txt").write_text(text)
    monkeypatch.setattr(sys, "argv", ["prepare.py", str(tmp_path / "text.txt"), str(tmp_path / "tokens")])
    runpy.run_path(str(ROOT / "examples/shakespeare/prepare.py"), run_name="__main__")
    tokens = TokenSet(tmp_path / "tokens")
    tokenizer = checkpoint.load_tokenizer(tokens.tokenizer)
    assert tokenizer.eos_token_id == tokens.separator
    assert len(tokenizer) == len(set(text)) + 1

    def read(split):
        documents = [tokens.tokens(int(row)) for row in tokens.rows(split)]
        assert all(document[-1] == tokens.separator for document in documents)
        return "".join(tokenizer.decode(document[:-1].tolist()) for document in documents)

    cut = len(text) * 9 // 10
    assert read("train") == text[:cut]
    assert read("validation") == text[cut:]
    assert tokenizer.encode("speak.") == [tokenizer.get_vocab()[character] for character in "speak."]
