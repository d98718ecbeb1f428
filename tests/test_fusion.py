"""Folding norms: the same outputs, one layer less."""

import pytest
import torch
from torch import nn

import nonlocalnn as nl
from helpers import BLOCKS, SIDES, randomize_
from nonlocalnn.functional import INSTANTIATIONS
from nonlocalnn.models import ResidualNetwork
from tolerances import assert_near


@pytest.mark.parametrize("instantiation", INSTANTIATIONS)
@pytest.mark.parametrize("sides", BLOCKS, ids=["1d", "2d", "3d"])
def test_outputs_stay_the_same(sides, instantiation):
    block = randomize_(BLOCKS[sides](6, instantiation=instantiation)).double().eval()
    model = nn.Sequential(block, randomize_(BLOCKS[sides](6, norm=None)).double().eval())
    x = torch.randn(2, 6, *SIDES[sides], dtype=torch.float64)
    expected, before = model(x), block.W_z.weight.clone()
    assert nl.fuse_(model) is model
    assert block.norm is None
    assert not any("norm" in key for key in model.state_dict())
    assert_near(model(x), expected)
    assert not torch.allclose(block.W_z.weight, before)
    assert_near(nl.fuse_(model)(x), expected)


def test_train_mode_is_refused_and_nothing_is_changed():
    model = nn.Sequential(nl.NonLocal2d(4).eval(), nl.NonLocal2d(4))
    with pytest.raises(ValueError, match=r"the norm '1.norm' is in train mode: call model\.eval"):
        nl.fuse_(model)
    assert model[0].norm is not None


@pytest.mark.parametrize("norm", ["batch", "frozen"])
@pytest.mark.parametrize("num_sides", BLOCKS, ids=["1d", "2d", "3d"])
def test_residual_networks_lose_all_their_norms(num_sides, norm):
    shape = {1: (2, 3, 70), 2: (2, 3, 40, 36), 3: (1, 3, 4, 40, 36)}[num_sides]
    network = ResidualNetwork(
        num_sides=num_sides, depth=(2, 1, 1, 1), width=4, blocks={"layer2": [0]}, norm=norm
    )
    randomize_(network).double().eval()
    x = torch.randn(*shape, dtype=torch.float64)
    expected = network(x)
    assert_near(nl.fuse_(network)(x), expected)
    assert not any("bn" in key or "norm" in key for key in network.state_dict())


def test_only_neighbours_that_are_sure_are_folded():
    def layers():
        shared = nn.Conv2d(4, 4, 1, bias=False)
        return [
            nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4)),
            nn.Sequential(shared, nn.BatchNorm2d(4)),
            nn.Sequential(shared, nn.BatchNorm2d(4)),
            nn.Sequential(nn.ConvTranspose2d(4, 4, 2), nn.BatchNorm2d(4)),
        ]

    model = randomize_(nn.Sequential(*layers())).double().eval()
    x = torch.randn(2, 4, 9, 7, dtype=torch.float64)
    expected = model(x)
    assert_near(nl.fuse_(model)(x), expected)
    kinds = [[type(layer).__name__ for layer in part] for part in model]
    assert kinds[0] == ["Conv2d", "Identity", "ReLU", "BatchNorm2d"]
    assert [kind[1] for kind in kinds[1:]] == ["BatchNorm2d"] * 3


def test_neighbours_by_declaration_alone_are_left_as_they_are():
    class PreActivated(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

        def forward(self, x):
            return self.conv(self.bn(x).relu())

    model = randomize_(PreActivated()).double().eval()
    x = torch.randn(2, 4, 5, 7, dtype=torch.float64)
    expected = model(x)
    assert_near(nl.fuse_(model)(x), expected)


@pytest.mark.parametrize("after", ["0", "1"])
def test_a_block_between_a_convolution_and_what_follows_stays_where_it_is(after):
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    nl.insert_nonlocal_(network, [after], zero_init=False)
    randomize_(network).eval()
    x = torch.randn(2, 3, 9, 9)
    before = network(x)
    assert_near(nl.fuse_(network)(x), before)


def test_a_norm_with_an_activation_inside_is_left_alone():
    class NormAct(nn.BatchNorm2d):
        def __init__(self, channels):
            super().__init__(channels)
            self.act = nn.ReLU()

        def forward(self, x):
            return self.act(super().forward(x))

    network = randomize_(nn.Sequential(nn.Conv2d(3, 8, 3), NormAct(8))).eval()
    x = torch.randn(2, 3, 9, 9)
    before = network(x)
    assert_near(nl.fuse_(network)(x), before)


def test_a_norm_and_a_convolution_with_a_forward_of_their_own_are_left_alone():
    class Rectified(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x).relu()

    class Standardised(nn.Conv2d):
        def forward(self, x):
            weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return nn.functional.conv2d(x, weight, self.bias)

    for layers in ((nn.Conv2d(3, 8, 3), Rectified(8)), (Standardised(3, 8, 3), nn.BatchNorm2d(8))):
        network = randomize_(nn.Sequential(*layers)).eval()
        x = torch.randn(2, 3, 9, 9)
        before = network(x)
        assert_near(nl.fuse_(network)(x), before)
