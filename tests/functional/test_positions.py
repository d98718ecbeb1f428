"""Maps to positions and back."""

from itertools import product

import pytest
import torch

from nonlocalnn.functional.positions import project, project_back
from tolerances import assert_near


@pytest.mark.parametrize(
    ("given", "found"), [(torch.float32, torch.bfloat16), (torch.float64, torch.float64)], ids=str
)
def test_autocast_narrows_projections_as_it_does_linear_layers(given, found):
    x, layer = torch.randn(2, 4, 5, dtype=given), torch.nn.Conv1d(4, 3, 1).to(given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (positions,) = project(x, (layer.weight, layer.bias))
        assert positions.dtype == found
        assert project_back(positions, (layer.weight.transpose(0, 1), None), x).dtype == found
    (exact,) = project(x, (layer.weight, layer.bias))
    assert_near(positions.to(given), exact, dtype=found)
    assert_near(exact, layer(x).mT)


def test_gradients_of_several_projections_are_those_of_convolutions():
    layers = [torch.nn.Conv2d(4, width, 1, bias=width != 2).double() for width in (3, 2, 5)]
    # Fewer positions than channels, and more.
    for sides, memory_format in product([(1, 3), (5, 7)], (torch.contiguous_format, torch.channels_last)):
        x = torch.randn(2, 4, *sides, dtype=torch.float64).to(memory_format=memory_format).requires_grad_()
        parameters = [x, *(part for layer in layers for part in layer.parameters())]
        projected = project(x, *((layer.weight, layer.bias) for layer in layers))
        convolved = [layer(x).flatten(2).mT for layer in layers]
        slopes = [torch.randn_like(part) for part in projected]
        ours, expected = (torch.autograd.grad(parts, parameters, slopes) for parts in (projected, convolved))
        assert_near(ours, expected)
        assert ours[0].is_contiguous(memory_format=memory_format)
        # One of several results used: the others have no gradient.
        (alone,) = torch.autograd.grad(project(x, *((each.weight, None) for each in layers))[1].sum(), x)
        assert_near(alone, torch.autograd.grad(layers[1](x).sum(), x)[0])
