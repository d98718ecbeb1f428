"""Blocks in networks that others wrote: the same outputs and keys at first, and blocks that learn."""

import copy
import pickle

import pytest
import torch
import torch.distributed as dist
from torch import nn

import nonlocalnn as nl
from foreign_networks import small_resnet, timm_network, torchvision_network
from nonlocalnn.blocks import nonlocal_blocks
from nonlocalnn.functional.norms import name_of
from nonlocalnn.models import ResidualNetwork
from nonlocalnn.models.bottleneck import FrozenNorm
from nonlocalnn.surgery.insertion import (
    insert_again_,
    insert_nonlocal_,
    inserted_settings,
    remove_nonlocal_,
    sites,
)
from tolerances import NETWORK, assert_near

IMAGE, CLIP = (2, 3, 64, 48), (2, 3, 4, 32, 24)
# How the network is made, after which modules, their full names, and the shape of an input.
NETWORKS = {
    "resnet18": (
        lambda: torchvision_network("resnet18"),
        ["layer2.1", "layer3"],
        ["layer2.1", "layer3"],
        IMAGE,
    ),
    "resnet50": (
        lambda: torchvision_network("resnet50"),
        sites("resnet50", "paper-5"),
        ["layer2.1", "layer2.3", "layer3.1", "layer3.3", "layer3.5"],
        IMAGE,
    ),
    "r3d_18": (
        lambda: torchvision_network("r3d_18", "video"),
        ["layer2.1", "stem"],
        ["stem", "layer2.1"],
        CLIP,
    ),
    "fcn_resnet50": (
        lambda: torchvision_network("fcn_resnet50", "segmentation", weights_backbone=None),
        ["layer3.4"],
        ["backbone.layer3.4"],
        IMAGE,
    ),
    "timm-resnet50": (lambda: timm_network("resnet50"), ["layer3.4"], ["layer3.4"], IMAGE),
    "convnext_tiny": (
        lambda: timm_network("convnext_tiny"),
        ["stages.1", "stages.2.blocks.3"],
        ["stages.1", "stages.2.blocks.3"],
        IMAGE,
    ),
    "efficientnet_b0": (
        lambda: timm_network("efficientnet_b0"),
        ["blocks.2", "blocks.4.1"],
        ["blocks.2", "blocks.4.1"],
        IMAGE,
    ),
    "regnety_008": (lambda: timm_network("regnety_008"), r"s3\.b[24]", ["s3.b2", "s3.b4"], IMAGE),
}
every_network = pytest.mark.parametrize("name", NETWORKS)


def _scores(output):
    return output["out"] if isinstance(output, dict) else output


def _open_gates_(model):
    """Let the blocks matter, but not so much that what follows them overflows."""
    for block in nonlocal_blocks(model).values():
        last = block.W_z if block.norm is None else block.norm
        nn.init.normal_(last.weight, std=0.3)
    return model


@every_network
def test_outputs_and_keys_stay(name):
    make, after, expected_sites, shape = NETWORKS[name]
    model, x = make().eval(), torch.rand(shape)
    plain = copy.deepcopy(model.state_dict())
    before = _scores(model(x))
    report = insert_nonlocal_(model, after, example_input=x)
    assert [block.site for block in report.blocks] == expected_sites
    assert list(nonlocal_blocks(model)) == [f"{site}.nl" for site in expected_sites]
    assert torch.equal(_scores(model(x)), before)

    keys = set(model.state_dict())
    assert set(plain) < keys
    loaded = model.load_state_dict(plain, strict=False)
    # PyTorch does not call a norm's count of batches missing.
    missing = {key for key in keys - set(plain) if not key.endswith("num_batches_tracked")}
    assert set(loaded.missing_keys) == missing
    assert loaded.unexpected_keys == []
    assert all(any(key.startswith(f"{site}.nl.") for site in expected_sites) for key in loaded.missing_keys)

    after_blocks = _scores(_open_gates_(model)(x))
    assert not torch.allclose(after_blocks, before)
    assert remove_nonlocal_(model) == [f"{site}.nl" for site in expected_sites]
    assert list(model.state_dict()) == list(plain)
    assert torch.equal(_scores(model(x)), before)
    assert not any("WithNonLocal" in type(module).__name__ for module in model.modules())


