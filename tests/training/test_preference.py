import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import log_softmax

from core import checkpoint
from core.config import parse
from core.errors import UserError
from training.batch import collate
from training.chat import ChatEncoder
from training.dpo import DpoConfig, _Pairs, _read, _WithAdapterOff
from training.examples import PackedExamples, preference_pairs
from training.examples import conversations as read_conversations
from training.feedback import Feedback
from training.precision import resolve
from training.preference import (
    Preference,
    PreferenceConfig,
    answer_log_probabilities,
    hinge_loss,
    ipo_loss,
    robust_loss,
    sigmoid_loss,
)
from training.reference import log_probabilities, reference
from training.replay import ReplayConfig, beside
from training.tuning import Tuned
from training.world import World

FP32 = resolve("fp32")


@pytest.mark.parametrize(
    ("loss", "beta", "delta", "smoothing", "value"),
    [
        (sigmoid_loss, 0.1, 0.0, 0.0, 0.693147),
        (sigmoid_loss, 0.1, 10.0, 0.0, 0.313262),
        (sigmoid_loss, 0.1, -10.0, 0.0, 1.313262),
        (sigmoid_loss, 0.5, 2.0, 0.0, 0.313262),
        (sigmoid_loss, 0.1, 10.0, 0.1, 0.413262),
        (robust_loss, 0.1, 10.0, 0.1, 0.188262),
        (robust_loss, 0.1, 10.0, 0.0, 0.313262),
        (ipo_loss, 0.1, 0.0, 0.0, 25.0),
        (ipo_loss, 0.5, 2.0, 0.0, 1.0),
        (hinge_loss, 0.1, 0.0, 0.0, 1.0),
        (hinge_loss, 0.1, 4.0, 0.0, 0.6),
        (hinge_loss, 0.1, -10.0, 0.0, 2.0),
        (hinge_loss, 0.1, 11.0, 0.0, 0.0),
    ],
)
def test_closed_form_values(loss, beta, delta, smoothing, value):
    assert float(loss(torch.tensor([delta]), beta, smoothing)) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(
    ("loss", "slope"), [(sigmoid_loss, -0.05), (robust_loss, -0.05), (hinge_loss, -0.1), (ipo_loss, -10.0)]
)
def test_slope_at_the_reference(loss, slope):
    """-beta / 2, -beta for the hinge, and -1 / tau for IPO."""
    margin = torch.zeros(1, requires_grad=True)
    loss(margin, 0.1).sum().backward()
    assert margin.grad.item() == pytest.approx(slope)


