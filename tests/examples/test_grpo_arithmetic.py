"""The arithmetic example holds out sums that no table trains on, and its recipe fits what it makes."""

import json
import runpy
import sys

from raymill.recipe import Plan
from tests.conftest import ROOT
from training.policy_run import read_table
from training.tuning import check


def test_held_out_sums_are_in_no_other_table_and_the_recipe_fits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["make.py"])
    runpy.run_path(str(ROOT / "examples/grpo_arithmetic/make.py"), run_name="__main__")
    folder = tmp_path / "runs/grpo_arithmetic/inputs"
    tables = {
        name: {json.loads(line)["question"] for line in (folder / f"{name}.jsonl").read_text().splitlines()}
        for name in ("heldout", "warm", "prompts")
    }
    assert tables["warm"] <= tables["prompts"]
    assert not tables["heldout"] & tables["prompts"]
    config = Plan(ROOT / "examples/grpo_arithmetic/recipe.yaml").steps[-1].config
    encoder = check(config.model_copy(update={"checkpoint": str(folder / "checkpoint")}))
    table = read_table(config, encoder, "prompts")
    assert set(table.skipped) == set()
    assert len(table) == len(tables["prompts"]) == config.rollout_prompts * 5
    assert all(str(eval(row["question"])) == row["answer"] for row in table.rows)
