"""Which files are of image networks and fill video networks, and what such files leave as it was."""

import warnings

import pytest
import torch
from torch import nn

import nonlocalnn as nl


class Mixed(nn.Module):
    """A network of images with a layer of clips further on, and a buffer of five sides."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.volume = nn.Conv3d(1, 2, 3)
        self.norm = nn.BatchNorm2d(4)
        self.register_buffer("grid", torch.randn(1, 1, 1, 2, 2))
        self.fc = nn.Linear(2, 3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda state: [state.pop(key) for key in ("fc.weight", "fc.bias")], "missing keys: fc.weight"),
        (
            lambda state: state.update({"fc.bias": torch.ones(9)}),
            r"mis-shaped keys: fc.bias \(9,\) for \(3,\)",
        ),
    ],
    ids=["missing", "mis-shaped"],
)
def test_a_network_of_images_gets_all_or_nothing(tmp_path, change, says):
    state = Mixed().state_dict()
    change(state)
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(nl.CheckpointError, match=says):
        nl.load_checkpoint(tmp_path / "a.pth", Mixed())


def test_a_network_of_images_with_layers_of_clips_is_loaded(tmp_path):
    model = Mixed()
    model.norm.num_batches_tracked.fill_(7)
    torch.save(model.state_dict(), tmp_path / "a.pth")
    again = nl.load_checkpoint(tmp_path / "a.pth", Mixed())
    assert again.norm.num_batches_tracked == 7
    assert torch.equal(again.fc.weight, model.fc.weight)


WRAPPED = {
    "plain": lambda state: state,
    "module": lambda state: {f"module.{key}": value for key, value in state.items()},
    "lightning": lambda state: {"state_dict": {f"model.{key}": value for key, value in state.items()}},
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("outer", [lambda model: model, nn.DataParallel], ids=["bare", "parallel"])
def test_words_of_wrappers_before_images(tmp_path, wrap, outer):
    image = nl.create_model("resnet50", width=4)
    torch.save(wrap(image.state_dict()), tmp_path / "a.pth")
    video = nl.create_model("nl1_i3d_r50_8x8", width=4, num_classes=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # only blocks are new
        nl.load_checkpoint(tmp_path / "a.pth", outer(video))
    expected = image.conv1.weight.unsqueeze(2).expand(-1, -1, 5, -1, -1) / 5
    assert torch.equal(video.conv1.weight, expected)
    assert torch.equal(video.fc.weight, image.fc.weight)


def test_a_last_layer_that_stays_random_is_said(tmp_path):
    torch.save(nl.create_model("resnet50", width=4).state_dict(), tmp_path / "a.pth")
    video = nl.create_model("nl1_i3d_r50_8x8", width=4, num_classes=7)
    before = video.fc.weight.clone()
    with pytest.warns(UserWarning, match=r"a\.pth: .* stay as they were: fc\.weight, fc\.bias$"):
        nl.load_checkpoint(tmp_path / "a.pth", video)
    assert torch.equal(video.fc.weight, before)


@pytest.mark.parametrize("problem", ["whole numbers", "too large", "cannot be written to"])
def test_images_fill_a_video_network_or_leave_it_as_it_is(tmp_path, problem):
    state = nl.create_model("resnet50", width=4, num_classes=7).state_dict()
    video = nl.create_model("i3d_r50_8x8", width=4, num_classes=7)
    if problem == "whole numbers":
        state["fc.bias"] = state["fc.bias"].to(torch.int8)
    elif problem == "too large":
        state["fc.bias"] = state["fc.bias"].double() + 1e300
    else:
        video.fc.bias = nn.Parameter(torch.zeros(1).expand(7))
    torch.save(state, tmp_path / "a.pth")
    before = {key: value.clone() for key, value in video.state_dict().items()}
    with pytest.raises(nl.CheckpointError, match=problem):
        nl.load_checkpoint(tmp_path / "a.pth", video)
    assert all(torch.equal(value, before[key]) for key, value in video.state_dict().items())
