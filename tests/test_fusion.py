"""Folding norms: the same outputs, one layer less."""

import pytest
import torch
from torch import nn

import nonlocalnn as nl
from helpers import BLOCKS, SIDES, randomize_
from nonlocalnn.functional import INSTANTIATIONS


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
    torch.testing.assert_close(model(x), expected)
    assert not torch.allclose(block.W_z.weight, before)
    torch.testing.assert_close(nl.fuse_(model)(x), expected)


def test_train_mode_is_refused_and_nothing_is_changed():
    model = nn.Sequential(nl.NonLocal2d(4).eval(), nl.NonLocal2d(4))
    with pytest.raises(ValueError, match=r"block '1' is in train mode: call model\.eval"):
        nl.fuse_(model)
    assert model[0].norm is not None
