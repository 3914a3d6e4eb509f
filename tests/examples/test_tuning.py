"""The examples of fine-tuning and of preferences: their settings are valid, their answers right, their splits apart."""

import importlib.util
import json
import random
import re

import pyarrow.parquet as pq
import pytest

from raymill.recipe import Plan
from tests.conftest import ROOT


def script(name):
    specification = importlib.util.spec_from_file_location(f"{name}_make", ROOT / "examples" / name / "make.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["gsm8k", "harmless"])
def test_recipes_are_valid(name):
    assert Plan(ROOT / "examples" / name / "recipe.yaml").steps


def test_worked_answers_are_right():
    rng, problem = random.Random(1), script("gsm8k").problem
    for _ in range(200):
        row = problem(rng)
        shown, result = re.fullmatch(r"(.*) = <<.*>>\d+\n#### (\d+)", row["answer"]).groups()
        first, sign, second = shown.split()
        assert int(result) == int(first) + (int(second) if sign == "+" else -int(second))
        assert re.findall(r"\d+", row["question"]) == [first, second]


def test_pairs_about_one_prompt_stay_in_one_split_and_empty_ones_are_left_out(tmp_path):
    rows = [{"prompt": f"question {n // 2}?", "chosen": f"yes {n}", "rejected": "no"} for n in range(120)]
    rows.append({"prompt": "question 1?", "chosen": "", "rejected": "no"})
    (tmp_path / "pairs.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    script("harmless").main(str(tmp_path / "pairs.jsonl"), tmp_path / "inputs")
    train, held_out = (
        pq.read_table(tmp_path / "inputs" / f"pairs-{name}.parquet").to_pylist() for name in ("train", "heldout")
    )
    assert len(train) + len(held_out) == 120
    asked = [{row["prompt"][0]["content"] for row in part} for part in (train, held_out)]
    assert asked[1]
    assert not asked[0] & asked[1]
