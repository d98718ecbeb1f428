"""What a checkpoint says of its network is enough to make it again, and can do nothing else."""

import functools
import json
import tempfile
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import nonlocalnn as nl
from helpers import randomize_
from nonlocalnn.checkpoints import describe
from nonlocalnn.models.libraries import listed_names

models = pytest.importorskip("torchvision", reason="needs torchvision").models


def with_blocks(model, after, **settings):
    nl.insert_nonlocal_(model, after, **settings)
    for block in nl.nonlocal_blocks(model).values():
        randomize_(block)
        with torch.no_grad():
            block.g.weight.mul_(0.1)  # or numbers grow beyond float32 in what follows
    return model.eval()


def with_head(model, name, num_classes):
    owner, _, child = name.rpartition(".")
    layer = model.get_submodule(name)
    setattr(model.get_submodule(owner), child, nn.Linear(layer.in_features, num_classes))
    return model


def loaded_again(model, path, x):
    """Load what was saved, without naming it, and check that it computes the same with blocks that matter."""
    state = torch.random.get_rng_state()
    nl.save_checkpoint(model, path)
    assert torch.equal(torch.random.get_rng_state(), state)
    again = nl.load_checkpoint(path).eval()
    with torch.no_grad():
        expected = model.eval()(x)
        torch.testing.assert_close(again(x), expected, rtol=0, atol=0)
        for block in nl.nonlocal_blocks(again).values():
            block.W_z.weight.zero_()
        assert not nl.nonlocal_blocks(again) or not torch.allclose(again(x), expected)
    return nl.load_checkpoint(path).config


IMAGE, CLIP = torch.rand(1, 3, 48, 40), torch.rand(1, 3, 4, 32, 32)
BUILT = {
    "resnet18": (lambda: with_blocks(models.resnet18(), ["layer3"]), IMAGE),
    "heads, widths, windows and norms": (
        lambda: with_blocks(
            models.resnet18(),
            ["layer3"],
            num_heads=2,
            value_channels=6,
            pool_size=(1, 3),
            norm="group",
            pre_norm="layer",
        ),
        IMAGE,
    ),
    "a head": (lambda: with_blocks(with_head(models.resnet18(), "fc", 7), ["layer2.1", "layer3"]), IMAGE),
    "vgg11": (lambda: with_blocks(with_head(models.vgg11(), "classifier.6", 3), ["features.18"]), IMAGE),
    "squeezenet1_1": (
        lambda: with_blocks(models.squeezenet1_1(num_classes=3), ["features.7"], example_input=IMAGE),
        IMAGE,
    ),
    "regnet_y_400mf": (
        lambda: with_blocks(
            models.regnet_y_400mf(num_classes=3), ["trunk_output.block3"], example_input=IMAGE
        ),
        IMAGE,
    ),
    "googlenet": (
        lambda: with_blocks(
            models.googlenet(init_weights=False, aux_logits=False, transform_input=True),
            ["inception4a"],
            example_input=IMAGE,
        ),
        IMAGE,
    ),
    "r3d_18": (
        lambda: with_blocks(
            models.video.r3d_18(num_classes=4),
            ["layer3"],
            example_input=CLIP,
            instantiation="dot_product",
            sub_sample="before",
            norm=None,
            inter_channels=5,
            extent="space",
        ),
        CLIP,
    ),
    "without blocks": (lambda: randomize_(models.resnet18(num_classes=4)), IMAGE),
}


@pytest.mark.filterwarnings("ignore:.*init_weights:FutureWarning")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(each, marks=pytest.mark.slow if each in ("vgg11", "r3d_18", "regnet_y_400mf") else ())
        for each in BUILT
    ],
)
def test_networks_of_torchvision(tmp_path, name):
    torch.manual_seed(0)
    make, x = BUILT[name]
    model = make()
    config = loaded_again(model, tmp_path / "model.safetensors", x)
    assert config["library"] == "torchvision"
    assert list(config.get("inserted", {})) == [
        block.removesuffix(".nl") for block in nl.nonlocal_blocks(model)
    ]


OURS = {
    "inserted": lambda: with_blocks(nl.create_model("resnet_tiny", width=4), ["layer3.0", "layer1"]),
    "taken out": lambda: nl.create_model("nl2_resnet_tiny", width=4),
    "another head": lambda: with_head(randomize_(nl.create_model("nl2_resnet_tiny", width=4)), "fc", 3),
}


