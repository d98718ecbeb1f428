"""How blocks begin in a network that is trained from scratch."""

import copy

import pytest
import torch
from torch import nn

import nonlocalnn as nl
from helpers import SUB_SAMPLES
from nonlocalnn import NonLocal1d, NonLocal2d, create_model, nonlocal_blocks
from nonlocalnn.models.start import start_from_scratch


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, True),
        ({"num_heads": 2}, True),
        ({"instantiation": "dot_product"}, False),
        ({"context_channels": 5}, False),
        ({"context_channels": 8}, True),
    ],
    ids=[
        "embedded Gaussian",
        "of two heads",
        "dot product",
        "other channels",
        "context",
    ],
)
def test_phi_starts_as_theta(settings, expected):
    block = NonLocal2d(8, **settings)
    theta = block.theta.weight.clone()
    start_from_scratch(torch.nn.Sequential(block, NonLocal2d(8, instantiation="gaussian")))
    assert torch.equal(block.theta.weight, theta)
    assert torch.equal(block.phi.weight, theta) is expected
    if expected:
        assert torch.equal(block.phi.bias, block.theta.bias)


def sums_of_pairs(block, x, context=None):
    """Return a_i + b_j of each head, (B, heads, N, M)."""
    theta, phi, _ = block.embed(x) if context is None else block.embed(x, context)
    w_f = block.w_f.unflatten(0, (2, block.num_heads, -1))
    a, b = (
        (part.unflatten(2, (block.num_heads, -1)) * w).sum(3)
        for part, w in zip((theta, phi), w_f, strict=True)
    )
    return a.movedim(2, 1).unsqueeze(3) + b.movedim(2, 1).unsqueeze(2)


@pytest.mark.parametrize("num_heads", [1, 4])
@pytest.mark.parametrize("sub_sample", SUB_SAMPLES)
@pytest.mark.parametrize("seed", range(4))
def test_sums_of_the_concatenation_form_start_around_zero(seed, sub_sample, num_heads):
    torch.manual_seed(seed)
    block = NonLocal2d(256, instantiation="concatenation", num_heads=num_heads, sub_sample=sub_sample)
    start_from_scratch(torch.nn.Sequential(block))
    # What a norm and a rectifier leave: 0.4 in the mean of each channel, and not 0.
    sums = sums_of_pairs(block, torch.randn(16, 256, 6, 4).relu())
    assert sums.mean((0, 2, 3)).abs().max() < 0.15
    # They vary by 1 times what x varies by, 0.58; the largest of four keys vary less.
    assert 0.35 < sums.std((0, 2, 3)).mean() < 0.7
    assert 0.4 < (sums > 0).float().mean() < 0.6
    # Each channel of x may be higher by as much as it will.
    x = torch.randn(2, 256, 3, 4)
    torch.testing.assert_close(sums_of_pairs(block, x + 3), sums_of_pairs(block, x), atol=1e-4, rtol=0)


def test_a_context_starts_around_zero_too():
    block = NonLocal2d(64, instantiation="concatenation", context_channels=5)
    start_from_scratch(block)
    x, context = torch.randn(2, 64, 3, 4), torch.randn(2, 5, 6, 6)
    moved = sums_of_pairs(block, x, context + 2)
    torch.testing.assert_close(moved, sums_of_pairs(block, x, context), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("size", [0.0, 1e-7, 0.01, 300.0, 1e30])
def test_each_head_starts_with_as_much_of_w_f(size, dtype):
    block = NonLocal1d(16, instantiation="concatenation", num_heads=4).to(dtype)
    torch.nn.init.constant_(block.w_f, min(size, torch.finfo(dtype).max))
    start_from_scratch(block)
    lengths = block.w_f.double().unflatten(0, (2, 4, 2)).norm(dim=(0, 2))
    assert lengths.tolist() == pytest.approx([3**0.5 * (size > 0)] * 4, rel=2e-3)
    once = copy.deepcopy(block.state_dict())
    start_from_scratch(block)
    assert all(torch.allclose(block.state_dict()[key], value, atol=1e-3) for key, value in once.items())


def test_inserted_blocks_start_so_unless_they_are_the_identity():
    for zero_init in (False, True):
        model = nn.Sequential(nn.Conv2d(3, 16, 3))
        nl.insert_nonlocal_(model, ["0"], instantiation="concatenation", zero_init=zero_init)
        (block,) = nonlocal_blocks(model).values()
        is_started = block.theta.weight.sum(1).abs().max().item() < 1e-5
        assert is_started is not zero_init
        assert is_started is (block.w_f.norm().item() == pytest.approx(3**0.5))


def test_nothing_is_started_where_one_block_cannot_be():
    model = nn.Sequential(*(NonLocal2d(8, instantiation="concatenation") for _ in range(2)))
    nn.utils.parametrizations.weight_norm(model[1], "w_f", dim=None)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"block '1'.* w_f must be a parameter"):
        start_from_scratch(model)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def test_a_single_channel_keeps_its_weights():
    block = NonLocal1d(1, instantiation="concatenation")
    weights = block.theta.weight.clone(), block.phi.weight.clone()
    start_from_scratch(block)
    assert torch.equal(block.theta.weight, weights[0])
    assert torch.equal(block.phi.weight, weights[1])


def test_a_start_is_refused_where_layers_have_no_weights_or_biases_of_their_own():
    block = NonLocal2d(8, instantiation="concatenation")
    block.phi = torch.nn.Conv2d(8, 4, 1, bias=False)
    with pytest.raises(ValueError, match="phi of block '1', Conv2d and Conv2d, must be alike"):
        start_from_scratch(torch.nn.Sequential(torch.nn.Identity(), block))
    pruned = NonLocal2d(8, instantiation="concatenation")
    torch.nn.utils.prune.random_unstructured(pruned.theta, "bias", 0.5)
    with pytest.raises(ValueError, match="biases of their own"):
        start_from_scratch(pruned)
    wrapped = NonLocal2d(8)
    wrapped.theta = torch.nn.Sequential(wrapped.theta)
    with pytest.raises(ValueError, match="Sequential and Conv2d, must be alike"):
        start_from_scratch(wrapped)
    both = NonLocal2d(8)
    for layer in (both.theta, both.phi):
        torch.nn.utils.parametrizations.weight_norm(layer)
    start_from_scratch(both)
    torch.testing.assert_close(both.phi.weight, both.theta.weight)


@pytest.mark.parametrize("name", ["nl2_c2d_tiny", "nl_fcn_tiny", "nl1_maskrcnn_tiny", "nl_unet3d_tiny"])
@pytest.mark.parametrize("form", ["embedded_gaussian", "concatenation"])
def test_networks_from_scratch_start_so(name, form):
    for zero_init in (False, True):
        model = create_model(name, instantiation=form, zero_init=zero_init)
        for block in nonlocal_blocks(model).values():
            if form == "embedded_gaussian":
                is_started = torch.equal(block.theta.weight, block.phi.weight)
            else:
                is_started = block.w_f.norm().item() == pytest.approx(3**0.5)
                rows = torch.cat([block.theta.weight.sum(1), block.phi.weight.sum(1)])
                assert is_started is (rows.abs().max().item() < 1e-5)
            assert is_started is not zero_init
