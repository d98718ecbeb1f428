"""Softmax averages by tiles: logits of any scale, in float32, against the equation in float64."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nonlocalnn.functional import non_local, tiles
from tolerances import assert_near

N, M, D, E = 53, 47, 8, 5
LOGITS = (0.0, 0.1, 1.0, 8.0, 30.0, 300.0)


def operands(logits, *, symmetric=False, num_values=E, seed=0, batch=2):
    generator = torch.Generator().manual_seed(seed)
    size = (logits / D**0.5) ** 0.5
    theta = torch.randn(batch, N, D, generator=generator) * size
    phi = theta if symmetric else torch.randn(batch, M, D, generator=generator) * size
    return theta, phi, torch.randn(batch, phi.shape[1], num_values, generator=generator)


def outcome(theta, phi, g, mask, engine):
    """Return y and the gradients of theta, phi and g; of one tensor twice one gradient."""
    leaves = [part.clone().requires_grad_() for part in ([theta, g] if phi is theta else [theta, phi, g])]
    y = non_local(leaves[0], leaves[-2], leaves[-1], instantiation="gaussian", key_mask=mask, engine=engine)
    slope = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)
    return [y.detach(), *torch.autograd.grad(y, leaves, slope)]


@pytest.mark.parametrize("logits", LOGITS)
@pytest.mark.parametrize("case", ["itself", "two maps", "one width", "mask", "one width, mask"])
@pytest.mark.parametrize("entries_share", [False, True], ids=["", "shared tiles"])
def test_logits_of_any_scale_equal_the_reference(case, logits, entries_share, monkeypatch):
    monkeypatch.setattr(tiles, "_TILE_BYTES", 4 * (2 * N * N if entries_share else 16**2))
    width, batch = D if "one width" in case else E, 33 if entries_share else 2
    theta, phi, g = operands(logits, symmetric=case == "itself", num_values=width, batch=batch)
    counts = [bundle.stop - bundle.start for bundle, _ in tiles.bundles(theta, phi)]
    assert counts == ([2] * 16 + [1] if entries_share else [1, 1])
    mask = None
    if "mask" in case:
        mask = torch.arange(M) < torch.tensor([M - 9, 0, M, 1, 3, 0, 5] * 5)[:batch, None]
    found = outcome(theta, phi, g, mask, "fused")
    wide = theta.double()
    expected = outcome(wide, wide if phi is theta else phi.double(), g.double(), mask, "reference")
    # A logit has the rounding of its largest products, and an exponential makes its error relative.
    on_the_way = max(1.0, float((wide @ phi.double().mT).abs().max()))
    for mine, theirs in zip(found, expected, strict=True):
        largest = max(1.0, float(theirs.abs().max())) * on_the_way
        assert_near(mine.double(), theirs, dtype=torch.float32, largest=largest)


@pytest.mark.parametrize("batch", [0, 1, 3, 64])
@pytest.mark.parametrize("num_keys", [1, 9, 196, 785])
@pytest.mark.parametrize("num_queries", [1, 196, 784, 3136])
def test_bundles_hold_all_entries_and_no_more_pairs_than_a_tile(batch, num_queries, num_keys):
    found = list(tiles.bundles(torch.empty(batch, num_queries, 1), torch.empty(batch, num_keys, 1)))
    assert [entry for bundle, _ in found for entry in range(batch)[bundle]] == list(range(batch))
    for bundle, side in found:
        num_entries, sides = bundle.stop - bundle.start, (min(side, num_queries), min(side, num_keys))
        assert min(sides) >= 1
        assert num_entries == 1 or sides == (num_queries, num_keys)
        num_pairs = num_entries * sides[0] * sides[1]
        assert num_pairs <= max(1, batch * num_queries * num_keys // 8)
        assert 4 * num_pairs <= tiles._TILE_BYTES * torch.get_num_threads()


@pytest.mark.parametrize("order", ["rising", "falling"])
def test_the_largest_logit_may_come_in_any_tile(order, monkeypatch):
    monkeypatch.setattr(tiles, "_TILE_BYTES", 8 * 4**2)
    theta, phi, g = (part.double() for part in operands(8.0))
    phi = phi * torch.linspace(0.01, 60, M, dtype=torch.float64)[:, None]
    phi = phi if order == "rising" else phi.flip(1)
    assert_near(outcome(theta, phi, g, None, "fused"), outcome(theta, phi, g, None, "reference"), largest=1e4)


class SmallestWeight(TorchDispatchMode):
    """Notes the smallest power of 2 that is taken of a tile."""

    smallest = float("inf")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.exp2_.default and result.dim() == 3:
            self.smallest = min(self.smallest, float(result.min()))
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("symmetric", [False, True])
def test_no_weight_is_zero_or_subnormal(symmetric, dtype):
    """Exponentials that underflow, and products of subnormal numbers, take many times as long."""
    theta, phi, g = (part[:1].to(dtype) for part in operands(3000.0, symmetric=symmetric))
    phi = theta if symmetric else phi
    y, lse = torch.empty(1, N, E, dtype=dtype), torch.empty(1, N, dtype=dtype)
    gradients = torch.zeros_like(theta), torch.zeros_like(phi), torch.zeros_like(g)
    with SmallestWeight() as seen:
        tiles.average(y, lse, theta, phi, g, scale=1.0, side=16, symmetric=symmetric)
        tiles.add_gradients(
            gradients, torch.ones_like(y), theta, phi, g, y, lse, scale=1.0, side=16, symmetric=symmetric
        )
    assert torch.finfo(dtype).tiny < seen.smallest < torch.finfo(dtype).tiny ** 0.7


@pytest.mark.parametrize("symmetric", [False, True])
def test_what_is_no_number_comes_to_the_result(symmetric):
    theta, phi, g = operands(1.0, symmetric=symmetric)
    theta[0, 3, 0] = torch.nan
    found, expected = (
        non_local(theta, phi, g, instantiation="gaussian", engine=engine) for engine in ("fused", "reference")
    )
    assert torch.equal(found.isnan(), expected.isnan())
