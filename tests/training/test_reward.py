"""Reward models: the loss in closed form, scores as `transformers` gives them, and a model that serves as a reward."""

import math

import pytest
import torch
from peft import LoraModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from core import manifest
from core.errors import RaymillError, UserError
from tests.training import fixtures
from training import metrics, reward
from training.batch import collate
from training.precision import Precision
from training.reward_model import BradleyTerry, RewardModel, load, scored_segment, scores
from training.rewards import Answer, RewardConfig, build


def config(output, base, folder, **changes):
    settings = {
        "max_length": 64,
        "epochs": 4,
        "batch_size": 8,
        "micro_batch": 4,
        "workers": 0,
        "precision": "fp32",
        "optimizer": {"learning_rate": 5e-3, "weight_decay": 0.0},
        "logs": [],
    }
    return reward.RewardTrainConfig(
        output=str(output),
        checkpoint=str(base),
        preferences=str(folder / "train.parquet"),
        heldout=str(folder / "heldout.parquet"),
        **settings | changes,
    )


def test_the_loss_is_bradley_and_terry_s():
    pairs = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    expected = torch.tensor([math.log(2), math.log1p(math.exp(-2)), math.log1p(math.exp(2))])
    torch.testing.assert_close(BradleyTerry(0.0).losses(pairs), expected)
    torch.testing.assert_close(BradleyTerry(0.01).losses(pairs), expected + 0.01 * torch.tensor([0.0, 4.0, 4.0]))


def test_packed_scores_are_those_of_transformers(base, tokenizer):
    """At the last token that is no padding, also where that is not the last one."""
    model = load(base, tokenizer.pad_token_id, seed=1)
    texts = ["one", "two and two is", "a much longer text than the others", "x"]
    ids = [torch.tensor(tokenizer(text)["input_ids"]).numpy() for text in texts]
    packed = [[scored_segment(each, tokenizer.pad_token_id) for each in ids[:3]], [scored_segment(ids[3], 1)]]
    found = scores(model, collate(packed, tokenizer.pad_token_id), Precision("fp32", "test"))
    expected = [model(input_ids=torch.from_numpy(each)[None]).logits.item() for each in ids]
    assert found.tolist() == pytest.approx(expected, abs=1e-5)
    stop = torch.tensor([5, 6, 1, 1]).numpy()
    assert scored_segment(stop, padding=1).labels.tolist() == [-100, 0, -100, -100]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_it_learns_to_prefer_loads_in_transformers_and_rewards(base, preferences, tmp_path, method):
    found, _ = reward.STAGE.execute(config(tmp_path / "run", base, preferences, method=method, centre=0.01))
    assert manifest.read(tmp_path / "run") == found
    rows = metrics.read(tmp_path / "run")
    assert sum(row["loss"] for row in rows[-6:]) < sum(row["loss"] for row in rows[:6])
    assert 0 < found.metrics["accuracy_standard_error"] < 0.2
    assert found.metrics["accuracy"] == rows[-1]["validation_accuracy"]
    folder = str(tmp_path / "run" / "reward_model")
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    prompt = [{"role": "user", "content": "first of red blue pink?"}]
    answers = [Answer(prompt, text, {}) for text in ("red", "blue", "a longer answer")]
    chats = [[*prompt, {"role": "assistant", "content": answer.text}] for answer in answers]
    inputs = tokenizer.apply_chat_template(chats, padding=True, return_dict=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).logits[:, 0].tolist()
    assert build(RewardConfig(kind="model", checkpoint=folder))(answers) == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_figures_are_those_of_the_exported_weights_also_after_a_resume(base, preferences, tmp_path):
    """The last steps make it worse; then the run is killed after its last step, before its manifest."""
    changes = {"export": "best", "evaluate_every": 1, "steps": 4, "schedule": {"warmup": 0, "decay": 0}}
    settings = config(tmp_path, base, preferences, optimizer={"learning_rate": 0.3}, **changes)
    found, _ = reward.STAGE.execute(settings)
    rows = {row["step"]: row for row in metrics.read(tmp_path)}
    best = min(rows, key=lambda step: rows[step]["validation_loss"])
    assert found.metrics["exported_step"] == best < 4
    assert found.metrics["validation_loss"] == pytest.approx(rows[best]["validation_loss"], rel=1e-6)
    assert found.metrics["accuracy"] == rows[best]["validation_accuracy"]
    (tmp_path / manifest.NAME).unlink()
    assert reward.STAGE.execute(settings)[0].metrics == found.metrics


@pytest.mark.slow
def test_a_merge_that_loses_the_adapter_is_seen(base, preferences, tmp_path, monkeypatch):
    monkeypatch.setattr(LoraModel, "merge_and_unload", LoraModel.unload)
    with pytest.raises(RaymillError, match="scores of the written model differ by"):
        reward.STAGE.execute(config(tmp_path, base, preferences, steps=4))
    assert manifest.read(tmp_path) is None


def test_weights_that_are_not_finite_are_refused(base, tmp_path):
    spoiled = fixtures.write_spoiled(tmp_path / "spoiled", base)
    with pytest.raises(UserError, match=r"up_proj.weight holds weights that are not finite"):
        load(spoiled, padding=1)
    (spoiled / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match="the checkpoint does not load"):
        load(spoiled, padding=1)


def test_a_language_model_is_no_reward_model(base):
    with pytest.raises(UserError, match="not a reward model but a LlamaForCausalLM"):
        RewardModel(str(base))
