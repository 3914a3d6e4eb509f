import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers import GPT2Config
from transformers.pytorch_utils import Conv1D

from training import precision
from training.model import ModelConfig, initialize
from training.precision import Precision, RoundOperands, resolve, rounded


def nearest_bf16(value: float) -> float:
    """By hand: the top 16 bits of an FP32 number, ties to even."""
    bits = int(torch.tensor(value, dtype=torch.float32).view(torch.int32)) & 0xFFFFFFFF
    low, high = bits & 0xFFFF, bits >> 16
    if low > 0x8000 or (low == 0x8000 and high & 1):
        high += 1
    signed = (high << 16) - (1 << 32) if high >> 15 else high << 16
    return float(torch.tensor(signed, dtype=torch.int32).view(torch.float32))


@given(st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False))
def test_rounding_is_to_the_nearest_even_bf16(value):
    assert float(rounded(torch.tensor(value))) == nearest_bf16(value)


def operands(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize("shape", [(5, 8), (2, 5, 8)])
def test_linear_multiplies_rounded_operands_and_accumulates_exactly(shape):
    x, w, b = operands(shape, (6, 8), (6,))
    with RoundOperands():
        ours = linear(x, w, b)
    exact = x.to(torch.bfloat16).double() @ w.to(torch.bfloat16).double().t() + b.double()
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), exact, rtol=1e-6, atol=1e-6)
    assert float((ours - linear(x, w, b)).abs().max()) > 1e-4, "nothing was rounded"


