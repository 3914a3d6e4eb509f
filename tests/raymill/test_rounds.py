"""Rounds of DPO: each on answers of the model before it, reused when up to date, from a judge or from people."""

import pyarrow.parquet as pq
import pytest

from core import manifest
from core.config import parse
from core.errors import UserError
from raymill.rounds import STAGE, RoundsConfig
from tests.training import fixtures
from tests.training.test_stages import SMALL, sft_config
from training import collect, sft
from training.collect import CollectSettings, _pairs
from training.rewards import Answer

TRAIN = {**SMALL, "epochs": 2, "max_length": 64, "optimizer": {"learning_rate": 5e-3, "weight_decay": 0.0}}
COLLECT = {"answers": 4, "prompts": 24, "max_length": 64, "rollout": {"max_new_tokens": 8}}


def begins_with_g(text, row):
    """A judge that is easy to please."""
    return float(text.strip().startswith("g"))


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A checkpoint that answers with words, and its conversations and held-out pairs."""
    folder = tmp_path_factory.mktemp("rounds")
    base = fixtures.write_checkpoint(folder / "base")
    conversations = fixtures.write_conversations(folder / "conversations")
    fixtures.write_preferences(folder / "preferences")
    settings = {"epochs": 4, "optimizer": {"learning_rate": 1e-2}, "exact_match_prompts": 1, "method": "full"}
    sft.STAGE.execute(sft_config(folder / "sft", base, conversations, **settings))
    return folder


def config(start, output, **changes):
    settings = {
        "checkpoint": str(start / "sft" / "checkpoint"),
        "heldout": str(start / "preferences" / "heldout.parquet"),
        "prompts": str(start / "conversations" / "train.parquet"),
        "judge": [{"kind": "function", "function": "tests.raymill.test_rounds:begins_with_g"}],
        "collect": COLLECT,
        "train": TRAIN,
    }
    return RoundsConfig.model_validate({"output": str(output), **settings, **changes})


@pytest.mark.slow
def test_each_round_pleases_the_judge_more_and_is_reused(start, tmp_path):
    evaluate = {"tasks": [{"type": "preference", "pairs": str(start / "preferences/heldout.parquet")}], "threads": 1}
    done, _ = STAGE.execute(config(start, tmp_path / "run", evaluate=evaluate))
    first, second = done.metrics["rounds"]
    assert second["reward"] > first["reward"] + 0.1
    assert first["scores"].keys() == second["scores"].keys() == done.metrics["start"].keys()
    folder = tmp_path / "run-rounds"
    assert manifest.require(folder / "round-2" / "dpo").config["checkpoint"] == first["checkpoint"]
    asked = [
        {row["prompt"][0]["content"] for row in pq.read_table(folder / f"round-{n}/pairs" / collect.PAIRS).to_pylist()}
        for n in (1, 2)
    ]
    assert len(asked[0] | asked[1]) > max(len(part) for part in asked), "each round asks other prompts"
    more, _ = STAGE.execute(config(start, tmp_path / "again", evaluate=evaluate, folder=str(folder), rounds=3))
    assert more.counts["reused"] == 2
    assert more.metrics["rounds"][:2] == done.metrics["rounds"]


@pytest.mark.slow
def test_a_round_of_people_waits_for_their_results(start, tmp_path):
    """The run ends with one line that says what to compare, and goes on from there."""
    results = tmp_path / "results-{round}.parquet"
    settings = {"judge": [], "prompts": None, "arena": str(results), "train": {**TRAIN, "steps": 1}}
    pairs = pq.read_table(start / "preferences" / "train.parquet")
    pq.write_table(pairs, str(results).replace("{round}", "1"))
    with pytest.raises(
        UserError, match=r"round 2 waits for .*results-2\.parquet; compare answers of .*round-1/dpo"
    ) as e:
        STAGE.execute(config(start, tmp_path / "run", **settings))
    assert "\n" not in str(e.value)
    pq.write_table(pairs, str(results).replace("{round}", "2"))
    done, reused = STAGE.execute(config(start, tmp_path / "run", **settings))
    assert not reused
    assert done.counts["reused"] == 1
    assert [row["reward"] for row in done.metrics["rounds"]] == [None, None]


def test_the_best_and_the_worst_answer_become_a_pair():
    ask = [{"role": "user", "content": "?"}]
    answers = [Answer(ask, text, {}, cut) for text, cut in (("a", 0), ("b", 0), ("c", 1), (" ", 0))]
    equal = [Answer(ask, text, {}) for text in "abcd"]
    cut = [Answer(ask, text, {}, truncated=True) for text in "abcd"]
    rewards = [1.0, 0.0, 9.0, -9.0, *[1.0] * 4, *[1.0, 2.0, 3.0, 4.0]]
    rows, skipped = _pairs([*answers, *equal, *cut], rewards, CollectSettings(answers=4))
    assert [(row["chosen"], row["rejected"]) for row in rows] == [("a", "b")]
    assert skipped == {"equal_rewards": 1, "unfinished_answers": 1}
    assert not _pairs(answers, rewards[:4], CollectSettings(answers=4, least_difference=1.0))[0]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"judge": []}, "set one of the two"),
        ({"arena": "r-{round}.parquet"}, "set one of the two"),
        ({"prompts": None}, "a judge needs prompts"),
        ({"judge": [], "arena": "r.parquet"}, r"write \{round\} where its number belongs"),
        ({"train": {"checkpoint": "x"}}, r"train\.checkpoint is set by the rounds"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, changes, complaint):
    whole = config(tmp_path, tmp_path / "run").model_dump() | changes
    with pytest.raises(UserError, match=complaint):
        parse(RoundsConfig, whole, "rounds.yaml")
