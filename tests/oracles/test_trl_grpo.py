"""Our policy loss and its gradient against TRL's: three ways to normalise, clipping, divergence, weights.

TRL is given log-probabilities from plain logits of `transformers`.
"""

from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from trl import GRPOTrainer

from tests.training import runs
from training.policy import answer_segment, policy_batch
from training.policy_loss import PolicyLoss, PolicyLossConfig
from training.precision import Precision

FP32 = Precision("fp32", "test")
LONGEST = 9


def answers(seed=0, count=6):
    rng = np.random.default_rng(seed)
    return [(rng.integers(0, 500, 4), rng.integers(0, 500, rng.integers(2, LONGEST + 1))) for _ in range(count)]


def padded(values, fill=0.0):
    return torch.stack([torch.cat([v, v.new_full((LONGEST - len(v),), fill)]) for v in values])


def plain_log_p(model, prompt, answer):
    """Of the answer's tokens, from the logits of transformers."""
    ids = torch.from_numpy(np.concatenate([prompt, answer]))
    log_p_NV = model(input_ids=ids[None], use_cache=False).logits[0].log_softmax(-1)
    return log_p_NV[len(prompt) - 1 : -1].gather(1, ids[len(prompt) :, None])[:, 0]


def gradient(loss, model):
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])


@pytest.mark.parametrize(("normalize", "loss_type"), [("token", "dapo"), ("sequence", "grpo"), ("constant", "dr_grpo")])
@pytest.mark.parametrize("kl", [0.0, 0.3])
def test_loss_and_its_gradient_are_those_of_trl(normalize, loss_type, kl):
    model, said = runs.model(), answers()
    lengths = [len(answer) for _, answer in said]
    segments = [[answer_segment(prompt, answer)] for prompt, answer in said]
    log_p = [plain_log_p(model, *each) for each in said]
    generator = torch.Generator().manual_seed(0)
    old, sampler, reference = (
        [p.detach() + spread * torch.randn(len(p), generator=generator) for p in log_p] for spread in (0.3, 0.3, 0.5)
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
    assert abs(theirs.item()) > 1e-3
    torch.testing.assert_close(ours.loss / ours.weight, theirs, rtol=1e-5, atol=1e-6)
    ours_P, theirs_P = gradient(ours.loss / ours.weight, model), gradient(theirs, model)
    assert float((ours_P - theirs_P).norm() / theirs_P.norm()) < 1e-5
