"""What is no module where one is wanted: its name, its class, its state dict, its forward."""

import pytest
from torch import nn

import nonlocalnn as nl

MODEL = nn.Sequential(nn.Conv2d(3, 8, 3))


@pytest.mark.parametrize(
    "call",
    [
        lambda model: nl.insert_nonlocal_(model, ["0"]),
        nl.remove_nonlocal_,
        nl.convert_nonlocal_,
        nl.fuse_,
        nl.nonlocal_blocks,
        nl.assert_trained,
        lambda model: nl.param_groups(model, 0.1),
        lambda model: nl.examine(model, [], None),
    ],
    ids=["insert", "remove", "convert", "fuse", "blocks", "trained", "groups", "examine"],
)
@pytest.mark.parametrize(
    "given",
    [MODEL.state_dict(), MODEL.forward, "resnet50", nn.Sequential, None],
    ids=["state dict", "forward", "name", "class", "nothing"],
)
def test_what_is_no_module_is_told(call, given):
    with pytest.raises(
        TypeError, match=r"model must be a torch\.nn\.Module; got a \w+: make a network by its"
    ):
        call(given)
