"""Weights for models without memory: all of them get some, or none is loaded."""

import pytest
import torch
from torch import nn

import nonlocalnn as nl
from helpers import randomize_


@pytest.fixture
def path(tmp_path):
    torch.manual_seed(0)
    model = randomize_(nl.create_model("nl2_c2d_tiny", num_classes=3))
    nl.save_checkpoint(model, tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


def without_memory(wrap=lambda model: model, **settings):
    with torch.device("meta"):
        return wrap(nl.create_model("nl2_c2d_tiny", num_classes=3, **settings))


@pytest.mark.parametrize("wrap", [lambda model: model, torch.compile, nn.DataParallel])
def test_all_weights_are_there_afterwards(path, wrap):
    model = without_memory(wrap)
    assert nl.load_checkpoint(path, model) is model
    expected = nl.load_checkpoint(path).state_dict()
    found = getattr(model, "_orig_mod", getattr(model, "module", model)).state_dict()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_a_part_without_memory_and_types(path):
    model = nl.create_model("nl2_c2d_tiny", num_classes=3).half()
    model.layer2.to("meta").requires_grad_(False)
    kept = model.conv1.weight
    nl.load_checkpoint(path, model)
    assert model.conv1.weight is kept
    assert {value.dtype for value in model.parameters()} == {torch.float16}
    assert not any(value.is_meta for value in [*model.parameters(), *model.buffers()])
    assert not any(value.requires_grad for value in model.layer2.parameters())
    assert all(value.requires_grad for value in model.layer1.parameters())
    expected = nl.load_checkpoint(path).half()
    assert torch.equal(model.layer2[0].conv1.weight, expected.layer2[0].conv1.weight)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight


@pytest.mark.parametrize("names", [("first", "second"), ("first",), ("second",)], ids="-".join)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_tied_weights_stay_tied(tmp_path, names, device):
    weight = torch.randn(3, 3)
    torch.save({f"{name}.weight": weight for name in names}, tmp_path / "m.pth")
    with torch.device(device):
        model = Tied()
    nl.load_checkpoint(tmp_path / "m.pth", model)
    assert model.first.weight is model.second.weight
    assert torch.equal(model.first.weight, weight)


class WithTable(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("table", torch.arange(3.0), persistent=False)


def test_a_table_that_no_file_holds(tmp_path):
    nl.save_checkpoint(WithTable(), tmp_path / "m.safetensors")
    with torch.device("meta"):
        model = WithTable()
    with pytest.raises(nl.CheckpointError, match=r"has nothing for table, .* make the model in memory"):
        nl.load_checkpoint(tmp_path / "m.safetensors", model)
    assert all(value.is_meta for value in model.state_dict().values())
    assert torch.equal(nl.load_checkpoint(tmp_path / "m.safetensors", WithTable()).table, torch.arange(3.0))


def test_an_image_network_does_not_fill_it(tmp_path):
    torch.save(nl.create_model("resnet50", width=4).state_dict(), tmp_path / "m.pth")
    with torch.device("meta"):
        model = nl.create_model("i3d_r50_8x8", width=4)
    with pytest.raises(nl.CheckpointError, match="make the model in memory, not on the meta device"):
        nl.load_checkpoint(tmp_path / "m.pth", model)


def test_a_layer_without_a_shape(tmp_path):
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "m.pth")
    with pytest.raises(nl.CheckpointError, match="weight of the model has no shape yet: run the model once"):
        nl.load_checkpoint(tmp_path / "m.pth", nn.LazyLinear(3))
