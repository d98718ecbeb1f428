"""What `examine` takes, what it refuses, and that it leaves a network as it was."""

import copy

import pytest
import torch
from planted_network import MARK, OUT, SURE, Reader, batches, loss
from torch import nn

from helpers import randomize_
from nonlocalnn import NonLocal1d
from nonlocalnn.affinity import examine
from tolerances import assert_same


class Named(Reader):
    def forward(self, x):
        score = SURE * self.block(x=x)[:, OUT, 0]
        return torch.stack([-score, score], 1)


def test_a_block_whose_input_is_named():
    wanted, found = (examine(each(looks_at={MARK: SURE}), batches(), loss) for each in (Reader, Named))
    assert found == wanted


def test_under_the_callers_inference_mode():
    model, data = Reader(looks_at={MARK: SURE}), batches()
    with torch.inference_mode():
        found = examine(model, data, loss)
    assert found == examine(model, data, loss)


def test_a_network_is_as_it_was():
    model = nn.Sequential(randomize_(NonLocal1d(4)), nn.BatchNorm1d(4), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    model[1].eval()
    before = copy.deepcopy(model.state_dict())
    examine(model, batches(), lambda net, batch: (nn.functional.cross_entropy(net(batch[0]), batch[1]), {}))
    assert [module.training for module in model] == [True, False, True, True]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    for name, value in model.state_dict().items():
        assert_same(value, before[name])


def test_refusals():
    data = batches()
    with pytest.raises(ValueError, match="no non-local block"):
        examine(nn.Linear(3, 2), data, loss)
    model = Reader(looks_at={MARK: SURE})
    with pytest.raises(ValueError, match="batches must be at least two"):
        examine(model, data[:1], loss)
    with pytest.raises(ValueError, match="finite loss; got a loss of nan"):
        examine(model, data, lambda model, batch: (loss(model, batch)[0] * torch.nan, {}))
    for wrong, said in (
        (lambda model, batch: loss(model, batch)[0], "got a Tensor: return loss, {}"),
        (lambda model, batch: (loss(model, batch)[0], 1.0), "got a tuple of Tensor, float"),
        (
            lambda model, batch: (model(batch[0])[:, 0], {}),
            r"the loss of a batch must be one number; .* \(7,\)",
        ),
        (
            lambda model, batch: (loss(model, batch)[0], {"each": batch[0]}),
            "each of a batch must be one number",
        ),
    ):
        with pytest.raises(ValueError, match=said):
            examine(model, data, wrong)
    for batch, said in (
        ({"image": data[0][0]}, "got a dict"),
        (data[0][0], "got a Tensor"),
        ([[data[0][0]], 1], "got a list that begins with a list"),
        ([], "got a list:"),
    ):
        with pytest.raises(ValueError, match=f"each batch must be a list or a tuple.* {said}"):
            examine(model, [batch], loss)
    idle = nn.ModuleDict({"block": NonLocal1d(4), "used": Reader(looks_at={MARK: SURE})})
    found = examine(idle, data, lambda model, batch: loss(model["used"], batch))
    assert found.idle == ["block"]
    assert "block: did not run" in str(found)
    with pytest.raises(ValueError, match="no block that ran"):
        examine(idle["block"], data, lambda model, batch: (batch[0].mean(), {}))
