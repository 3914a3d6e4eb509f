import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import log_softmax

from core import checkpoint
from core.config import parse
from core.errors import UserError
from training.batch import collate
from training.chat import ChatEncoder
from training.dpo import DpoConfig, _Pairs, _WithAdapterOff, reference_log_probabilities, standard_error
from training.examples import preference_pairs
from training.feedback import Feedback
from training.precision import resolve
from training.preference import Preference, PreferenceConfig, sequence_log_probabilities, sigmoid_loss
from training.tuning import Tuned
from training.world import World

FP32 = resolve("fp32")


@pytest.mark.parametrize(
    ("beta", "delta", "smoothing", "value"),
    [
        (0.1, 0.0, 0.0, 0.693147),
        (0.1, 10.0, 0.0, 0.313262),
        (0.1, -10.0, 0.0, 1.313262),
        (0.5, 2.0, 0.0, 0.313262),
        (0.1, 10.0, 0.1, 0.413262),
    ],
)
def test_closed_form_values(beta, delta, smoothing, value):
    assert float(sigmoid_loss(torch.tensor([delta]), beta, smoothing)) == pytest.approx(value, abs=1e-6)


def test_slope_at_the_reference_is_half_of_beta():
    margin = torch.zeros(1, requires_grad=True)
    sigmoid_loss(margin, 0.1).sum().backward()
    assert margin.grad.item() == pytest.approx(-0.05)


@pytest.mark.parametrize("delta", [1e4, -1e4])
def test_extreme_margins_stay_finite(delta):
    margin = torch.tensor([delta], requires_grad=True)
    loss = sigmoid_loss(margin, 0.5, 0.1)
    loss.sum().backward()
    assert math.isfinite(loss.item())
    assert math.isfinite(margin.grad.item())


@pytest.fixture
def encoder(tokenizer):
    return ChatEncoder(tokenizer)


@pytest.fixture
def units(preferences, encoder):
    return preference_pairs(str(preferences / "train.parquet"), encoder, 64).units[:6]


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


@pytest.mark.parametrize("normalized", [False, True])
def test_sequence_log_probabilities_equal_a_slow_pass_over_each_alone(model, units, normalized):
    ours = sequence_log_probabilities(model, batch_of(units), FP32, normalized)
    segments = [segment for unit in units for segment in unit]
    slow = [slow_log_probability(model, s).item() / (s.learned if normalized else 1) for s in segments]
    torch.testing.assert_close(ours.detach().double(), torch.tensor(slow, dtype=torch.float64), rtol=1e-5, atol=1e-5)


def test_loss_gradient_and_metrics_equal_a_slow_computation(model, base, units):
    """Equation 7 per pair with logits of transformers, in a loop; the reference is the checkpoint itself."""
    config = PreferenceConfig(beta=0.3, label_smoothing=0.1)
    original = checkpoint.load_model(base)
    with torch.no_grad():
        reference = [[float(slow_log_probability(original, s)) for s in unit] for unit in units]
    batch = replace(batch_of(units), reference=torch.tensor(reference).flatten())
    sums = Preference(config)(model, batch, FP32)
    sums.loss.backward()
    ours = torch.cat([p.grad.flatten() for p in model.parameters()])

    model.zero_grad()
    expected = dict.fromkeys(Preference.metrics, 0.0)
    total = 0.0
    for unit, (chosen_ref, rejected_ref) in zip(units, reference, strict=True):
        chosen, rejected = (slow_log_probability(model, s) for s in unit)
        z = 0.3 * ((chosen - chosen_ref) - (rejected - rejected_ref))
        loss = 0.9 * torch.log1p(torch.exp(-z)) + 0.1 * torch.log1p(torch.exp(z))
        loss.backward()
        total += float(loss.detach())
        expected["margin"] += float(z.detach())
        expected["reward_accuracy"] += float(z > 0)
        expected["preference_accuracy"] += float(chosen > rejected)
        expected["chosen_log_probability"] += float(chosen.detach())
        expected["rejected_log_probability"] += float(rejected.detach())
    theirs = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert sums.weight == len(units)
    assert sums.loss.item() == pytest.approx(total, rel=1e-5)
    assert sums.metrics == pytest.approx(expected, rel=1e-4)
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-5


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
        pairs.reference = reference_log_probabilities(
            original, pairs, range(len(units)), False, World(), path, Feedback(tmp_path, active=False)
        )
    tuned.model.train()
    for _, batch in pairs.batches(range(len(units))):
        with_adapter_off = _WithAdapterOff(config.preference, tuned)
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
    objective = _WithAdapterOff(config.preference, tuned)
    batch = batch_of(units)
    tuned.model.eval()
    with torch.no_grad():
        expected = sequence_log_probabilities(tuned.model, batch, FP32)
        tuned.model.train()
        assert not torch.equal(sequence_log_probabilities(tuned.model, batch, FP32), expected), "no dropout at all"
    assert torch.equal(objective.reference(batch, FP32), expected)
    assert tuned.model.training, "the policy goes on with its dropout"


def test_the_reference_stays_while_the_policy_moves(base, preferences, tmp_path, units):
    config = tune(base, preferences, tmp_path, reference="adapter_off")
    tuned = Tuned(config, World())
    objective = _WithAdapterOff(config.preference, tuned)
    batch = batch_of(units)
    before = objective.reference(batch, FP32)
    with torch.no_grad():
        for name, parameter in tuned.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    assert torch.equal(objective.reference(batch, FP32), before)
    assert not torch.allclose(sequence_log_probabilities(tuned.model, batch, FP32), before, atol=1e-3)


def test_every_pair_gets_its_own_reference(model, units, tmp_path):
    """Packing reorders the pairs; the table is in their order."""
    pairs = _Pairs(units, 0, 1, 70, padding=1)
    asked = [5, 0, 3, 2]
    found = reference_log_probabilities(model, pairs, asked, False, World(), FP32, Feedback(tmp_path, active=False))
    with torch.no_grad():
        slow = [[float(slow_log_probability(model, s)) for s in unit] for unit in units]
    torch.testing.assert_close(found[asked], torch.tensor(slow)[asked], rtol=1e-5, atol=1e-5)
    assert not found[[1, 4]].any(), "pairs that nobody asked for cost nothing"


def test_adapter_off_without_an_adapter_is_refused(base, preferences, tmp_path):
    settings = tune(base, preferences, tmp_path).model_dump() | {"method": "full", "reference": "adapter_off"}
    with pytest.raises(UserError, match="adapter_off needs method: lora"):
        parse(DpoConfig, settings, "dpo.yaml")


def test_standard_error_of_a_share():
    assert standard_error(0.5, 100) == pytest.approx(0.05)
    assert standard_error(1.0, 7) == 0
