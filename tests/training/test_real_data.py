"""Published files train as they are, without a conversion script."""

import json

import pytest

from core import checkpoint
from core.errors import UserError
from tests.training.test_stages import dpo_config, sft_config
from training import dpo, sft
from training.chat import ChatEncoder
from training.examples import conversations

ROWS = 24


def first_rows(source, folder):
    """The file's own format and columns, fewer rows, as both splits."""
    text = source.read_text(encoding="utf-8")
    rows = json.loads(text)[:ROWS] if text.startswith("[") else [json.loads(line) for line in text.split("\n")[:ROWS]]
    content = json.dumps(rows) if text.startswith("[") else "\n".join(json.dumps(row) for row in rows)
    for name in ("train", "heldout"):
        (folder / f"{name}{source.suffix}").write_text(content, encoding="utf-8")
    return {name: str(folder / f"{name}{source.suffix}") for name in ("train", "heldout")}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gsm8k_train.jsonl", "codealpaca_2k.json", "gpteacher_roleplay.json"])
def test_instructions_train_as_they_are(real_data, base, tmp_path, name):
    paths = first_rows(real_data / "instructions" / name, tmp_path)
    changes = {"max_length": 128, "too_long": "split", "steps": 1, "exact_match_prompts": 1}
    config = sft_config(tmp_path / "run", base, tmp_path, **changes)
    config = config.model_copy(update={"conversations": paths["train"], "heldout": paths["heldout"]})
    counts = sft.STAGE.execute(config)[0].counts
    encoder = ChatEncoder(checkpoint.load_tokenizer(base))
    found = conversations(paths["train"], encoder, 128, "split")
    assert len(found.rows) + sum(found.skipped.values()) == ROWS
    assert len(found.rows) >= ROWS - 2, "nothing is lost where long ones are split"
    assert counts["examples"]["train"] == len(found.units) >= len(found.rows)
    assert counts["skipped_examples"]["train"] == found.skipped
    assert counts["split_examples"]["train"] == found.too_long


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["sigmoid", "kto"])
def test_preferences_train_as_they_are(real_data, base, tmp_path, loss):
    paths = first_rows(real_data / "preferences" / "harmless_base_1500.jsonl", tmp_path)
    settings = dpo_config(tmp_path / "run", base, tmp_path, steps=1, max_length=128, preference={"loss": loss})
    config = settings.model_copy(update={"preferences": paths["train"], "heldout": paths["heldout"]})
    counts = dpo.STAGE.execute(config)[0].counts
    left_out = sum(counts["skipped_examples"]["train"].values())
    assert counts["examples"]["train"] + left_out == ROWS * (2 if loss == "kto" else 1)


@pytest.mark.slow
def test_columns_that_nobody_knows_give_the_setting_that_maps_them(base, tmp_path):
    """The setting that the error names is all that is missing."""
    rows = [{"ask": f"number {n}?", "reply": f"{n}", "worse": f"{n + 1}"} for n in range(8)]
    for name in ("train", "heldout"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    paths = {"preferences": str(tmp_path / "train.jsonl"), "heldout": str(tmp_path / "heldout.jsonl")}
    config = dpo_config(tmp_path / "run", base, tmp_path, steps=1).model_copy(update=paths)
    with pytest.raises(UserError, match=r"as fields: \{prompt: ask, chosen: reply, rejected: worse\}"):
        dpo.STAGE.execute(config)
    fields = {"prompt": "ask", "chosen": "reply", "rejected": "worse"}
    found, _ = dpo.STAGE.execute(config.model_copy(update={"fields": fields}))
    assert found.counts["examples"] == {"train": 8, "heldout": 8}