@pytest.mark.parametrize(
    "name",
    [pytest.param(each, marks=pytest.mark.slow if each == "fcn_resnet50" else ()) for each in NETWORKS],
)
def test_gradients_reach_the_gate_then_all_else(name):
    make, after, _, shape = NETWORKS[name]
    model, x = make().train(), torch.rand(shape)
    # Unscaled logits of wide random maps make the softmax one-hot, and its gradients vanish.
    insert_nonlocal_(model, after, example_input=x, norm=None, use_scale=True)
    optimizer = torch.optim.SGD(nl.param_groups(model, lr=1e-3))
    moved = []
    for _ in range(2):
        optimizer.zero_grad()
        _scores(model(x)).square().sum().backward()
        moved.append(
            [
                {part for part in ("theta", "phi", "g", "W_z") if getattr(block, part).weight.grad.any()}
                for block in nonlocal_blocks(model).values()
            ]
        )
        optimizer.step()
    assert all(parts == {"W_z"} for parts in moved[0])
    assert all(parts == {"theta", "phi", "g", "W_z"} for parts in moved[1])
    nl.assert_trained(model)


def test_detection():
    model = torchvision_network(
        "maskrcnn_resnet50_fpn",
        "detection",
        weights_backbone=None,
        min_size=64,
        max_size=64,
        rpn_post_nms_top_n_test=20,
        box_score_thresh=0.0,
        box_detections_per_img=5,
    ).eval()
    images, keys = [torch.rand(3, 64, 56)], list(model.state_dict())
    before = model(images)[0]
    report = insert_nonlocal_(model, ["layer3.4"], example_input=images, norm=None)
    assert report.blocks[0].name == "backbone.body.layer3.4.nl"
    after = model(images)[0]
    assert len(before["scores"]) == 5
    assert all(torch.equal(after[part], before[part]) for part in ("boxes", "scores", "labels", "masks"))
    assert set(keys) < set(model.state_dict())
    model.backbone(images[0][None])["0"].sum()
    model.backbone(torch.rand(1, 3, 64, 64))["2"].sum().backward()
    assert nonlocal_blocks(model)["backbone.body.layer3.4.nl"].W_z.weight.grad.any()
    # A layer that runs on five maps, one after another.
    report = insert_nonlocal_(model, ["rpn.head.conv.0.0"], example_input=images)
    one_map = nl.cost(nl.NonLocal2d(256), report.blocks[0].input_shape).flops
    assert one_map < report.flops < 1.5 * one_map
    remove_nonlocal_(model)
    assert list(model.state_dict()) == keys


def test_the_report_counts_as_cost_does():
    model, x = small_resnet(after=())
    before = nl.cost(model, tuple(x.shape))
    report = insert_nonlocal_(model, ["layer2.0", "layer3"], example_input=x)
    after = nl.cost(model, tuple(x.shape))
    assert report.num_parameters == after.num_parameters - before.num_parameters
    assert report.flops == after.flops - before.flops
    first = report.blocks[0]
    assert (first.input_shape, first.num_queries, first.num_keys) == ((2, 512, 8, 6), 48, 12)
    assert (first.in_channels, first.inter_channels) == (512, 256)
    lines = str(report).splitlines()
    assert len(lines) == 4
    for cell in ("layer2.0", "layer2.0.nl (embedded_gaussian)", "2x512x8x6", "48", "12", "512", "256"):
        assert f" {cell} " in f" {lines[1]} "
    assert f"{report.num_parameters:,}" in lines[-1]
    assert f"{report.flops / 1e6:,.3f}" in lines[-1]


def test_the_report_names_blocks_that_see_a_single_key():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=8), nn.Conv2d(8, 8, 1, stride=2))
    report = insert_nonlocal_(model, ["0", "1"], example_input=torch.randn(1, 3, 32, 32))
    assert [block.num_keys for block in report.blocks] == [4, 1]
    single = [line for line in str(report).splitlines() if "single key" in line]
    assert len(single) == 1
    assert single[0].startswith(f"{report.blocks[1].name} sees a single key")


