"""GRPO from end to end on a tiny model: the reward rises, a run that was cut goes on with the very same answers."""

import json

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from core import manifest
from core.errors import RaymillError, UserError
from tests.training import fixtures
from training import grpo, metrics
from training.trainer import Trainer

TIMES = {"step_seconds", "data_seconds", "tokens_per_second", "memory_gib"}
TIMES |= {"sample_seconds", "reward_seconds", "sync_seconds", "validation_seconds"}


def vowels(text, row):
    """Share of vowels among the characters: easy to learn, never given twice alike."""
    return sum(character in "aeiou" for character in text) / max(1, len(text))


@pytest.fixture
def prompts(tmp_path):
    rows = [{"prompt": f"say {word}"} for word in ("red", "blue", "green", "black", "white", "gray", "pink", "gold")]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / "prompts.jsonl")


ENOUGH = {"steps": 14, "group": 8, "batch_size": 64, "micro_batch": 32, "evaluate_every": 5, "loss": {"kl": 0.001}}


def config(output, base, prompts, **changes):
    settings = {
        "rewards": [{"kind": "function", "function": f"{__name__}:vowels", "name": "vowels"}],
        "method": "full",
        "group": 4,
        "batch_size": 16,
        "micro_batch": 4,
        "max_length": 48,
        "steps": 8,
        "rollout": {"max_new_tokens": 6},
        "optimizer": {"learning_rate": 1e-2, "weight_decay": 0.0},
        "schedule": {"warmup": 0, "decay": 0},
        "checkpoint_every": 1,
        "workers": 0,
        "precision": "fp32",
        "logs": [],
    }
    return grpo.GrpoConfig(output=str(output), checkpoint=str(base), prompts=prompts, **settings | changes)


def untimed(directory):
    return [{k: v for k, v in row.items() if k not in TIMES} for row in metrics.read(directory)]


@pytest.mark.slow
def test_the_reward_rises_and_everything_is_logged(base, prompts, tmp_path):
    settings = config(tmp_path / "run", base, prompts, heldout=prompts, **ENOUGH)
    found, _ = grpo.STAGE.execute(settings)
    assert manifest.read(tmp_path / "run") == found
    assert found.metrics["reward_last"] > found.metrics["reward_first"] + 0.1
    assert found.metrics["heldout_reward_after"] > found.metrics["heldout_reward_before"]
    rows = metrics.read(tmp_path / "run")
    assert [row["step"] for row in rows if "heldout_reward" in row] == [5, 10]
    for row in rows:
        assert row["reward"] == pytest.approx(row["reward/vowels"])
        assert {"reward_std", "kl", "clip_share", "entropy", "answer_tokens", "truncated_share"} <= set(row)
        assert row["sampler_gap"] < 1e-5
        assert row["importance_cut"] == 0
        assert row["zero_variance_share"] == row["zero_variance_groups"] / 8
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert rows[-1]["kl"] > 1e-3
    report = (tmp_path / "run" / "report.html").read_text()
    assert all(words in report for words in ("Reward", "Entropy", "Answers of the last rollout"))
    assert not (tmp_path / "run" / ".rollouts").exists()


@pytest.mark.slow
def test_a_run_cut_within_a_rollout_goes_on_to_the_last_bit(base, prompts, tmp_path, monkeypatch):
    changes = {"steps_per_rollout": 2, "rollout_epochs": 2, "batch_size": 8}
    grpo.STAGE.execute(config(tmp_path / "whole", base, prompts, **changes))

    def cut(self, row):
        if row["step"] == 6:
            raise RaymillError("cut")

    monkeypatch.setattr(Trainer, "_show", cut)
    with pytest.raises(RaymillError, match="cut"):
        grpo.STAGE.execute(config(tmp_path / "cut", base, prompts, **changes))
    monkeypatch.undo()
    grpo.STAGE.execute(config(tmp_path / "cut", base, prompts, **changes))
    assert untimed(tmp_path / "cut") == untimed(tmp_path / "whole")
    ours, theirs = (load_file(tmp_path / name / "checkpoint" / "model.safetensors") for name in ("cut", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert any(row["clip_share"] > 0 for row in untimed(tmp_path / "whole")), "the rollout was not used twice"


@pytest.mark.slow
def test_two_workers_give_the_same_answers_as_one(base, prompts, tmp_path):
    rows = []
    for name, changes in (("one", {}), ("two", {"workers": 2, "launcher": "torchrun", "threads": 1})):
        grpo.STAGE.execute(config(tmp_path / name, base, prompts, steps=3, **changes))
        rows.append(untimed(tmp_path / name))
    for one, two in zip(*rows, strict=True):
        assert two["reward"] == pytest.approx(one["reward"], abs=1e-9)
        assert two["loss"] == pytest.approx(one["loss"], abs=1e-5)
        assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)


@pytest.mark.faults
def test_workers_of_ray_train_learn_from_answers_of_vllm(ray_session, prompts, tmp_path):
    base = fixtures.write_checkpoint(
        tmp_path / "base", fixtures.TINY.model_copy(update={"hidden_size": 64, "heads": 2})
    )
    rollout = {"engine": "vllm", "max_new_tokens": 6, "kv_cache_gib": 0.05, "threads": 1}
    ray_train = {"workers": 2, "launcher": "ray", "threads": 1, "rollout": rollout}
    found, _ = grpo.STAGE.execute(config(tmp_path / "run", base, prompts, **ENOUGH | ray_train))
    for row in metrics.read(tmp_path / "run"):
        assert row["sampler_gap"] < 1e-3, "the engine did not sample from the policy as it was"
        assert row["sync_seconds"] > 0
    assert found.metrics["reward_last"] > found.metrics["reward_first"] + 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group": 3}, "no multiple of the 3 answers"),
        ({"max_length": 6}, "leaves no room for a prompt"),
        ({"loss": {"clip_low": 0.3, "clip_high": 0.2}}, "below clip_low"),
        ({"rewards": []}, "at least 1 item"),
        ({"export": "best"}, "export: best goes by held-out loss"),
    ],
)
def test_settings_that_do_not_fit_are_refused(base, prompts, tmp_path, changes, message):
    with pytest.raises(ValidationError, match=message):
        config(tmp_path / "run", base, prompts, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": [{"kind": "function", "function": f"{__name__}:absent"}]}, "has no function absent"),
        ({"rewards": [{"kind": "exact_answer"}]}, r"prompts.jsonl: rewards: .* reads the column answer"),
        ({"max_length": 8, "rollout": {"max_new_tokens": 4}}, "no prompt is usable .8 too long."),
        ({"max_length": 1000}, "longer than the model's context of 128"),
        ({"parallel": "fsdp"}, "set ddp"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_artifact(base, prompts, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        grpo.STAGE.execute(config(tmp_path / "run", base, prompts, **changes))
    assert manifest.read(tmp_path / "run") is None
