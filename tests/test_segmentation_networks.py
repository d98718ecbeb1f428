"""Segmentation networks: sizes, the published head, dilation, and their checkpoints."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import nonlocalnn as nl
from helpers import randomize_
from nonlocalnn.models import SegmentationNetwork, model_input, model_task
from nonlocalnn.models.bottleneck import Bottleneck
from nonlocalnn.train.initial_weights import start_from_
from tolerances import NETWORK, assert_near, assert_same

NAMES = [
    name for name in nl.list_models() if (model_task(name), model_input(name)) == ("segmentation", "image")
]
SMALL = {"depth": (1, 1, 2, 2), "width": 8, "channels": 16}


def test_names():
    assert [
        *("fcn_d6_r50", "fcn_d6_tiny", "fcn_r101", "fcn_r50", "fcn_tiny"),
        *("nl_fcn_r101", "nl_fcn_r50", "nl_fcn_tiny"),
    ] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_each_name_gives_each_pixel_scores(name):
    with torch.device("meta"):
        model = nl.create_model(name, num_classes=5).eval()
        assert model(torch.zeros(2, 3, 65, 97)).shape == (2, 5, 65, 97)


def numbers(module):
    return sum(each.numel() for each in module.parameters())


def test_the_head_is_the_published_one():
    """Counted from mmsegmentation's description: FCNHead and NLHead over 2048 channels, 512 inside."""
    conv1 = 2048 * 512 * 9 + 2 * 512
    conv2 = 512 * 512 * 9 + 2 * 512
    fuse = (2048 + 512) * 512 * 9 + 2 * 512
    scores = 512 * 19 + 19
    block = 3 * (512 * 256 + 256) + 256 * 512 + 2 * 512
    with torch.device("meta"):
        plain, with_block = nl.create_model("fcn_r50"), nl.create_model("nl_fcn_r50")
    assert numbers(plain.head) == conv1 + conv2 + fuse + scores
    # Ours has a bias in W_z, 512 more.
    assert numbers(with_block.head) == numbers(plain.head) + block + 512
    assert numbers(plain.auxiliary) == 1024 * 256 * 9 + 2 * 256 + 256 * 19 + 19
    body = numbers(plain) - numbers(plain.head) - numbers(plain.auxiliary)
    # ResNet-50 without its last layer.
    assert body == 25_557_032 - (2048 * 1000 + 1000)
    assert with_block.head.nl.scale == 256**-0.5
    assert with_block.head.nl.sub_sample is None


def test_the_small_networks_differ_in_their_context_alone():
    plain, wide, block = (nl.create_model(name) for name in ("fcn_tiny", "fcn_d6_tiny", "nl_fcn_tiny"))
    assert numbers(block) == numbers(plain) + numbers(block.head.nl) == 171_979
    # The control has more parameters than the network with a block.
    assert numbers(wide) == numbers(plain) + 64 * 64 * 9 + 2 * 64 > numbers(block)
    assert {key for key in block.state_dict() if ".nl." not in key} == set(plain.state_dict())


def test_the_head_computes_what_it_says():
    head = randomize_(SegmentationNetwork(num_classes=3, **SMALL)).double().eval().head
    x = torch.randn(2, 256, 5, 7, dtype=torch.float64)

    def unit(layers, x):
        conv, norm, _ = layers
        return F.relu(norm(F.conv2d(x, conv.weight, padding=1)))

    y = unit(head.conv2, head.nl(unit(head.conv1, x)))
    z = unit(head.fuse, torch.cat([x, y], 1))
    assert_near(head(x), F.conv2d(z, head.scores.weight, head.scores.bias), sums=NETWORK)


@pytest.mark.parametrize(("stride", "sides"), [(8, (9, 13)), (16, (5, 7)), (32, (3, 4))])
def test_the_stride_of_the_last_map(stride, sides):
    model = SegmentationNetwork(num_classes=3, output_stride=stride, **SMALL).eval()
    maps = {}
    model.layer4.register_forward_hook(lambda *found: maps.update(last=found[-1]))
    model(torch.randn(1, 3, 67, 100))
    assert maps["last"].shape[2:] == sides