def test_linear_rounds_the_gradient_before_its_products():
    x, w, g = operands((2, 5, 8), (6, 8), (2, 5, 6))
    x.requires_grad_(), w.requires_grad_()
    with RoundOperands():
        y = linear(x, w)
    y.backward(g)
    x16, w16, g16 = (t.detach().to(torch.bfloat16).double().flatten(0, -2) for t in (x, w, g))
    torch.testing.assert_close(x.grad.double().flatten(0, 1), g16 @ w16, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(w.grad.double(), g16.t() @ x16, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "product",
    [torch.matmul, lambda a, b: a @ b, lambda a, b: a.matmul(b), torch.bmm, lambda a, b: a.bmm(b)],
    ids=["matmul", "@", "Tensor.matmul", "bmm", "Tensor.bmm"],
)
def test_every_spelling_of_a_product_is_rounded(product):
    a, b = operands((2, 4, 8), (2, 8, 3))
    with RoundOperands():
        ours = product(a, b)
    exact = a.to(torch.bfloat16).double() @ b.to(torch.bfloat16).double()
    torch.testing.assert_close(ours.double(), exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("product", [torch.addmm, torch.Tensor.addmm], ids=["addmm", "Tensor.addmm"])
@pytest.mark.parametrize("factors", [{}, {"beta": 0.5, "alpha": 2.0}], ids=str)
def test_fused_products_are_rounded_forward_and_backward(product, factors):
    bias, a, b, g = operands((3,), (4, 8), (8, 3), (4, 3))
    for tensor in (bias, a, b):
        tensor.requires_grad_()
    with RoundOperands():
        ours = product(bias, a, b, **factors)
    ours.backward(g)
    alpha, beta = factors.get("alpha", 1.0), factors.get("beta", 1.0)
    a16, b16, g16 = (t.detach().to(torch.bfloat16).double() for t in (a, b, g))
    exact = beta * bias.detach().double() + alpha * a16 @ b16
    torch.testing.assert_close(ours.detach().double(), exact, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(a.grad.double(), alpha * g16 @ b16.t(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(b.grad.double(), alpha * a16.t() @ g16, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(bias.grad.double(), beta * g.double().sum(0), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("product", [torch.baddbmm, torch.Tensor.baddbmm], ids=["baddbmm", "Tensor.baddbmm"])
def test_fused_products_over_a_batch_are_rounded(product):
    bias, a, b = operands((2, 4, 3), (2, 4, 8), (2, 8, 3))
    with RoundOperands():
        ours = product(bias, a, b, beta=0.5, alpha=2)
    exact = 0.5 * bias.double() + 2 * a.to(torch.bfloat16).double() @ b.to(torch.bfloat16).double()
    torch.testing.assert_close(ours.double(), exact, rtol=1e-6, atol=1e-6)


def test_attention_rounds_its_operands_and_passes_gradients():
    q, k, v = (t.requires_grad_() for t in operands((1, 2, 5, 4), (1, 2, 5, 4), (1, 2, 5, 4)))
    with RoundOperands():
        ours = scaled_dot_product_attention(q, k, v, is_causal=True)
    q16, k16, v16 = (t.detach().to(torch.bfloat16).double() for t in (q, k, v))
    scores = (q16 @ k16.transpose(-1, -2) / 2).masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
    torch.testing.assert_close(ours.double(), scores.softmax(-1) @ v16, rtol=1e-5, atol=1e-6)
    ours.sum().backward()
    assert all(t.grad.abs().sum() > 0 for t in (q, k, v))


def test_the_conv1d_of_gpt2_is_a_rounded_product():
    layer, (x,) = Conv1D(6, 8), operands((2, 5, 8))
    with RoundOperands():
        ours = layer(x)
    exact = x.to(torch.bfloat16).double() @ layer.weight.to(torch.bfloat16).double() + layer.bias.double()
    torch.testing.assert_close(ours.double(), exact, rtol=1e-6, atol=1e-6)


def test_other_types_and_what_is_outside_are_left_alone():
    a, b = operands((4, 8), (8, 3))
    with RoundOperands():
        assert torch.equal(a.double() @ b.double(), torch.mm(a.double(), b.double()))
        assert torch.equal(torch.arange(4) @ torch.arange(4), torch.tensor(14))
    assert torch.equal(a @ b, torch.mm(a, b))


def shape_of(architecture):
    if architecture == "gpt2":  # its linear layers are torch.addmm
        dropouts = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        return GPT2Config(vocab_size=256, n_embd=32, n_layer=2, n_head=2, n_inner=64, n_positions=64, **dropouts)
    shape = ModelConfig(architecture=architecture, hidden_size=32, layers=2, heads=2, intermediate_size=64)
    return shape.to_transformers(256)


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2"])
def test_emulated_model_agrees_with_autocast_better_than_fp32_does(architecture):
    """The two BF16 paths differ by where sums are rounded; against FP32 they err alike."""
    model = initialize(shape_of(architecture), 0)
    tokens = torch.randint(0, 256, (2, 24), generator=torch.Generator().manual_seed(0))

    def gradient(name):
        model.zero_grad()
        with Precision(name, "test").context():
            logits = model(input_ids=tokens, use_cache=False).logits
        torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens.flatten()).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    exact, native, emulated = (gradient(name) for name in ("fp32", "bf16 native", "bf16 emulated"))
    error = lambda found: float((found - exact).norm() / exact.norm())  # noqa: E731
    assert 1e-4 < error(emulated) < 2e-2
    assert error(emulated) <= error(native), "fewer roundings cannot err more"
    assert float((emulated - native).norm() / exact.norm()) < 3e-2


def test_configuration_decides_over_the_machine():
    assert resolve("fp32", "native").name == "fp32"
    assert resolve("bf16", "native").name == "bf16 native"
    assert resolve("bf16", "emulated").name == "bf16 emulated"


@pytest.mark.parametrize(
    ("units", "name", "reason"),
    [
        ({"AMX": True, "AVX512-BF16": True}, "bf16 native", "AMX"),
        ({"AMX": False, "AVX512-BF16": True}, "bf16 native", "AVX512-BF16"),
        ({"AMX": False, "AVX512-BF16": False}, "bf16 emulated", "no BF16 units"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is present, which decides alone")
def test_path_follows_the_units_of_the_cpu(monkeypatch, units, name, reason):
    monkeypatch.setattr(precision, "_bf16_units", lambda: units)
    found = resolve("bf16")
    assert found.name == name
    assert reason in found.reason


def test_hidden_units_are_not_used(monkeypatch):
    """ONEDNN_MAX_CPU_ISA=AVX2 makes native BF16 products slow, whatever the CPU has."""
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "avx2")
    assert not any(precision._bf16_units().values())
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert not any(precision._bf16_units().values())