def test_without_an_example_positions_are_unknown():
    model, _ = small_resnet(after=())
    report = insert_nonlocal_(model, ["layer2.0"])
    assert report.blocks[0].in_channels == 512
    assert report.flops is report.blocks[0].input_shape is report.blocks[0].num_queries is None
    assert str(report).splitlines()[1].split().count("-") == 4


def test_our_own_bottlenecks_and_blocks():
    model = ResidualNetwork(num_sides=2, depth=(1, 2, 1, 1), width=4, blocks={"layer2": [0]}).eval()
    x, keys = torch.rand(1, 3, 40, 36), list(model.state_dict())
    before = model(x)
    with pytest.raises(ValueError, match=r"'layer2\.0' has a non-local block already: layer2\.0\.nl"):
        insert_nonlocal_(model, ["layer2.0"])
    insert_nonlocal_(model, ["layer2.1"])
    assert torch.equal(model(x), before)
    assert type(model.layer2[1]) is type(model.layer2[0])
    assert remove_nonlocal_(model, ["layer2.1.nl"]) == ["layer2.1.nl"]
    assert list(model.state_dict()) == keys
    assert model.layer2[1].nl is None
    assert remove_nonlocal_(model) == ["layer2.0.nl"]
    assert not nonlocal_blocks(model)
    model(x)


def test_settings_are_those_of_the_block():
    model, _ = small_resnet(after=())
    insert_nonlocal_(
        model,
        ["layer2.0"],
        inter_channels=5,
        instantiation="dot_product",
        sub_sample="before",
        norm=None,
        zero_init=False,
    )
    block = model.layer2[0].nl
    settings = (block.inter_channels, block.instantiation, block.sub_sample, block.norm, block.zero_init)
    assert settings == (5, "dot_product", "before", None, False)
    assert nl.NonLocal2d(512, inter_channels=5).theta.weight.shape == block.theta.weight.shape
    with pytest.raises(ValueError, match="extent is a setting of NonLocal3d"):
        insert_nonlocal_(model, ["layer3"], extent="time")
    with pytest.raises(ValueError, match="use_scale"):
        insert_nonlocal_(model, ["layer3"], instantiation="dot_product", use_scale=True)
    clips = ResidualNetwork(depth=(1, 1, 1, 1), width=4)
    with pytest.raises(ValueError, match="multiple"):
        insert_nonlocal_(clips, ["layer2.0"], example_input=torch.rand(1, 3, 6, 32, 32), extent=2)
    assert list(nonlocal_blocks(model)) == ["layer2.0.nl"]


def test_device_type_and_mode_are_those_of_the_site():
    model, _ = small_resnet(after=())
    model.to(torch.bfloat16)
    model.layer2.to("meta").train()
    insert_nonlocal_(model, ["layer2.0", "layer3.1"])
    first, second = nonlocal_blocks(model).values()
    assert (first.g.weight.device.type, second.g.weight.device.type) == ("meta", "cpu")
    assert first.g.weight.dtype == second.norm.running_mean.dtype == torch.bfloat16
    assert (first.training, first.norm.training, second.training) == (True, True, False)


@pytest.mark.parametrize("site", ["layer3.1", "layer3", "layer3.1.conv2"])
def test_twice_is_an_error(site):
    model, _ = small_resnet(after=[site])
    with pytest.raises(ValueError, match=f"'{site}' has a non-local block already: {site}.nl"):
        insert_nonlocal_(model, [site])
    insert_nonlocal_(model, ["layer2"])


def test_removing():
    model, x = small_resnet(after=["layer2.0", "layer3"])
    with pytest.raises(ValueError, match=r"one of 'layer2\.0\.nl', 'layer3\.nl'; got 'layer2\.0'"):
        remove_nonlocal_(model, ["layer3.nl", "layer2.0"])
    assert remove_nonlocal_(model, ["layer3.nl"]) == ["layer3.nl"]
    assert list(nonlocal_blocks(model)) == ["layer2.0.nl"]
    assert len(model.layer3) == 2
    remove_nonlocal_(model)
    with pytest.raises(ValueError, match="no non-local block that can be taken out"):
        remove_nonlocal_(model)
    with pytest.raises(ValueError, match="no non-local block that can be taken out"):
        remove_nonlocal_(nl.create_model("nl_digits"))
    insert_nonlocal_(model, ["layer2.0"])
    model(x)


