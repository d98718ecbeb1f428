"""The networks by name."""

import json

import pytest
import torch

import nonlocalnn as nl
from count_parameters import TABLE, counted
from nonlocalnn.functional import INSTANTIATIONS


@pytest.mark.parametrize("instantiation", INSTANTIATIONS)
def test_nl_digits(instantiation):
    model = nl.create_model("nl_digits", instantiation=instantiation)
    assert model(torch.rand(3, 1, 28, 28)).shape == (3, 10)
    assert (model.nl_1.in_channels, model.nl_2.in_channels) == (32, 64)
    assert model.nl_1.instantiation == instantiation
    assert model.nl_1.sub_sample == "after"
    assert (model.nl_1.norm.weight == 0).all()
    assert not model.nl_1.use_scale


def test_parameters_counted_by_hand():
    stages = sum(9 * i * o + o + 2 * o for i, o in ((1, 32), (32, 64), (64, 128)))
    head = 1152 * 256 + 256 + 256 * 10 + 10
    blocks = sum(3 * (c * c // 2 + c // 2) + (c * c // 2 + c) + 2 * c for c in (32, 64))
    count = {
        name: sum(p.numel() for p in nl.create_model("nl_digits", **settings).parameters())
        for name, settings in (("with", {}), ("without", {"blocks": False}))
    }
    assert count == {"with": stages + head + blocks, "without": stages + head}


def test_blocks_begin_as_the_identity():
    torch.manual_seed(3)
    model = nl.create_model("nl_digits").eval()
    plain = nl.create_model("nl_digits", blocks=False).eval()
    plain.load_state_dict({key: model.state_dict()[key] for key in plain.state_dict()})
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(model(x), plain(x))


def test_other_sizes_and_settings():
    model = nl.create_model(
        "nl_digits", num_classes=3, in_channels=3, image_size=(24, 40), use_scale=True, sub_sample="before"
    )
    assert model(torch.rand(2, 3, 24, 40)).shape == (2, 3)
    assert model.config == {
        "name": "nl_digits",
        "num_classes": 3,
        "overrides": {"in_channels": 3, "image_size": (24, 40), "use_scale": True, "sub_sample": "before"},
    }


def test_wrong_names_and_settings():
    with pytest.raises(ValueError, match=r"got 'nl_digit' \(did you mean 'nl_digits'\?\)"):
        nl.create_model("nl_digit")
    with pytest.raises(TypeError, match=r"nl_digits has no setting 'instantation' \(did you mean 'instant"):
        nl.create_model("nl_digits", instantation="gaussian")
    with pytest.raises(ValueError, match="image_size must be at least 8"):
        nl.create_model("nl_digits", image_size=7)
    assert nl.list_models() == sorted(nl.list_models())


@pytest.mark.parametrize("part", ["tiny", pytest.param("", marks=pytest.mark.slow)])
def test_the_table_of_parameters(part):
    """``python tests/count_parameters.py`` writes it anew."""
    table = json.loads(TABLE.read_text())
    assert list(table) == sorted(nl.list_models())
    names = [name for name in table if part in name]
    assert {name: table[name] for name in names} == {name: counted(name) for name in names}
