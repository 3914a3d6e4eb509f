"""The clipped objective in closed form, and its sums over packed answers against answers taken one by one."""

import math

import numpy as np
import pytest
import torch

from tests.training import runs
from training import policy_loss
from training.policy import PER_TOKEN, WithValue, answer_segment, policy_batch, policy_terms
from training.policy_loss import PolicyLoss, PolicyLossConfig
from training.precision import Precision

FP32 = Precision("fp32", "test")


def t(*values):
    return torch.tensor(values)


def test_the_clip_takes_the_gradient_where_the_ratio_has_gone_far_enough():
    ratios, advantages = t(1.5, 1.5, 0.5, 0.5, 1.1), t(1.0, -1.0, 1.0, -1.0, 2.0)
    log_p = ratios.log().requires_grad_()
    loss, clipped = policy_loss.clipped_surrogate(log_p, torch.zeros(5), advantages, low=0.2, high=0.3)
    torch.testing.assert_close(loss.detach(), t(-1.3, 1.5, -0.5, 0.8, -2.2))
    assert clipped.tolist() == [True, False, False, True, False]
    loss.sum().backward()
    torch.testing.assert_close(log_p.grad, t(0.0, 1.5, -0.5, 0.0, -2.2))


def test_the_divergence_is_never_negative_and_unbiased():
    torch.testing.assert_close(policy_loss.divergence(t(0.0, 0.0), t(0.0, 1.0)), t(0.0, math.e - 2))
    p, q = t(0.7, 0.2, 0.1), t(0.5, 0.3, 0.2)
    estimate = (p * policy_loss.divergence(p.log(), q.log())).sum()
    torch.testing.assert_close(estimate, (p * (p / q).log()).sum())


@pytest.mark.parametrize(
    ("level", "weights", "cut"),
    [("token", [2.0, 1.0, 2.0], [True, False, False]), ("sequence", [2.0, 2.0, 2.0], [True] * 2 + [False])],
)
def test_the_sampler_s_mismatch_is_corrected_per_token_or_per_answer(level, weights, cut):
    trainer, sampler = t(3.0, 1.0, 2.0).log(), t(1.0, 1.0, 1.0).log()
    found, was_cut = policy_loss.importance_weights(trainer, sampler, torch.tensor([0, 0, 1]), level, 2.0)
    torch.testing.assert_close(found, torch.tensor(weights))
    assert was_cut.tolist() == cut


def test_the_value_loss_is_clipped_around_the_old_value():
    loss = policy_loss.clipped_value_loss(t(1.0, 0.1), t(0.0, 0.0), t(1.0, 1.0), clip=0.2)
    torch.testing.assert_close(loss, 0.5 * t(0.8**2, 0.9**2))


# --- on a model ---------------------------------------------------------------------------------------------------


def episodes(count=5, seed=0):
    """(prompt, answer, a value per token for each field) of unequal lengths."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        prompt, answer = rng.integers(0, 500, rng.integers(2, 6)), rng.integers(0, 500, rng.integers(1, 7))
        facts = {name: rng.normal(-6, 0.3, len(answer)) for name in PER_TOKEN}
        facts["advantages"] = np.full(len(answer), rng.normal())
        found.append((prompt.tolist(), answer.tolist(), facts))
    return found


def batch_of(rows):
    segments = [[answer_segment(prompt, answer) for prompt, answer, _ in row] for row in rows]
    return policy_batch(segments, {n: [facts[n] for row in rows for *_, facts in row] for n in PER_TOKEN}, padding=0)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_terms_are_those_of_the_plain_logits(temperature):
    model = runs.model()
    answers = episodes()
    batch = batch_of([answers[:3], answers[3:]])
    terms = policy_terms(model, batch, FP32, temperature)
    where = (batch.labels >= 0).flatten()
    expected_p, expected_h = [], []
    for prompt, answer, _ in answers:
        logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1] / temperature
        log_p = logits.log_softmax(1)
        expected_p.append(log_p[torch.arange(len(answer)), answer])
        expected_h.append(torch.distributions.Categorical(logits=logits).entropy())
    torch.testing.assert_close(terms.log_p_N[where], torch.cat(expected_p), rtol=0, atol=2e-5)
    torch.testing.assert_close(terms.entropy_N[where], torch.cat(expected_h), rtol=0, atol=2e-5)
    assert not terms.log_p_N[~where].any()


@pytest.mark.parametrize("normalize", ["token", "sequence", "constant"])
@pytest.mark.parametrize("importance", ["token", "sequence", "none"])
def test_sums_do_not_depend_on_how_answers_are_packed(normalize, importance):
    """And are those of the paper: over tokens, over means of answers, or over a constant length."""
    model = runs.model()
    config = PolicyLossConfig(normalize=normalize, importance=importance, kl=0.1)
    objective = PolicyLoss(config, 1.0, longest=10)
    answers = episodes()
    whole = objective(model, batch_of([answers[:2], answers[2:]]), FP32)
    parts = [objective(model, batch_of([[answer]]), FP32) for answer in answers]
    assert whole.weight == sum(part.weight for part in parts)
    torch.testing.assert_close(whole.loss, sum(part.loss for part in parts))
    for name in objective.metrics:
        assert whole.metrics[name] == pytest.approx(sum(part.metrics[name] for part in parts), rel=1e-4, abs=1e-6)
    lengths = [len(answer) for _, answer, _ in answers]
    assert whole.weight == (sum(lengths) if normalize == "token" else len(answers))
    one, length = parts[0].loss, lengths[0]
    as_tokens = PolicyLoss(config.model_copy(update={"normalize": "token"}), 1.0, 10)(
        model, batch_of([[answers[0]]]), FP32
    )
    divisor = {"token": 1, "sequence": length, "constant": 10}[normalize]
    torch.testing.assert_close(one, as_tokens.loss / divisor)


def test_on_the_sampled_policy_the_gradient_is_the_plain_policy_gradient():
    """Without old log-probabilities the ratio is one, and the gradient that of -A log p."""
    answers = episodes()
    batch = batch_of([answers])
    fresh = {name: None if name in {"old_log_p", "reference_log_p"} else getattr(batch, name) for name in PER_TOKEN}
    batch = type(batch)(**{**batch.__dict__, **fresh})
    config, gradients = PolicyLossConfig(importance="none"), []
    for _ in range(2):
        model = runs.model()
        if not gradients:
            PolicyLoss(config, 1.0, 10)(model, batch, FP32).loss.backward()
        else:
            (-policy_terms(model, batch, FP32).log_p_N * batch.advantages.flatten()).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_a_value_head_starts_at_zero_and_learns():
    model = WithValue(runs.model())
    batch = batch_of([episodes()])
    terms = policy_terms(model, batch, FP32)
    assert not terms.value_N.any()
    terms.value_N.sum().backward()
    assert model.value_head.weight.grad.abs().sum() > 0