@pytest.mark.parametrize("name", OURS)
def test_networks_of_ours(tmp_path, name):
    torch.manual_seed(0)
    model = OURS[name]()
    if name == "taken out":
        nl.remove_nonlocal_(model)
        with_blocks(model, ["layer2.0"], instantiation="gaussian")
    config = loaded_again(model, tmp_path / "model.safetensors", IMAGE)
    assert (config["name"], config["overrides"], "library" in config) == (
        "resnet_tiny" if name == "inserted" else "nl2_resnet_tiny",
        {"width": 4},
        False,
    )
    assert config["num_classes"] == (3 if name == "another head" else 10)
    assert config.get("removed", []) == (["layer2.0.nl", "layer3.0.nl"] if name == "taken out" else [])


def test_a_network_that_was_loaded_is_saved_again(tmp_path):
    model = with_blocks(models.resnet18(num_classes=3), ["layer3"])
    loaded_again(model, tmp_path / "first.safetensors", IMAGE)
    again = nl.load_checkpoint(tmp_path / "first.safetensors")
    nl.remove_nonlocal_(again)
    assert "inserted" not in loaded_again(again, tmp_path / "second.safetensors", IMAGE)


def test_files_of_networks_by_name_are_as_before(tmp_path):
    """What older versions read: nothing is added where nothing was inserted."""
    nl.save_checkpoint(nl.create_model("nl_digits", instantiation="gaussian"), tmp_path / "a.safetensors")
    config = nl.load_checkpoint(tmp_path / "a.safetensors").config
    assert config == {"name": "nl_digits", "num_classes": 10, "overrides": {"instantiation": "gaussian"}}


def gelu():
    model = models.resnet18()
    model.relu = nn.GELU()
    return model


class OwnResNet(models.ResNet):
    """Of a user: nobody knows what its forward pass computes."""


CHANGED = {
    "another activation": gelu,
    "dilated": lambda: models.resnet50(replace_stride_with_dilation=[False, False, True]),
    "inside another": lambda: nn.Sequential(models.resnet18()),
    "a head of two layers": lambda: with_two_layers(models.resnet18()),
    "another class": lambda: OwnResNet(models.resnet.BasicBlock, [2, 2, 2, 2]),
    "for detection": lambda: models.detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None
    ),
    "a user's own": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nl.NonLocal2d(8)),
}


def with_two_layers(model):
    model.fc = nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 3))
    return model


@pytest.mark.parametrize("name", CHANGED)
def test_what_would_be_another_network_is_not_described(tmp_path, name):
    """Its weights are saved alone, and loading says what to do."""
    model = CHANGED[name]()
    assert describe(model) is None
    # A classifier of torchvision is one that people expect the commands to take; of others nobody says so.
    says = "will load into a model that you give only: the ResNet was changed by more than blocks"
    of_library = ("another activation", "dilated", "a head of two layers")
    with pytest.warns(UserWarning, match=says) if name in of_library else nullcontext():
        nl.save_checkpoint(model, tmp_path / "model.safetensors")
    with pytest.raises(nl.CheckpointError, match="give load_checkpoint the model as well") as caught:
        nl.load_checkpoint(tmp_path / "model.safetensors")
    assert "\n" not in str(caught.value)
    # What to type on the command line, where no model can be given.
    assert f"--start-from {tmp_path / 'model.safetensors'}" in str(caught.value)
    nl.load_checkpoint(tmp_path / "model.safetensors", model)


def test_dropout_is_no_other_network():
    model = models.vgg11(dropout=0.1)
    model.classifier[2].p = 0.9
    assert describe(model).name == "vgg11"


