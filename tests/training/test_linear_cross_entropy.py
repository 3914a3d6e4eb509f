import weakref

import pytest
import torch
from torch.nn.functional import cross_entropy

from training import linear_cross_entropy
from training.linear_cross_entropy import IGNORED, loss_sum, token_losses

TOKENS, WIDTH, VOCABULARY = 37, 16, 50


def problem(dtype=torch.float64, ignored=0.3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(TOKENS, WIDTH, generator=generator, dtype=dtype)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator, dtype=dtype)
    labels = torch.randint(0, VOCABULARY, (TOKENS,), generator=generator)
    labels[torch.rand(TOKENS, generator=generator) < ignored] = IGNORED
    upstream = torch.rand(TOKENS, generator=generator, dtype=dtype)
    return hidden, weight, labels, upstream


def truth(hidden, weight, labels, upstream, operand=lambda tensor: tensor):
    """torch's own cross-entropy of the whole logits, in FP64; gradients of sum_i upstream_i loss_i."""
    hidden, weight = (operand(t.detach()).double().clone().requires_grad_() for t in (hidden, weight))
    losses = cross_entropy(hidden @ weight.t(), labels, reduction="none")
    (losses * upstream.double()).sum().backward()
    return losses.detach(), hidden.grad, weight.grad


def close(ours, theirs, tolerance):
    return float((ours.detach().double() - theirs).norm() / theirs.norm()) < tolerance


@pytest.mark.parametrize("chunk", [1, 8, TOKENS, 512])
@pytest.mark.parametrize("ignored", [0.0, 0.3, 0.95])
def test_sum_and_gradients_equal_cross_entropy(chunk, ignored):
    hidden, weight, labels, _ = problem(ignored=ignored)
    losses, hidden_grad, weight_grad = truth(hidden, weight, labels, torch.ones(TOKENS))
    h, w = (t.float().requires_grad_() for t in (hidden, weight))
    ours = loss_sum(h, w, labels, chunk=chunk)
    (ours * 0.25).backward()  # what multiplies the sum must reach the gradients
    assert ours.item() == pytest.approx(float(losses.sum()), rel=1e-6)
    assert close(h.grad, 0.25 * hidden_grad, 1e-6)
    assert close(w.grad, 0.25 * weight_grad, 1e-6)
    assert (h.grad[labels == IGNORED] == 0).all()


@pytest.mark.parametrize("chunk", [1, 8, 512])
def test_token_losses_equal_cross_entropy_under_any_weights(chunk):
    hidden, weight, labels, upstream = problem()
    losses, hidden_grad, weight_grad = truth(hidden, weight, labels, upstream)
    h, w = (t.float().requires_grad_() for t in (hidden, weight))
    ours = token_losses(h, w, labels, chunk=chunk)
    (ours * upstream.float()).sum().backward()
    assert close(ours, losses, 1e-6)
    assert (ours[labels == IGNORED] == 0).all()
    assert close(h.grad, hidden_grad, 1e-6)
    assert close(w.grad, weight_grad, 1e-6)


@pytest.mark.parametrize("function", [loss_sum, token_losses])
def test_all_labels_ignored_give_zero_and_no_gradient(function):
    hidden, weight, _, _ = problem(torch.float32)
    h, w = hidden.requires_grad_(), weight.requires_grad_()
    loss = function(h, w, torch.full((TOKENS,), IGNORED)).sum()
    loss.backward()
    assert loss.item() == 0
    assert not h.grad.any()
    assert not w.grad.any()


@pytest.mark.parametrize("function", [loss_sum, token_losses])
@pytest.mark.parametrize("products", ["bf16 emulated", "bf16 native"])
def test_bf16_operands_are_rounded_once_and_the_loss_is_fp32(products, function):
    """The forward pass is exact up to summation; in the backward pass dz is rounded to 8 bits as well: 2^-9 each."""
    hidden, weight, labels, _ = problem()
    rounding = lambda tensor: tensor.float().to(torch.bfloat16)  # noqa: E731
    losses, hidden_grad, weight_grad = truth(hidden, weight, labels, torch.ones(TOKENS), rounding)
    h, w = (t.float().requires_grad_() for t in (hidden, weight))
    ours = function(h, w, labels, products)
    assert ours.dtype == torch.float32
    ours.sum().backward()
    assert h.grad.dtype == w.grad.dtype == torch.float32
    # Native units round the logits, too.
    assert ours.sum().item() == pytest.approx(float(losses.sum()), rel=1e-6 if products == "bf16 emulated" else 5e-3)
    bound = 2**-8 if products == "bf16 emulated" else 2**-6
    assert close(h.grad, hidden_grad, bound)
    assert close(w.grad, weight_grad, bound)
    exact, _, _ = truth(hidden, weight, labels, torch.ones(TOKENS))
    assert abs(ours.sum().item() - float(exact.sum())) > 1e-3, "nothing was rounded"


def test_only_what_asks_for_a_gradient_gets_one():
    hidden, weight, labels, _ = problem(torch.float32)
    h = hidden.clone().requires_grad_()
    loss_sum(h, weight, labels).backward()
    w = weight.clone().requires_grad_()
    loss_sum(hidden, w, labels).backward()
    assert h.grad is not None
    assert w.grad is not None
    assert weight.grad is hidden.grad is None


@pytest.mark.parametrize("function", [loss_sum, token_losses])
def test_the_logits_of_one_chunk_are_gone_before_those_of_the_next(monkeypatch, function):
    logits = []

    def product(a_NK, b_KO):
        result = a_NK @ b_KO
        if result.shape[1] == VOCABULARY:
            assert not any(earlier() is not None for earlier in logits)
            logits.append(weakref.ref(result))
        return result

    monkeypatch.setattr(linear_cross_entropy, "product", product)
    hidden, weight, labels, _ = problem(torch.float32)
    function(hidden.requires_grad_(), weight.requires_grad_(), labels, chunk=8).sum().backward()
    assert len(logits) >= TOKENS // 8


def test_large_logits_do_not_overflow():
    hidden, weight, labels, _ = problem(torch.float32, ignored=0)
    losses, *_ = truth(hidden * 1e3, weight * 1e3, labels, torch.ones(TOKENS))
    assert close(token_losses(hidden * 1e3, weight * 1e3, labels), losses, 1e-5)


@pytest.mark.parametrize("function", [loss_sum, token_losses])
def test_what_is_compiled_is_the_same_function(monkeypatch, function):
    """As it is handed to the compiler; test_layers.py compiles it."""
    monkeypatch.setattr(linear_cross_entropy, "_compiled_slope", lambda: linear_cross_entropy._fusible_slope)
    hidden, weight, labels, _ = problem()
    found = []
    for compiled in (False, True):
        h, w = (t.float().requires_grad_() for t in (hidden, weight))
        loss = function(h, w, labels, chunk=8, compiled=compiled)
        loss.sum().backward()
        found.append((loss.detach(), h.grad, w.grad))
    for plain, other in zip(*found, strict=True):
        torch.testing.assert_close(plain, other, rtol=1e-5, atol=1e-6)
