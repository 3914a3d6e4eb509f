import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import linear

from training import products
from training.precision import Precision
from training.products import add_product, product

sizes = st.integers(1, 70)


@pytest.fixture(params=[True, False], ids=["oneDNN", "MKL"])
def library(request, monkeypatch):
    """Both libraries multiply on any machine; which one is chosen depends on it."""
    monkeypatch.setattr(products, "BY_ONEDNN", request.param)


def matrices(rows, inner, columns):
    generator = torch.Generator().manual_seed(rows * 10_007 + inner * 101 + columns)
    return torch.randn(rows, inner, generator=generator), torch.randn(inner, columns, generator=generator)


def laid_out(matrix, transposed):
    """The same numbers; transposed: a view of memory in which columns are contiguous."""
    return matrix.t().contiguous().t() if transposed else matrix


@given(sizes, sizes, sizes, st.booleans(), st.booleans())
@pytest.mark.parametrize("by_onednn", [True, False])
def test_a_product_is_that_of_its_numbers_however_they_lie_in_memory(by_onednn, rows, inner, columns, first, second):
    a, b = matrices(rows, inner, columns)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "BY_ONEDNN", by_onednn)
        found = product(laid_out(a, first), laid_out(b, second))
    torch.testing.assert_close(found.double(), a.double() @ b.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0, 3), (4, 3, 0)])
def test_products_of_nothing(library, shape):
    a, b = torch.ones(shape[0], shape[1]), torch.ones(shape[1], shape[2])
    assert torch.equal(product(a, b), torch.zeros(shape[0], shape[2]))


def test_a_product_is_added_a_few_rows_at_a_time(library, monkeypatch):
    monkeypatch.setattr(products, "_AT_ONCE", 7 * 70)  # of 150 rows: 64, 64 and 22
    a, b = matrices(150, 20, 7)
    total = torch.ones(150, 7)
    add_product(total, a, b)
    torch.testing.assert_close(total.double(), 1 + a.double() @ b.double(), rtol=1e-5, atol=1e-5)


def test_bf16_operands_are_added_to_an_fp32_sum(library):
    a, b = (x.bfloat16() for x in matrices(5, 4, 3))
    total = torch.ones(5, 3)
    add_product(total, a, b)
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, 1 + a.float() @ b.float(), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 8), (2, 5, 8)])
def test_a_linear_layer_and_its_gradients_are_those_of_torch(library, shape, bias):
    x, w, b, g = (
        torch.randn(*s, generator=torch.Generator().manual_seed(len(s))).requires_grad_()
        for s in (shape, (6, 8), (6,), (*shape[:-1], 6))
    )
    given_bias = b if bias else None
    with Precision("fp32", "test").context():
        ours = linear(x, w, given_bias)
    theirs = linear(x, w, given_bias)
    torch.testing.assert_close(ours, theirs)
    wanted = [x, w, b] if bias else [x, w]
    for mine, other in zip(torch.autograd.grad(ours, wanted, g), torch.autograd.grad(theirs, wanted, g), strict=True):
        torch.testing.assert_close(mine, other)


def test_a_frozen_weight_costs_no_gradient(library, monkeypatch):
    calls = []
    monkeypatch.setattr("training.precision.product", lambda a, b: calls.append(1) or a @ b)
    monkeypatch.setattr(products, "BY_ONEDNN", True)
    x, w = torch.randn(3, 4, requires_grad=True), torch.randn(2, 4)
    with Precision("fp32", "test").context():
        linear(x, w).sum().backward()
    assert len(calls) == 2, "forward, and backward to the input"


def test_a_compiled_layer_multiplies_with_onednn_as_well(monkeypatch):
    monkeypatch.setattr(products, "BY_ONEDNN", True)
    x, w = torch.randn(9, 8, requires_grad=True), torch.randn(6, 8, requires_grad=True)
    layer = torch.compile(lambda x, w: torch.relu(linear(x, w)), fullgraph=True)
    with torch.profiler.profile() as seen, Precision("fp32", "test").context():
        layer(x, w).sum().backward()
    names = [event.key for event in seen.key_averages()]
    assert "raymill::product" in names
    assert not {"aten::mm", "aten::addmm"} & set(names)
    expected = torch.autograd.grad(torch.relu(linear(x, w)).sum(), [x, w])
    torch.testing.assert_close((x.grad, w.grad), tuple(expected))


@pytest.mark.parametrize(
    ("vendor", "capability", "limit", "expected"),
    [
        ("AuthenticAMD", "AVX512", None, True),
        ("AuthenticAMD", "AVX2", None, False),
        ("AuthenticAMD", "AVX512", "avx2", False),
        ("AuthenticAMD", "AVX512", "AVX512_CORE", True),
        ("GenuineIntel", "AVX512", None, False),
        ("", "AVX512", None, False),
    ],
)
def test_onednn_multiplies_where_mkl_has_no_kernels_for_the_processor(monkeypatch, vendor, capability, limit, expected):
    monkeypatch.setattr(products, "_vendor", lambda: vendor)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if limit:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert products._by_onednn() is expected
