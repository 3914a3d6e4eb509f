import pytest
import torch
from torch import nn
from transformers import LlamaForSequenceClassification

from tests.training.fixtures import TINY
from training import lora
from training.model import initialize
from training.optimizer import FlatGradient, OptimizerConfig, build, parameter_groups
from training.policy import WithValue


def model(tied=True):
    shape = TINY.model_copy(update={"tie_embeddings": tied})
    return initialize(shape.to_transformers(256), 0)


def names_of(model, group):
    chosen = {id(parameter) for parameter in group["params"]}
    return {name for name, parameter in model.named_parameters() if id(parameter) in chosen}


@pytest.mark.parametrize("tied", [True, False])
def test_matrices_decay_and_norms_and_embeddings_do_not(tied):
    made = model(tied)
    decayed, plain = parameter_groups(made, 0.1)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    expected = {name for name, p in made.named_parameters() if "proj" in name or (not tied and "lm_head" in name)}
    assert names_of(made, decayed) == expected
    assert names_of(made, decayed) | names_of(made, plain) == {name for name, _ in made.named_parameters()}
    assert not names_of(made, decayed) & names_of(made, plain)
    assert "model.embed_tokens.weight" in names_of(made, plain)


def test_an_adapter_has_one_group_and_the_frozen_base_none():
    wrapped = lora.attach(model(), lora.LoraSettings(rank=2), seed=0)
    (group,) = parameter_groups(wrapped, 0.1)
    assert names_of(wrapped, group) == {name for name, _ in wrapped.named_parameters() if "lora_" in name}


def test_settings_reach_the_optimizer():
    config = OptimizerConfig(learning_rate=3e-4, betas=(0.8, 0.9), epsilon=1e-6, weight_decay=0.05)
    for group in build(model(), config).param_groups:
        assert (group["lr"], group["betas"], group["eps"]) == (3e-4, (0.8, 0.9), 1e-6)


def test_updates_equal_the_equations_of_adamw():
    """m, v, bias correction and decoupled decay as in Loshchilov and Hutter, in FP64, over several steps."""
    config = OptimizerConfig(learning_rate=1e-2, betas=(0.9, 0.95), weight_decay=0.1)
    torch.manual_seed(0)
    layer = nn.Linear(6, 5)
    optimizer = build(layer, config)
    expected = {name: p.detach().double().clone() for name, p in layer.named_parameters()}
    moments = {name: [torch.zeros_like(w), torch.zeros_like(w)] for name, w in expected.items()}
    for step in range(1, 8):
        for name, parameter in layer.named_parameters():
            gradient = torch.randn(parameter.shape)
            parameter.grad = gradient
            g, (m, v) = gradient.double(), moments[name]
            m.mul_(0.9).add_(g, alpha=0.1)
            v.mul_(0.95).add_(g * g, alpha=0.05)
            decay = 0.1 if name == "weight" else 0.0
            expected[name] *= 1 - 1e-2 * decay
            expected[name] -= 1e-2 * (m / (1 - 0.9**step)) / ((v / (1 - 0.95**step)).sqrt() + 1e-8)
        optimizer.step()
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(parameter.detach().double(), expected[name], rtol=1e-5, atol=1e-7)


def test_updates_equal_those_of_torch_without_fusion_or_groups():
    config = OptimizerConfig(weight_decay=0.0)
    ours, theirs = model(), model()
    optimizer = build(ours, config)
    reference = torch.optim.AdamW(theirs.parameters(), lr=1e-3, betas=config.betas, weight_decay=0.0, foreach=False)
    for step in range(3):
        tokens = torch.randint(0, 256, (2, 16), generator=torch.Generator().manual_seed(step))
        for each, its in ((ours, optimizer), (theirs, reference)):
            each.zero_grad()
            each(input_ids=tokens, labels=tokens).loss.backward()
            its.step()
    for left, right in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)