@pytest.fixture(scope="module")
def opened():
    """A network with a block after a bottleneck, one in a sequence and one after a layer; they matter."""
    torch.manual_seed(0)
    model, x = small_resnet(after=["layer2.0", "layer3", "layer3.0.conv3"])
    return _open_gates_(model), x, model(x).detach()


@pytest.mark.parametrize(
    "transformed",
    [
        copy.deepcopy,
        lambda model: pickle.loads(pickle.dumps(model)),
        torch.fx.symbolic_trace,
        pytest.param(
            lambda model: torch.compile(model, backend="eager", fullgraph=True), marks=pytest.mark.slow
        ),
        lambda model: torch.export.export(model, (torch.rand(2, 3, 64, 48),)).module(),
        lambda model: nl.fuse_(copy.deepcopy(model)),
    ],
    ids=["deepcopy", "pickle", "fx", "compile", "export", "fuse"],
)
def test_tools_keep_the_outputs(opened, transformed):
    model, x, expected = opened
    assert_near(transformed(model)(x), expected, sums=NETWORK)


@pytest.mark.parametrize(
    "network",
    [
        "convnext_tiny",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("r3d_18", "fcn_resnet50", "efficientnet_b0", "regnety_008")
        ),
    ],
)
@pytest.mark.parametrize("tool", ["compile", "export"])
def test_other_networks_compile_and_export(network, tool):
    make, after, _, shape = NETWORKS[network]
    model, x = make().eval(), torch.rand(shape)
    insert_nonlocal_(model, after, example_input=x)
    expected = _scores(_open_gates_(model)(x))
    if tool == "compile":
        changed = torch.compile(model, backend="eager", fullgraph=True)
    else:
        changed = torch.export.export(model, (x,)).module()
    assert_near(_scores(changed(x)), expected, sums=NETWORK)


def test_copies_are_networks_of_their_own(opened):
    model, x, expected = opened
    copied = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    assert list(copied.state_dict()) == list(model.state_dict())
    assert remove_nonlocal_(copied) == list(nonlocal_blocks(model))
    assert not torch.allclose(copied(x), expected)
    assert_near(model(x), expected)


@pytest.mark.parametrize("node", ["layer3", "layer2.0", "layer2.0.nl", "layer3.0.conv3"])
def test_features(opened, node):
    extraction = pytest.importorskip("torchvision.models.feature_extraction")
    model, x, expected = opened
    seen = []
    handle = model.get_submodule(node).register_forward_hook(lambda *each: seen.append(each[2]))
    model(x)
    handle.remove()
    features = extraction.create_feature_extractor(model, {node: "map", "fc": "scores"})(x)
    assert_near(features["map"], seen[-1], sums=NETWORK)
    assert_near(features["scores"], expected, sums=NETWORK)


def test_affinity_is_captured_of_inserted_blocks(opened):
    model, x, _ = opened
    with nl.capture_affinity(model) as maps:
        model(x)
    assert maps["layer2.0.nl"].query_shape == (8, 6)
    assert set(maps) == {"layer2.0.nl", "layer3.0.conv3.nl", "layer3.nl"}


def test_distributed_data_parallel(tmp_path):
    model, x = small_resnet(after=["layer2.0", "layer3"], norm=None)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(model)
        parallel(x).square().sum().backward()
        assert all(block.W_z.weight.grad.any() for block in nonlocal_blocks(parallel).values())
        with pytest.raises(ValueError, match="insert before wrapping"):
            insert_nonlocal_(parallel, ["layer3.0"])
    finally:
        dist.destroy_process_group()


def test_what_was_inserted_makes_it_again():
    """Read off the blocks, so that copies and removals are known too."""
    settings = {"instantiation": "concatenation", "sub_sample": "before", "norm": None, "inter_channels": 3}
    model = torchvision_network("resnet18").eval()
    insert_nonlocal_(model, ["layer2.1", "layer3"], **settings)
    remove_nonlocal_(model, ["layer2.1.nl"])
    found = inserted_settings(copy.deepcopy(model))
    assert list(found) == ["layer3"]
    assert found["layer3"].items() >= {**settings, "num_sides": 2, "in_channels": 256}.items()
    again = torchvision_network("resnet18").eval()
    insert_again_(again, found)
    again.load_state_dict(model.state_dict())
    x = torch.randn(IMAGE)
    torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)
    with pytest.raises(ValueError, match="has a non-local block already"):
        insert_again_(again, found)


