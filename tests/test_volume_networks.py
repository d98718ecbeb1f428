"""Networks of volumes: three sides alike, and a block that sees all of the deepest level."""

import pytest
import torch
from torch import nn

import nonlocalnn as nl
from helpers import randomize_
from nonlocalnn.models import create_model, list_models, model_input, model_task
from nonlocalnn.models.unet import UNet3d
from tolerances import NETWORK, assert_near, assert_same

SIDES = (16, 20, 24)


def test_names():
    names = [name for name in list_models() if model_input(name) == "volume"]
    classifiers = {name for name in names if model_task(name) == "classification"}
    assert classifiers == {f"{nl2}resnet3d_{size}" for nl2 in ("", "nl2_") for size in ("tiny", "18", "50")}
    assert set(names) - classifiers == {f"{nl}unet3d{size}" for nl in ("", "nl_") for size in ("", "_tiny")}
    assert [model_input(name) for name in ("nl2_c2d_tiny", "nl2_resnet_tiny", "resnet1d_18", "fcn_tiny")] == [
        "video",
        "image",
        "sequence",
        "image",
    ]


@pytest.mark.parametrize("name", ["nl2_resnet3d_tiny", "resnet3d_18"])
def test_all_axes_are_strided_alike(name):
    torch.manual_seed(0)
    settings = {} if name.endswith("tiny") else {"width": 4}
    model = create_model(name, num_classes=3, **settings).eval()
    sides = []
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        stage.register_forward_hook(lambda _, __, found: sides.append(tuple(found.shape[2:])))
    x = torch.randn(2, 1, 32, 32, 32)
    assert model(x).shape == (2, 3)
    first = 16 if name.endswith("tiny") else 8
    assert sides == [(first // 2**stage,) * 3 for stage in range(4)]
    # Nothing tells one axis from another but the weights: kernels and strides are cubes.
    for layer in model.modules():
        if isinstance(layer, nn.Conv3d | nn.MaxPool3d):
            for setting in (layer.kernel_size, layer.stride, layer.padding):
                assert len(set(setting if isinstance(setting, tuple) else (setting,))) == 1


def test_turning_the_weights_turns_the_input():
    # With each kernel turned as the volume is, scores stay: no axis is time.
    torch.manual_seed(0)
    model = create_model("nl2_resnet3d_tiny", num_classes=4).double().eval()
    randomize_(model)
    x = torch.randn(1, 1, *SIDES, dtype=torch.float64)
    expected = model(x)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Conv3d):
                layer.weight.copy_(layer.weight.permute(0, 1, 4, 2, 3).clone())
    assert_near(model(x.permute(0, 1, 4, 2, 3)), expected, sums=NETWORK)


def test_weights_of_a_thin_volume_are_taken():
    model = create_model("resnet3d_tiny").eval()
    assert model(torch.randn(1, 1, 1, 9, 9)).shape == (1, 10)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"num_sides": 2}, "is_volume needs num_sides=3"),
        ({"inflation": "3x1x1"}, "a volume has no time"),
        ({"halves_time_early": True, "small_stem": False}, "a volume has no time"),
    ],
)
def test_settings_of_video_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        create_model("resnet3d_tiny", **settings)


@pytest.mark.parametrize("context", ["non_local", None])
@pytest.mark.parametrize("sides", [SIDES, (9, 11, 13), (1, 1, 17)], ids=str)
def test_a_u_net_takes_any_size(context, sides):
    torch.manual_seed(0)
    model = UNet3d(num_classes=3, in_channels=2, width=4, depth=3, context=context).eval()
    assert model(torch.randn(2, 2, *sides)).shape == (2, 3, *sides)


def test_keys_of_a_u_net():
    state = UNet3d(num_classes=3, width=4, depth=2).state_dict()
    assert list(state)[:2] == ["first.0.weight", "first.1.weight"]
    parts = {key.split(".")[0] for key in state}
    assert parts == {"first", "down", "nl", "up", "scores"}
    without = UNet3d(num_classes=3, width=4, depth=2, context=None).state_dict()
    assert set(without) == {key for key in state if not key.startswith("nl.")}


def test_the_block_sees_the_whole():
    # What changes at one corner reaches the other one through the block alone.
    torch.manual_seed(0)
    x = torch.randn(1, 1, 64, 16, 16)
    other = x.clone()
    other[..., :8, :, :] += 1
    changes = {}
    for context in ("non_local", None):
        model = UNet3d(num_classes=2, width=4, depth=2, context=context).eval()
        randomize_(model)
        # Statistics of instance norms are of the whole volume, too; here they are left out.
        for name, layer in list(model.named_modules()):
            if isinstance(layer, nn.GroupNorm):
                owner, _, last = name.rpartition(".")
                setattr(model.get_submodule(owner), last, nn.Identity())
        difference = model(other) - model(x)
        difference = difference.detach()
        changes[context] = float(difference[..., -4:, :, :].abs().max() / difference.abs().max())
    assert changes[None] == 0
    assert changes["non_local"] > 0


def test_where_the_positions_lie():
    model = create_model("nl_unet3d_tiny").eval()
    with nl.capture_affinity(model) as maps:
        model(torch.randn(1, 1, *SIDES))
    grid = maps["nl"].grid
    assert (grid.sides, grid.steps) == ((2, 3, 3), (8.0, 8.0, 8.0))


@pytest.mark.parametrize("how", ["fx", pytest.param("export", marks=pytest.mark.slow)])
def test_graphs(how):
    torch.manual_seed(0)
    model = create_model("nl_unet3d_tiny", width=4).eval()
    x = torch.randn(1, 1, *SIDES)
    graph = torch.fx.symbolic_trace(model) if how == "fx" else torch.export.export(model, (x,)).module()
    assert_near(graph(x), model(x), sums=NETWORK)


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (torch.zeros(1, 1, 9, 9), r"the network takes \(B, C, D, H, W\)"),
        (torch.zeros(1, 1, 8, 8, 8), "must have more than 8 voxels along an axis"),
    ],
)
def test_inputs_that_are_refused(x, says):
    with pytest.raises(ValueError, match=says):
        create_model("unet3d_tiny")(x)


def test_it_is_saved_and_loaded(tmp_path):
    torch.manual_seed(0)
    for name in ("nl_unet3d_tiny", "nl2_resnet3d_tiny"):
        model = create_model(name, num_classes=3, in_channels=2).eval()
        nl.save_checkpoint(model, tmp_path / "a.safetensors")
        again = nl.load_checkpoint(tmp_path / "a.safetensors").eval()
        x = torch.randn(1, 2, *SIDES)
        assert_same(again(x), model(x))


def test_a_block_is_inserted_into_monais_u_net():
    monai = pytest.importorskip("monai.networks.nets", reason="monai is not installed")
    torch.manual_seed(0)
    model = monai.UNet(
        spatial_dims=3, in_channels=1, out_channels=2, channels=(4, 8, 16), strides=(2, 2), num_res_units=1
    ).eval()
    x = torch.randn(1, 1, *SIDES)
    expected = model(x)
    inner = "model.1.submodule.1.submodule"
    nl.insert_nonlocal_(model, after=inner, example_input=x)
    assert_same(model(x), expected)
    randomize_(model)
    with nl.capture_affinity(model) as maps:
        assert model(x).shape == expected.shape
    (found,) = maps.values()
    assert (found.grid.sides, found.grid.steps) == ((4, 5, 6), (4.0, 4.0, 4.0))
