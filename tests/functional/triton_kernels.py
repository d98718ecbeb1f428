"""The Triton kernels of the concatenation form, by Triton's interpreter."""

import pytest
import torch

from nonlocalnn.functional import concatenation, concatenation_triton
from tolerances import assert_near


@pytest.fixture(params=["sorted", "pairs"])
def engine(request, monkeypatch):
    monkeypatch.setattr(concatenation_triton, "_FEW_KEYS", 0 if request.param == "sorted" else 10**9)
    return concatenation_triton


def operands(batch, num_queries, num_keys, width, *, spread=1.0, shift=0.0):
    generator = torch.Generator().manual_seed(num_queries + 7 * num_keys + width)
    shapes = [(batch, num_queries), (batch, num_keys), (batch, num_keys, width), (batch, num_queries, width)]
    a, b, g, dy = (torch.randn(shape, generator=generator) for shape in shapes)
    return spread * a + shift, b - shift, g, dy


def expected(a, b, g, dy, count):
    """What the N x M tensor gives in float64: y and the gradients of a, b and g."""
    leaves = [part.double().requires_grad_() for part in (a, b, g)]
    divisor = count.double() if isinstance(count, torch.Tensor) else count
    y = (leaves[0].unsqueeze(2) + leaves[1].unsqueeze(1)).relu() @ leaves[2] / divisor
    return [y, *torch.autograd.grad(y, leaves, dy.double())]


def assert_equal_to_the_equation(engine, a, b, g, dy, count):
    found = [engine.average(a, b, g, count), *engine.gradients(dy, a, b, g, count)]
    for mine, theirs in zip(found, expected(a, b, g, dy, count), strict=True):
        assert mine.shape == theirs.shape
        assert_near(mine.double(), theirs, dtype=torch.float32)


@pytest.mark.parametrize(
    ("batch", "num_queries", "num_keys", "width"),
    [(1, 1, 1, 1), (2, 64, 64, 64), (2, 70, 130, 70), (1, 200, 65, 5), (3, 30, 257, 129)],
)
def test_sizes(engine, batch, num_queries, num_keys, width):
    assert_equal_to_the_equation(engine, *operands(batch, num_queries, num_keys, width), num_keys)


@pytest.mark.parametrize("spread", [0.0, 1e-3, 30.0], ids=["all queries alike", "nearly alike", "far apart"])
def test_spreads(engine, spread):
    assert_equal_to_the_equation(engine, *operands(2, 150, 200, 20, spread=spread), 200)


@pytest.mark.parametrize("shift", [-100.0, 100.0, 1000.0])
def test_large_and_opposite_numbers_keep_their_digits(engine, shift):
    a, b, g, dy = operands(1, 150, 200, 20, shift=shift)
    # What a and b themselves lose by the shift is not the engine's.
    found = engine.average(a, b, g, 200)
    assert_near(found.double(), expected(a, b, g, dy, 200)[0], dtype=torch.float32)


@pytest.mark.parametrize("num_keys", [90, 128], ids=["a block that is not full", "full blocks"])
def test_none_passes_and_all_pass(engine, num_keys):
    a, b, g, dy = operands(2, 70, num_keys, 12)
    assert engine.average(a - 100, b, g, num_keys).abs().max() == 0
    da, db, dg = engine.gradients(dy, a - 100, b, g, num_keys)
    assert (da.abs().max(), db.abs().max(), dg.abs().max()) == (0, 0, 0)
    assert_equal_to_the_equation(engine, a + 100, b, g, dy, num_keys)


def test_where_a_plus_b_is_zero_nothing_passes(engine):
    a = torch.arange(-40.0, 40.0).unsqueeze(0)
    g, dy = torch.randn(1, 80, 3), torch.randn(1, 80, 3)
    assert_equal_to_the_equation(engine, a, -a.flip(1), g, dy, 80)


def test_a_count_for_each_entry(engine):
    count = torch.tensor([3, 90]).view(2, 1, 1)
    assert_equal_to_the_equation(engine, *operands(2, 70, 90, 12), count)


def test_what_is_not_contiguous(engine):
    a, b, g, dy = operands(2, 70, 90, 12)
    parts = [part.mT.contiguous().mT for part in (g, dy)]
    apart = [torch.stack([part, part], -1)[..., 0] for part in (a, b)]
    assert_equal_to_the_equation(engine, *apart, *parts, 90)


def test_nan_reaches_what_it_reaches_in_the_equation(engine):
    a, b, g, _ = operands(2, 70, 90, 12)
    a[0, 5] = torch.nan
    y = engine.average(a, b, g, 90)
    assert y[0, 5].isnan().all()
    assert y.isnan().sum() == 12
    a[0, 5], b[1, 7] = 0.0, torch.nan
    assert engine.average(a, b, g, 90).isnan().all(2).tolist() == [[False] * 70, [True] * 70]


def test_the_block_uses_them_on_gpus(engine, monkeypatch):
    calls = []
    monkeypatch.setattr(concatenation, "_gpu_engine", lambda tensor: calls.append(tensor.dtype) or engine)
    leaves = [part.requires_grad_() for part in operands(2, 70, 90, 12)[:3]]
    y = concatenation.rectified_non_local(*leaves, engine="fused")
    slope = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    found = [y, *torch.autograd.grad(y, leaves, slope)]
    for mine, theirs in zip(found, expected(*leaves, slope, 90), strict=True):
        assert_near(mine.double(), theirs, dtype=torch.float32)
    assert calls == [torch.float32] * 2
