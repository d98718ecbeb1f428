"""How kernels lie in memory changes no value, and no file."""

import copy

import pytest
import torch

import nonlocalnn as nl
from helpers import randomize_
from nonlocalnn.models.layout import with_channels_last
from tolerances import NETWORK, assert_near

LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


def _wide_kernels(model):
    """Return the kernels of more than one tap, which lie otherwise when channels come last."""
    modules = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d | torch.nn.Conv3d)]
    return [module.weight for module in modules if max(module.kernel_size) > 1]


@pytest.mark.parametrize(
    ("name", "shape"), [("nl2_c2d_tiny", (2, 3, 8, 32, 32)), ("nl2_resnet_tiny", (2, 3, 32, 32))]
)
def test_channels_last_changes_no_value(name, shape):
    torch.manual_seed(0)
    model = randomize_(nl.create_model(name)).double()
    laid_out = with_channels_last(copy.deepcopy(model))
    kernels = _wide_kernels(laid_out)
    assert kernels
    assert all(kernel.is_contiguous(memory_format=LAYOUTS[kernel.ndim]) for kernel in kernels)
    x = torch.randn(shape, dtype=torch.float64)
    for each in (model, laid_out):
        each(x).square().sum().backward()
    expected, given = (
        torch.cat([weight.grad.flatten() for weight in each.parameters()]) for each in (model, laid_out)
    )
    assert_near(given, expected, sums=NETWORK)


def test_a_loaded_network_has_channels_last(tmp_path):
    nl.save_checkpoint(nl.create_model("nl2_c2d_tiny"), tmp_path / "clips.safetensors")
    kernels = _wide_kernels(nl.load_classifier(tmp_path / "clips.safetensors").model)
    assert kernels
    assert all(kernel.is_contiguous(memory_format=torch.channels_last_3d) for kernel in kernels)


def test_what_is_saved_lies_as_usual(tmp_path):
    model = with_channels_last(nl.create_model("nl2_c2d_tiny"))
    nl.save_checkpoint(model, tmp_path / "clips.safetensors")
    loaded = nl.load_checkpoint(tmp_path / "clips.safetensors")
    assert all(weight.is_contiguous() for weight in loaded.state_dict().values())


class Viewing(torch.nn.Sequential):
    """A network of somebody else, which takes for granted how its maps lie."""

    def forward(self, x):
        return self[0](x).view(len(x), -1)


def test_other_networks_stay_as_they_are():
    model = with_channels_last(Viewing(torch.nn.Conv2d(3, 4, 3)))
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 144)
