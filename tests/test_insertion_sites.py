"""Which modules blocks can follow, what their names are, and what is wrong with the others."""

import copy

import pytest
import torch
from torch import nn

import nonlocalnn as nl
from foreign_networks import small_resnet, timm_network, torchvision_network
from nonlocalnn.blocks import nonlocal_blocks
from nonlocalnn.models import ResidualNetwork
from nonlocalnn.surgery.insertion import insert_nonlocal_, sites


@pytest.mark.parametrize(
    ("make", "site", "expected"),
    [
        (lambda: torchvision_network("resnet18"), "layer3.1", (nl.NonLocal2d, 256)),
        (lambda: torchvision_network("resnet50"), "layer3", (nl.NonLocal2d, 1024)),
        (lambda: timm_network("resnet18"), "layer2.0", (nl.NonLocal2d, 128)),
        (lambda: timm_network("regnety_008"), "stem.bn", (nl.NonLocal2d, 32)),
        (lambda: ResidualNetwork(num_sides=1, depth=(1, 1, 1, 1), width=4), "layer2.0", (nl.NonLocal1d, 32)),
        (lambda: ResidualNetwork(depth=(1, 1, 1, 1), width=4), "layer2.0", (nl.NonLocal3d, 32)),
        (lambda: nn.Sequential(nn.Sequential(nn.Conv1d(3, 6, 3))), "0.0", (nl.NonLocal1d, 6)),
    ],
    ids=["basic", "stage", "timm", "norm", "ours 1d", "ours 3d", "convolution"],
)
def test_what_is_certain_needs_no_example(make, site, expected):
    model = make()
    insert_nonlocal_(model, [site])
    block = nonlocal_blocks(model)[f"{site}.nl"]
    assert (type(block), block.in_channels) == expected


def test_what_is_uncertain_needs_an_example():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())
    with pytest.raises(
        ValueError, match="'1' returns, a ReLU, is known only after a run: pass example_input"
    ):
        insert_nonlocal_(model, ["0", "1"])
    assert not nonlocal_blocks(model)
    insert_nonlocal_(model, ["0", "1"], example_input=torch.rand(1, 3, 9, 8))
    assert list(nonlocal_blocks(model)) == ["0.nl", "1.nl"]


def test_exact_names_come_before_ends_of_names():
    def branch():
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())

    model = nn.ModuleDict({"left": branch(), "right": branch(), "0": nn.Conv2d(3, 5, 1)})
    report = insert_nonlocal_(model, ["0"])
    assert [block.site for block in report.blocks] == ["0"]
    del model["0"]
    report = insert_nonlocal_(model, ["0"])
    assert [block.site for block in report.blocks] == ["left.0", "right.0"]


@pytest.mark.parametrize(
    ("after", "match"),
    [
        (["layer3.7"], r"no module 'layer3\.7'; near it are 'layer3\.1', 'layer3\.0'"),
        (["layr2"], r"no module 'layr2'; near it are 'layer2'"),
        (["ayer2"], "no module 'ayer2'"),
        ("layer", "no module 'layer'"),
        (r"layer3\.\d", r"for a regular expression use pattern='layer3"),
        (["layer2", "layer[34]"], r"for a regular expression use pattern='layer\[34\]'"),
        ([], "at least one module"),
        (["layer2", "layer2"], "'layer2' and 'layer2' both stand for 'layer2'"),
        (["fc"], r"'fc' returns shape \(2, 7\)"),
    ],
)
def test_names_that_do_not_fit(after, match):
    model, x = small_resnet(after=())
    with pytest.raises(ValueError, match=match):
        insert_nonlocal_(model, after, example_input=x)
    assert not nonlocal_blocks(model)


def test_a_name_alone_means_what_it_means_in_a_list():
    model, _ = small_resnet(after=())
    report = insert_nonlocal_(model, "0.conv1", norm=None)
    assert [block.site for block in report.blocks] == [
        "layer1.0.conv1",
        *(f"layer{i}.0.conv1" for i in "234"),
    ]


def test_a_pattern_matches_whole_names():
    model, _ = small_resnet(after=())
    report = insert_nonlocal_(model, pattern=r"layer[23]\.\d")
    assert [block.site for block in report.blocks] == ["layer2.0", "layer3.0", "layer3.1"]
    with pytest.raises(ValueError, match="matches none"):
        insert_nonlocal_(model, pattern=r"layer2\.0\.nl\..*")


@pytest.mark.parametrize(
    ("chosen", "match"),
    [
        ({"pattern": "layer"}, "must match the whole name of a module; 'layer' matches none"),
        ({"pattern": r"layer3\.\d\d"}, "matches none; near it are 'layer3"),
        ({"pattern": "layer("}, r"must be a regular expression; got 'layer\('"),
        ({"pattern": ["layer2"]}, r"must be a regular expression; got \['layer2'\]"),
        ({}, "give either after.*or pattern.*; got after=None and pattern=None"),
        ({"after": ["layer2"], "pattern": "layer2"}, "give either after.*or pattern"),
    ],
    ids=str,
)
def test_patterns_that_do_not_fit(chosen, match):
    model, _ = small_resnet(after=())
    with pytest.raises(ValueError, match=match):
        insert_nonlocal_(model, **chosen)
    assert not nonlocal_blocks(model)