def frozen_of_torchvision(width):
    return pytest.importorskip("torchvision", reason="needs torchvision").ops.FrozenBatchNorm2d(width)


def normed(norm):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), norm(8), nn.ReLU(), nn.Conv2d(8, 8, 3), norm(8), nn.ReLU(), nn.Conv2d(8, 8, 1)
    )


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        (nn.BatchNorm2d, "batch"),
        (nn.SyncBatchNorm, "batch"),
        (lambda width: nn.GroupNorm(4, width), "group"),
        (frozen_of_torchvision, None),
        (FrozenNorm, None),
        (lambda width: nn.Identity(), "batch"),
        (nn.InstanceNorm2d, "batch"),
    ],
    ids=["batch", "sync", "group", "frozen", "ours", "none", "instance"],
)
def test_the_norm_is_that_of_the_network(norm, expected):
    model, x = normed(norm).eval(), torch.rand(1, 3, 12, 10)
    before = model(x)
    report = insert_nonlocal_(model, ["0"], example_input=x)
    assert report.blocks[0].norm == expected
    assert str(report).splitlines()[1].split()[-3] == str(expected).lower()
    assert torch.equal(model(x), before)
    # The block's own norm does not count; and what is asked for is taken.
    insert_nonlocal_(model, ["3"], norm="layer")
    assert insert_nonlocal_(model, ["6"]).blocks[0].norm == expected
    assert [name_of(block.norm) for block in nonlocal_blocks(model).values()] == [
        expected,
        "layer",
        expected,
    ]


def test_the_most_frequent_norm_counts():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8), nn.GroupNorm(2, 8), nn.BatchNorm2d(8))
    assert insert_nonlocal_(model, ["0"]).blocks[0].norm == "group"
    model.append(nn.BatchNorm2d(8))
    assert insert_nonlocal_(model, ["3"]).blocks[0].norm == "batch"


def test_settings_of_heads_widths_windows_and_norms_are_the_blocks():
    model, x = normed(nn.BatchNorm2d), torch.rand(1, 3, 12, 10)
    settings = {
        "num_heads": 2,
        "value_channels": 6,
        "pool_size": (3, 1),
        "norm": "group",
        "pre_norm": "layer",
    }
    insert_nonlocal_(model, ["3"], example_input=x, **settings)
    block = nonlocal_blocks(model)["3.nl"]
    assert (block.num_heads, block.value_channels, block.pool_size) == (2, 6, (3, 1))
    assert block.key_sides((9, 7)) == (3, 7)
    assert set(dict(block.named_children())) == {"theta", "phi", "g", "W_z", "norm", "pre_norm"}


def test_what_is_told_of_a_block_makes_it_again():
    model = normed(nn.BatchNorm2d)
    insert_nonlocal_(model, ["0"])
    insert_nonlocal_(
        model, ["3"], num_heads=2, value_channels=6, pool_size=(3, 1), norm="layer", pre_norm="group"
    )
    told = inserted_settings(model)
    # As older versions know it: what came later is said only where it is not as usual.
    assert set(told["0"]) == {
        *("num_sides", "in_channels", "inter_channels", "instantiation", "sub_sample"),
        *("use_scale", "norm", "zero_init", "extent"),
    }
    again = normed(nn.BatchNorm2d)
    insert_again_(again, told)
    assert again.load_state_dict(model.state_dict())
    assert inserted_settings(again) == told
    insert_nonlocal_(model, ["6"], norm=lambda width: nn.GroupNorm(2, width))
    assert inserted_settings(model)["6"]["norm"] == "GroupNorm"
    with pytest.raises(
        ValueError, match="norm must be one of 'batch', 'group', 'layer', None; got 'GroupNorm'"
    ):
        insert_again_(normed(nn.BatchNorm2d), inserted_settings(model))