def test_dilated_stages_compute_what_strides_skip():
    """At every second place a dilated network sees what the one with strides does."""
    with_strides = randomize_(SegmentationNetwork(num_classes=3, output_stride=32, **SMALL)).double().eval()
    dilated = SegmentationNetwork(num_classes=3, output_stride=8, **SMALL).double().eval()
    dilated.load_state_dict(with_strides.state_dict())
    dilations = [
        each.conv2.dilation[0]
        for stage in (dilated.layer3, dilated.layer4)
        for each in stage
        if isinstance(each, Bottleneck)
    ]
    assert dilations == [1, 2, 2, 4]
    x = torch.randn(1, 64, 16, 16, dtype=torch.float64)
    one, other = (model.layer4(model.layer3(x)) for model in (with_strides, dilated))
    assert_near(other[:, :, ::4, ::4], one, sums=NETWORK)


def test_training_has_a_second_head_and_eval_has_not():
    model = SegmentationNetwork(num_classes=3, **SMALL)
    x = torch.randn(2, 3, 40, 56)
    found = model.train()(x)
    assert {name: part.shape for name, part in found.items()} == {
        "out": (2, 3, 40, 56),
        "aux": (2, 3, 40, 56),
    }
    (found["out"].sum() + found["aux"].sum()).backward()
    # Each parameter has a gradient, as training in several processes asks for.
    assert all(each.grad is not None for each in model.parameters())
    assert model.eval()(x).shape == (2, 3, 40, 56)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"context": "nonlocal"}, "did you mean 'non_local'"),
        ({"output_stride": 4}, "output_stride must be one of 8, 16, 32"),
        ({"small": True}, "no second head"),
        ({"channels": 0}, "channels must be a whole number"),
        ({"dilation": 0}, "dilation must be a whole number"),
    ],
)
def test_settings_that_do_not_fit(settings, says):
    with pytest.raises(ValueError, match=says):
        SegmentationNetwork(**{**SMALL, **settings})


def test_a_file_builds_the_network_again(tmp_path):
    model = nl.create_model("nl_fcn_tiny", num_classes=4, instantiation="dot_product").eval()
    randomize_(model)
    nl.save_checkpoint(model, tmp_path / "a.safetensors")
    again = nl.load_checkpoint(tmp_path / "a.safetensors").eval()
    assert again.config == model.config
    assert again.head.nl.instantiation == "dot_product"
    x = torch.randn(1, 3, 40, 56)
    assert_same(again(x), model(x))


def test_it_starts_from_a_body_of_imagenet(tmp_path):
    """torchvision's names are ours; what classifies is left out, and the heads keep their own weights."""
    from torchvision.models import ResNet
    from torchvision.models.resnet import Bottleneck as TheirBottleneck

    theirs = ResNet(TheirBottleneck, [3, 4, 6, 3], num_classes=7)
    torch.save(theirs.state_dict(), tmp_path / "resnet50.pth")
    model = nl.create_model("nl_fcn_r50", num_classes=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kept = start_from_(model, tmp_path / "resnet50.pth")
    assert all(name.startswith(("head.", "auxiliary.")) for name in kept)
    assert_same(model.layer4[2].conv3.weight, theirs.layer4[2].conv3.weight)
    assert_same(model.head.conv1[0].weight, before["head.conv1.0.weight"])
    theirs.layer4 = nn.Identity()
    torch.save(theirs.state_dict(), tmp_path / "cut.pth")
    with pytest.raises(nl.CheckpointError, match="is of another network: it lacks layer4"):
        start_from_(model, tmp_path / "cut.pth")


def test_it_starts_from_itself_with_other_classes(tmp_path):
    first = randomize_(nl.create_model("nl_fcn_tiny", num_classes=4))
    nl.save_checkpoint(first, tmp_path / "a.safetensors")
    model = nl.create_model("nl_fcn_tiny", num_classes=6)
    assert start_from_(model, tmp_path / "a.safetensors") == ["head.scores.weight", "head.scores.bias"]
    assert_same(model.head.nl.theta.weight, first.head.nl.theta.weight)