class _Parts(nn.Module):
    """What can be wrong with a site."""

    def __init__(self):
        super().__init__()
        self.two, self.unused, self.relu = _Two(), nn.Conv2d(3, 3, 1), nn.ReLU()
        self.conv, self.tokens = nn.Conv2d(3, 6, 1), nn.LayerNorm(5)
        self.list = _Residuals([nn.Conv2d(6, 6, 1)])
        self.named = _Named()
        self.traced = torch.fx.symbolic_trace(nn.Sequential(nn.Conv2d(6, 6, 1)))
        self.patched = nn.Conv2d(6, 6, 1)
        self.patched.forward = self.patched.forward

    def forward(self, x):
        self.two(x)
        x = self.patched(self.traced(self.named(self.list(self.relu(self.conv(self.relu(x)))))))
        return self.tokens(x.flatten(2).transpose(1, 2).flatten(1)[:, :5][:, None])


class _Two(nn.Module):
    def forward(self, x):
        return x, x


class _Residuals(nn.ModuleList):
    def forward(self, x):
        for layer in self:
            x = x + layer(x)
        return x


class _Named(nn.Identity):
    nl = "of its own"


@pytest.mark.parametrize(
    ("site", "match"),
    [
        ("two", "returns a tuple and no map"),
        ("unused", "did not run on example_input"),
        ("relu", r"several kinds: \(1, 3, 9, 8\), \(1, 6, 9, 8\)"),
        ("tokens", r"shape \(1, 1, 5\) with channels last"),
        ("list", "container that may run whatever is put into it"),
        ("named", "has an attribute 'nl' of its own"),
        ("traced", "forward pass of 'traced' is fixed"),
        ("patched", "forward pass of 'patched' is fixed"),
    ],
)
def test_sites_that_cannot_have_a_block(site, match):
    model = _Parts()
    hooks, keys = model.conv._forward_hooks, list(model.state_dict())
    with pytest.raises(ValueError, match=match):
        insert_nonlocal_(model, ["conv", site], example_input=torch.rand(1, 3, 9, 8))
    assert model.training
    assert not hooks
    assert list(model.state_dict()) == keys
    assert type(model.conv) is nn.Conv2d


def test_transformers_put_channels_last():
    timm = pytest.importorskip("timm")
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=32, depth=1)
    with pytest.raises(ValueError, match=r"shape \(1, 5, 192\) with channels last"):
        insert_nonlocal_(model, ["blocks.0"], example_input=torch.rand(1, 3, 32, 32))


def test_the_example_leaves_no_trace():
    model, x = small_resnet(after=())
    model.train()
    model.bn1.eval()
    before = copy.deepcopy(model.state_dict())
    insert_nonlocal_(model, ["layer2.0"], example_input=(x,))
    after = model.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert (model.training, model.bn1.training, model.layer2[0].bn1.training) == (True, False, True)
    assert not model.layer2[0]._forward_hooks


@pytest.mark.parametrize(
    ("architecture", "placement", "expected"),
    [
        ("resnet50", "paper-1", ["layer3.4"]),
        ("resnet50", "paper-5", ["layer2.1", "layer2.3", "layer3.1", "layer3.3", "layer3.5"]),
        ("resnet101", "paper-5", ["layer2.1", "layer2.3", "layer3.6", "layer3.13", "layer3.20"]),
        ("resnet101", "paper-1", ["layer3.21"]),
        ("wide_resnet50_2", "paper-1", ["layer3.4"]),
        ("resnet50d.ra2_in1k", "paper-1", ["layer3.4"]),
        ("resnext101_32x8d", "paper-1", ["layer3.21"]),
    ],
)
def test_places_of_the_paper(architecture, placement, expected):
    assert sites(architecture, placement) == expected


@pytest.mark.parametrize("depth", [50, 101])
@pytest.mark.parametrize("placement", ["paper-1", "paper-5", "paper-10"])
@pytest.mark.parametrize("make", [torchvision_network, timm_network], ids=["torchvision", "timm"])
def test_places_exist(make, depth, placement):
    with torch.device("meta"):
        model = make(f"resnet{depth}")
    report = insert_nonlocal_(model, sites(f"resnet{depth}", placement))
    assert len(report.blocks) == int(placement.removeprefix("paper-"))
    assert {block.in_channels for block in report.blocks} <= {512, 1024}


def test_places_that_the_paper_does_not_have():
    for architecture in ("resnet18", "resnet152", "resnetv2_50", "resnet500", "resnet50_clip"):
        with pytest.raises(ValueError, match="depth 50 and 101"):
            sites(architecture, "paper-5")
    with pytest.raises(ValueError, match="placement must be one of 'paper-1'"):
        sites("resnet50", "paper-2")