@functools.cache
def weights_and_config():
    """What a file of resnet18 with a block holds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        nl.save_checkpoint(with_blocks(models.resnet18(num_classes=3), ["layer3"]), path)
        return load_file(path), nl.load_checkpoint(path).config


def rewritten(tmp_path, **changes):
    """Write a file of resnet18 whose description has other parts."""
    path = tmp_path / "model.safetensors"
    weights, config = weights_and_config()
    save_file(weights, path, metadata={"format": "nonlocalnn", "config": json.dumps({**config, **changes})})
    return path


BLOCK = {"num_sides": 2, "in_channels": 256}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"library": "os"}, "library must be one of 'nonlocalnn', 'torchvision', 'timm'; got 'os'"),
        ({"library": ["timm"]}, "library must be a name"),
        ({"name": "system"}, "a network of torchvision must be one of"),
        ({"name": "fasterrcnn_resnet50_fpn"}, "a network of torchvision must be one of"),
        ({"name": ["resnet18"]}, "a network of torchvision must be one of"),
        ({"overrides": {"weights": "DEFAULT"}}, "a setting of torchvision must be one of"),
        ({"overrides": {"transform_input": "x"}}, "transform_input must be one of True, False"),
        ({"overrides": []}, "must be objects of settings"),
        ({"num_classes": 10**12}, "num_classes must be a whole number"),
        ({"num_classes": "3"}, "num_classes must be a whole number"),
        ({"inserted": ["layer3"]}, "must be objects of settings"),
        ({"inserted": {"layer3": 1}}, "must be objects of settings"),
        ({"inserted": {"layer9": BLOCK}}, "a module that a block follows must be one of"),
        ({"inserted": {"layer3": {"num_sides": 4}}}, "num_sides must be one of 1, 2, 3; got 4"),
        ({"inserted": {"layer3": {"num_sides": 2}}}, "in_channels"),
        ({"inserted": {"layer3": {**BLOCK, "code": "x"}}}, "unexpected keyword argument 'code'"),
        ({"inserted": {"layer3": {**BLOCK, "instantiation": "x"}}}, "instantiation must be one of"),
        ({"removed": "layer3.nl"}, "removed must be a list"),
        ({"removed": ["layer3.nl"]}, "no non-local block that can be taken out"),
        ({"more": 1}, "unexpected keyword argument 'more'"),
        ({"name": "resnet34"}, "does not fit ResNet: missing keys"),
        ({"inserted": {}}, "does not fit ResNet: unexpected keys: layer3.nl"),
        ({"inserted": {"layer3": {**BLOCK, "inter_channels": 2**20}}}, "mis-shaped keys"),
    ],
    ids=str,
)
def test_a_description_can_only_choose(tmp_path, changes, says):
    with pytest.raises(nl.CheckpointError, match=says) as caught:
        nl.load_checkpoint(rewritten(tmp_path, **changes))
    assert "\n" not in str(caught.value)


def test_a_library_that_is_not_there(tmp_path, monkeypatch):
    path = rewritten(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "torchvision", None)
    with pytest.raises(ImportError, match=r"model\.safetensors cannot be loaded: .*pip install torchvision"):
        nl.load_checkpoint(path)


def test_a_name_of_torchvision_is_that_of_a_classifier_or_of_segmentation():
    names = listed_names("torchvision")
    assert {"resnet18", "r3d_18", "fcn_resnet50"} < set(names)
    assert not [name for name in names if "rcnn" in name or "quantized" in name]


@pytest.mark.parametrize("channels", [3, 1])
def test_networks_of_timm(tmp_path, channels):
    timm = pytest.importorskip("timm", reason="needs timm")
    x = torch.rand(1, channels, 64, 64)
    model = timm.create_model("resnet18.a1_in1k", num_classes=5, in_chans=channels)
    model = with_blocks(model, ["layer3"], example_input=x)
    config = loaded_again(model, tmp_path / "model.safetensors", x)
    overrides = {} if channels == 3 else {"in_chans": 1}
    assert (config["library"], config["name"], config["overrides"]) == ("timm", "resnet18.a1_in1k", overrides)
    loaded = nl.load_classifier(tmp_path / "model.safetensors")
    assert loaded.sample_shape == (channels, 224, 224)
    expected = [255 * value for value in model.pretrained_cfg["mean"]]
    assert loaded.mean == (pytest.approx(expected) if channels == 3 else pytest.approx(sum(expected) / 3))


def test_timm_makes_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("timm", reason="needs timm")
    for name in ("hf_hub:timm/resnet18.a1_in1k", "local-dir:/tmp", "resnet18.none"):
        with pytest.raises(nl.CheckpointError, match="a network of timm must be one of"):
            nl.load_checkpoint(rewritten(tmp_path, library="timm", name=name))