@settings(deadline=None)
@given(st.floats(-200, 200), st.floats(0, 0.45))
def test_robust_loss_on_flipped_labels_is_the_plain_loss_on_true_ones(delta, epsilon):
    """Unbiased: a share epsilon of pairs comes the wrong way round (Chowdhury et al. 2024, lemma 3.1)."""
    margin = torch.tensor([delta], dtype=torch.float64)
    seen = (1 - epsilon) * robust_loss(margin, 0.3, epsilon) + epsilon * robust_loss(-margin, 0.3, epsilon)
    torch.testing.assert_close(seen, sigmoid_loss(margin, 0.3), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("loss", [sigmoid_loss, robust_loss, hinge_loss, ipo_loss])
@pytest.mark.parametrize("delta", [1e4, -1e4])
def test_extreme_margins_stay_finite(loss, delta):
    margin = torch.tensor([delta], requires_grad=True)
    found = loss(margin, 0.5, 0.1)
    found.sum().backward()
    assert math.isfinite(found.item())
    assert math.isfinite(margin.grad.item())


@pytest.mark.parametrize("loss", ["hinge", "ipo"])
def test_smoothing_where_there_is_none_is_refused(loss):
    with pytest.raises(UserError, match="goes with loss sigmoid or robust"):
        parse(PreferenceConfig, {"loss": loss, "label_smoothing": 0.1}, "dpo.yaml")


@pytest.fixture
def encoder(tokenizer):
    return ChatEncoder(tokenizer)


@pytest.fixture
def units(preferences, encoder):
    return preference_pairs(str(preferences / "train.parquet"), encoder, 64).units[:6]


@pytest.fixture
def dialogues(conversations, encoder):
    return read_conversations(str(conversations / "train.parquet"), encoder, 64, "skip").units[:8]


@pytest.fixture
def model(base):
    """Weights far from those of the reference: random ones, scaled up."""
    found = checkpoint.load_model(base)
    with torch.no_grad():
        for parameter in found.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
    return found


def slow_log_probability(model, segment):
    """One sequence alone, no mask, no packing, the plain logits of transformers."""
    logits = model(input_ids=torch.tensor(segment.tokens)[None], use_cache=False).logits[0].double()
    return sum(
        log_softmax(logits[place], -1)[label] for place, label in enumerate(segment.labels.tolist()) if label >= 0
    )


def batch_of(units):
    return collate([[s for unit in units[:4] for s in unit], [s for unit in units[4:] for s in unit]], padding=1)


def test_log_probabilities_of_answers_equal_a_slow_pass_over_each_alone(model, units):
    ours, tokens = answer_log_probabilities(model, batch_of(units), FP32)
    segments = [segment for unit in units for segment in unit]
    slow = torch.tensor([slow_log_probability(model, s).item() for s in segments], dtype=torch.float64)
    torch.testing.assert_close(ours.detach().double(), slow, rtol=1e-5, atol=1e-5)
    assert tokens.tolist() == [segment.learned for segment in segments]


REPLAYS = {"pairs alone": None, "two conversations beside each": ReplayConfig(conversations="", per_pair=2, weight=0.7)}


@pytest.mark.parametrize("replay", REPLAYS.values(), ids=REPLAYS)
@pytest.mark.parametrize(
    "changes", [{}, {"label_smoothing": 0.1}, {"length_normalized": True}, {"sft_weight": 0.4}], ids=str
)
def test_loss_gradient_and_metrics_equal_a_slow_computation(model, base, units, dialogues, changes, replay):
    """The equation per pair with logits of transformers, in a loop; the reference is the checkpoint itself."""
    config = PreferenceConfig(beta=0.3, **changes)
    original = checkpoint.load_model(base)
    with torch.no_grad():
        reference = [[float(slow_log_probability(original, s)) for s in unit] for unit in units]
    if replay is not None:
        units = beside(units, dialogues, replay.per_pair, seed=0)
    batch = replace(batch_of(units), reference=torch.tensor(reference))
    objective = Preference(config, replay)
    sums = objective(model, batch, FP32)
    sums.loss.backward()
    ours = torch.cat([p.grad.flatten() for p in model.parameters()])

    model.zero_grad()
    expected = dict.fromkeys(objective.metrics, 0.0)
    total = 0.0
    for (first, second, *more), (chosen_before, rejected_before) in zip(units, reference, strict=True):
        chosen, rejected = slow_log_probability(model, first), slow_log_probability(model, second)
        sft_loss = -chosen / first.learned
        lengths = (first.learned, second.learned) if config.length_normalized else (1, 1)
        chosen, rejected = chosen / lengths[0], rejected / lengths[1]
        z = 0.3 * ((chosen - chosen_before / lengths[0]) - (rejected - rejected_before / lengths[1]))
        share = config.label_smoothing
        loss = (1 - share) * torch.log1p(torch.exp(-z)) + share * torch.log1p(torch.exp(z))
        loss = loss + config.sft_weight * sft_loss
        if more:
            again = sum(-slow_log_probability(model, segment) / segment.learned for segment in more) / 2
            loss = loss + 0.7 * again
            expected["replay_loss"] += float(again.detach())
        loss.backward()
        total += float(loss.detach())
        expected["margin"] += float(z.detach())
        expected["reward_accuracy"] += float(z > 0)
        expected["preference_accuracy"] += float(chosen > rejected)
        expected["chosen_log_probability"] += float(chosen.detach())
        expected["rejected_log_probability"] += float(rejected.detach())
        expected["sft_loss"] += float(sft_loss.detach())
    theirs = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert sums.weight == len(units)
    assert sums.loss.item() == pytest.approx(total, rel=1e-5)
    assert sums.metrics == pytest.approx(expected, rel=1e-4)
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-5


def test_terms_of_the_loss_in_closed_form():
    """ln 2 at the reference, and 0.5 times 6 nats over 4 tokens."""
    log_p, tokens = torch.tensor([[-6.0, -9.0]]), torch.tensor([[4.0, 3.0]])
    found = Preference(PreferenceConfig(beta=0.1, sft_weight=0.5)).scores(log_p, tokens, log_p)
    assert found["loss"].tolist() == pytest.approx([math.log(2) + 0.5 * 6 / 4])
    assert found["sft_loss"].tolist() == [1.5]
    reference = torch.tensor([[-10.0, -3.0]])  # means: (-1.5 + 2.5) - (-3 + 1) = 3
    for loss, value in (("ipo", 2.25), ("hinge", 0.0)):
        config = PreferenceConfig(loss=loss, beta=1 / 3, length_normalized=True)
        assert Preference(config).scores(log_p, tokens, reference)["loss"].tolist() == pytest.approx([value], abs=1e-6)
    found = Preference(PreferenceConfig(beta=1 / 3, length_normalized=True)).scores(log_p, tokens, reference)
    assert found["loss"].tolist() == pytest.approx([0.313262], abs=1e-6)
    assert found["margin"].tolist() == pytest.approx([1.0])


@pytest.mark.parametrize("per_pair", [1, 3])
def test_every_conversation_is_replayed_before_one_returns(units, dialogues, per_pair):
    """With the pairs in front, as they were."""
    found = beside(units, dialogues, per_pair, seed=3)
    assert [unit[:2] for unit in found] == [list(unit) for unit in units]
    replayed = [[next(i for i, d in enumerate(dialogues) if d[0] is s) for s in unit[2:]] for unit in found]
    assert {len(part) for part in replayed} == {per_pair}
    flat = [number for part in replayed for number in part]
    for begin in range(0, len(flat), len(dialogues)):
        epoch = flat[begin : begin + len(dialogues)]
        assert len(set(epoch)) == len(epoch)
    assert flat[: len(dialogues)] != sorted(flat[: len(dialogues)]), "in the order of the table"
    again = beside(units, dialogues, per_pair, seed=3)
    assert all(a is b for x, y in zip(found, again, strict=True) for a, b in zip(x, y, strict=True))


def tune(base, preferences, tmp_path, **changes):
    return DpoConfig(
        output=str(tmp_path / "run"),
        checkpoint=str(base),
        preferences=str(preferences / "train.parquet"),
        heldout=str(preferences / "heldout.parquet"),
        max_length=64,
        precision="fp32",
        workers=0,
        **changes,
    )


@pytest.fixture
def dropping(base, tmp_path):
    """The same checkpoint, declared with dropout on its attention weights."""
    model = checkpoint.load_model(base)
    model.config.attention_dropout = 0.4
    model.save_pretrained(tmp_path / "dropping")
    checkpoint.load_tokenizer(base).save_pretrained(tmp_path / "dropping")
    return tmp_path / "dropping"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_begins_at_ln_2_and_both_references_agree(base, preferences, tmp_path, units, precision):
    """B = 0 in a fresh adapter: the policy is the reference, to the last bit, whichever way it is computed."""
    config = tune(base, preferences, tmp_path)
    path = resolve(precision, "emulated")
    tuned = Tuned(config, World())
    pairs = _Pairs(units, 0, 2, 128, padding=1)
    with tuned.before_tuning() as original:
        pairs.reference = log_probabilities(original, pairs, range(len(units)), World(), path)
    tuned.model.train()
    for _, batch in pairs.batches(range(len(units))):
        with_adapter_off = _WithAdapterOff(config, tuned)
        torch.testing.assert_close(with_adapter_off.reference(batch, path), batch.reference, rtol=0, atol=0)
        for objective in (Preference(config.preference), with_adapter_off):
            sums = objective(tuned.model, batch, path)
            assert sums.loss.item() / sums.weight == pytest.approx(math.log(2), rel=1e-6)
            assert sums.metrics["margin"] == 0
            assert sums.metrics["reward_accuracy"] == 0
            assert all(p.requires_grad == ("lora_" in name) for name, p in tuned.model.named_parameters())
        sums.loss.backward()


def test_the_reference_has_no_dropout(dropping, preferences, tmp_path, units):
    config = tune(dropping, preferences, tmp_path, reference="adapter_off")
    tuned = Tuned(config, World())
    objective = _WithAdapterOff(config, tuned)
    batch = batch_of(units)
    tuned.model.eval()
    with torch.no_grad():
        expected, _ = answer_log_probabilities(tuned.model, batch, FP32)
        tuned.model.train()
        assert not torch.equal(answer_log_probabilities(tuned.model, batch, FP32)[0], expected), "no dropout at all"
    assert torch.equal(objective.reference(batch, FP32).flatten(), expected)
    pairs = PackedExamples(units, 0, 2, 128, padding=1)
    once = [log_probabilities(tuned.model, pairs, range(len(units)), World(), FP32) for _ in range(2)]
    assert torch.equal(*once)
    assert tuned.model.training, "the policy goes on with its dropout"


def test_the_reference_stays_while_the_policy_moves(base, preferences, tmp_path, units):
    config = tune(base, preferences, tmp_path, reference="adapter_off")
    tuned = Tuned(config, World())
    objective = _WithAdapterOff(config, tuned)
    batch = batch_of(units)
    before = objective.reference(batch, FP32)
    with torch.no_grad():
        for name, parameter in tuned.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    assert torch.equal(objective.reference(batch, FP32), before)
    moved, _ = answer_log_probabilities(tuned.model, batch, FP32)
    assert not torch.allclose(moved, before.flatten(), atol=1e-3)


def test_every_pair_gets_its_own_reference(model, units, dialogues):
    """Packing reorders the pairs; the table is in their order, and what is replayed beside them is no part of it."""
    asked = [5, 0, 3, 2]
    plain = PackedExamples(units, 0, 1, 70, padding=1)
    found = log_probabilities(model, plain, asked, World(), FP32)
    with torch.no_grad():
        slow = torch.tensor([[float(slow_log_probability(model, s)) for s in unit] for unit in units])
    torch.testing.assert_close(found[asked], slow[asked], rtol=1e-5, atol=1e-5)
    assert not found[[1, 4]].any(), "pairs that nobody asked for cost nothing"
    pairs = _Pairs(beside(units, dialogues, 2, seed=0), 0, 2, 140, padding=1)
    pairs.reference = slow
    seen = []
    for numbers, batch in pairs.batches(range(len(units))):
        ours = answer_log_probabilities(model, batch, FP32)[0].view(-1, 4)[:, :2]
        torch.testing.assert_close(ours, batch.reference, rtol=1e-5, atol=1e-5)
        seen += numbers
    assert sorted(seen) == list(range(len(units)))


def test_the_progress_of_the_reference_never_passes_its_total(base, preferences, tmp_path):
    """Training pairs and held-out pairs are one table: "1,840 of 566 pairs" was said once."""
    config = tune(base, preferences, tmp_path, steps=1, batch_size=8, micro_batch=1)
    said = []
    tuned = Tuned(config, World())
    train, held_out = _read(config, tuned).values()
    feedback = Feedback(tmp_path, active=True)
    feedback._write = said.append
    trainer = SimpleNamespace(steps=1, precision=FP32, feedback=feedback)
    found, of_held_out = reference(tuned, train, held_out, trainer, World())
    assert [line["done"] for line in said] == sorted(line["done"] for line in said)
    assert {line["total"] for line in said} == {8 + len(held_out.units)}
    assert said[-1]["done"] == said[-1]["total"]
    assert int((found.abs().sum(1) > 0).sum()) == 8
    assert of_held_out.shape == (len(held_out.units), 2)
    assert of_held_out.all()


def test_adapter_off_without_an_adapter_is_refused(base, preferences, tmp_path):
    settings = tune(base, preferences, tmp_path).model_dump() | {"method": "full", "reference": "adapter_off"}
    with pytest.raises(UserError, match="adapter_off needs method: lora"):
        parse(DpoConfig, settings, "dpo.yaml")