def test_flat_gradient_is_the_gradient_of_every_parameter():
    """Autograd accumulates into the views; a replaced `.grad` would leave zeros to be exchanged and applied."""
    made, plain = model(), model()
    flat = FlatGradient(made.parameters())
    for seed in (0, 1):
        tokens = torch.randint(0, 256, (2, 16), generator=torch.Generator().manual_seed(seed))
        for each in (made, plain):
            each(input_ids=tokens, labels=tokens).loss.backward()
    expected = torch.cat([p.grad.flatten() for p in plain.parameters()])
    assert torch.equal(flat.vector, expected)
    assert float(flat.norm()) == pytest.approx(float(expected.norm()))
    flat.scale(0.5)
    assert torch.equal(torch.cat([p.grad.flatten() for p in made.parameters()]), expected * 0.5)
    flat.zero()
    assert not any(p.grad.any() for p in made.parameters())


def test_muon_takes_the_hidden_matrices_and_adamw_the_rest():
    made = model(tied=False)
    optimizer = build(made, OptimizerConfig(method="muon", weight_decay=0.1))
    *_, muon = optimizer.param_groups
    assert names_of(made, muon) == {name for name, _ in made.named_parameters() if "_proj" in name}
    covered = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(covered) == sorted(id(p) for p in made.parameters()), "each parameter once"


def with_value():
    return WithValue(model(tied=False))


def with_score():
    shape = TINY.to_transformers(256)
    shape.num_labels = 1
    return LlamaForSequenceClassification(shape)


@pytest.mark.parametrize("make", [with_value, with_score])
def test_muon_leaves_heads_of_every_kind_to_adamw(make):
    """The policy of PPO stands beside a value head, a reward model has a score and no head of the vocabulary."""
    made = make()
    optimizer = build(made, OptimizerConfig(method="muon"))
    *_, muon = optimizer.param_groups
    assert names_of(made, muon) == {name for name, _ in made.named_parameters() if "_proj" in name}
    covered = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(covered) == sorted(id(p) for p in made.parameters()), "each parameter once"


def test_muon_takes_the_matrices_of_an_adapter():
    wrapped = lora.attach(model(), lora.LoraSettings(rank=2), seed=0)
    (group,) = build(wrapped, OptimizerConfig(method="muon")).param_groups
    assert names_of(wrapped, group) == {name for name, _ in wrapped.named_parameters() if "lora_" in name}


def test_muon_updates_by_an_orthogonal_matrix_of_adamws_size():
    """0.2 sqrt(max(rows, columns)) times the nearest matrix with orthonormal rows (Liu et al. 2025, eq. 4)."""
    torch.manual_seed(0)
    layer = nn.Linear(24, 8, bias=False)
    before = layer.weight.detach().double().clone()
    layer.weight.grad = torch.randn_like(layer.weight)
    build(layer, OptimizerConfig(method="muon", learning_rate=1e-2, weight_decay=0.1)).step()
    update = (before * (1 - 1e-2 * 0.1) - layer.weight.detach().double()) / (1e-2 * 0.2 * 24**0.5)
    left, _, right = torch.linalg.svd(layer.weight.grad.double(), full_matrices=False)
    singular = torch.linalg.svdvals(update)
    assert singular.min() > 0.6, "Newton-Schulz brings every singular value near 1"
    assert singular.max() < 1.3
    cosine = float((update * (left @ right)).sum() / (update.norm() * (left @ right).norm()))
    assert cosine > 0.97


def test_muon_and_adamw_keep_their_moments_in_one_place():
    """What the trainer's checkpoints read and write."""
    made = model()
    optimizer = build(made, OptimizerConfig(method="muon"))
    flat = FlatGradient(p for group in optimizer.param_groups for p in group["params"])
    tokens = torch.randint(0, 256, (2, 16), generator=torch.Generator().manual_seed(0))
    made(input_ids=tokens, labels=tokens).loss.backward()
    assert flat.vector.any()
    optimizer.step()
    for name, parameter in made.named_parameters():
        kept = set(optimizer.state[parameter])
        assert kept == ({"momentum_buffer"} if "_proj" in name else {"step", "exp_avg", "exp_avg_sq"})
