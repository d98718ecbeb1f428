"""The Gaussian of a map with itself, where logits along a map differ by more than an exponential holds."""

import pytest
import torch

from nonlocalnn.functional import symmetric

# Blocks of 2 queries of 7, so that each query meets its keys in several panels.
N, D, E = 7, 3, 2
NORMS = {
    "falling": [1500.0, 400.0, 90.0, 20.0, 5.0, 1.0, 0.1],
    "rising": [0.1, 1.0, 5.0, 20.0, 90.0, 400.0, 1500.0],
    "a peak": [0.1, 5.0, 90.0, 1500.0, 90.0, 5.0, 0.1],
    "a valley": [1500.0, 90.0, 5.0, 0.1, 5.0, 90.0, 1500.0],
}


def directions(seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, N, D, generator=generator, dtype=torch.float64).abs() + 0.1
    g = torch.randn(2, N, E, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(x, dim=2), g


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["one way", "both ways"])
@pytest.mark.parametrize("name", NORMS)
def test_sharp_logits_that_rise_and_fall(name, sign):
    x, g = directions(3)
    x = x * torch.tensor(NORMS[name], dtype=torch.float64)[:, None]
    x[:, ::2] *= sign
    x, g = (each.requires_grad_() for each in (x, g))
    found = symmetric.non_local(x, g, scale=0.5)
    expected = torch.softmax(0.5 * x @ x.transpose(1, 2), dim=2) @ g
    torch.testing.assert_close(found, expected)
    weights = torch.linspace(-1, 1, found.numel(), dtype=torch.float64).view_as(found)
    gradients = torch.autograd.grad((found * weights).sum(), (x, g))
    for one, other in zip(gradients, torch.autograd.grad((expected * weights).sum(), (x, g)), strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-6)
