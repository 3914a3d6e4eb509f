"""Our policy loss against TRL's, called on the same tensors: three ways to normalise, clipping, divergence, weights."""

from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from trl import GRPOTrainer

from tests.training import runs
from training.linear_cross_entropy import IGNORED
from training.policy import answer_segment, policy_batch, policy_terms
from training.policy_loss import PolicyLoss, PolicyLossConfig
from training.precision import Precision

FP32 = Precision("fp32", "test")
LONGEST = 9


def answers(seed=0, count=6):
    rng = np.random.default_rng(seed)
    return [(rng.integers(0, 500, 4), rng.integers(0, 500, rng.integers(2, LONGEST + 1))) for _ in range(count)]


def padded(values, fill=0.0):
    return torch.stack([torch.cat([v, v.new_full((LONGEST - len(v),), fill)]) for v in values])


@pytest.mark.parametrize(("normalize", "loss_type"), [("token", "dapo"), ("sequence", "grpo"), ("constant", "dr_grpo")])
@pytest.mark.parametrize("kl", [0.0, 0.3])
def test_loss_is_that_of_trl(normalize, loss_type, kl):
    model, said = runs.model(), answers()
    lengths = [len(answer) for _, answer in said]
    segments = [[answer_segment(prompt, answer)] for prompt, answer in said]
    batch = policy_batch(segments, {}, padding=0)
    with torch.no_grad():
        terms = policy_terms(model, batch, FP32)
    log_p = terms.log_p_N[(batch.labels != IGNORED).flatten()].split(lengths)
    generator = torch.Generator().manual_seed(0)
    old, sampler, reference = (
        [p + spread * torch.randn(len(p), generator=generator) for p in log_p] for spread in (0.3, 0.3, 0.5)
    )
    advantages = torch.randn(len(said), generator=generator)
    facts = {"old_log_p": old, "sampler_log_p": sampler, "reference_log_p": reference}
    facts["advantages"] = [a.expand(n) for a, n in zip(advantages, lengths, strict=True)]
    batch = policy_batch(segments, {name: [v.numpy() for v in values] for name, values in facts.items()}, padding=0)
    config = PolicyLossConfig(normalize=normalize, kl=kl, importance="token", importance_cap=1.3)
    ours = PolicyLoss(config, 1.0, LONGEST)(model, batch, FP32)

    mask = padded([torch.ones(n) for n in lengths])
    trainer = SimpleNamespace(
        beta=kl,
        epsilon_low=config.clip_low,
        epsilon_high=config.clip_high,
        loss_type=loss_type,
        max_completion_length=LONGEST,
        importance_sampling_level="token",
        use_vllm=True,
        vllm_importance_sampling_correction=True,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        aux_loss_enabled=False,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x),
        _get_per_token_logps_and_entropies=lambda *_, **__: (padded(log_p), padded(log_p), None),
        _metrics={"train": defaultdict(list)},
    )
    inputs = {
        "prompt_ids": torch.zeros(len(said), 4, dtype=torch.long),
        "prompt_mask": torch.ones(len(said), 4),
        "completion_ids": padded([torch.zeros(n) for n in lengths]).long(),
        "completion_mask": mask,
        "advantages": advantages,
        "old_per_token_logps": padded(old),
        "ref_per_token_logps": padded(reference),
        "importance_sampling_ratio": (padded(old) - padded(sampler)).exp().clamp(max=config.importance_cap),
        "num_items_in_batch": mask.sum(),
    }
    theirs = GRPOTrainer._compute_loss(trainer, model, inputs)
    assert abs(float(theirs)) > 1e-3
    torch.testing.assert_close(ours.loss.detach() / ours.weight, theirs, rtol=1e-5, atol=1e-6)
