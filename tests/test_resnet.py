"""The paper's networks: costs, layers, weights of image networks, and what they refuse."""

from pathlib import Path

import pytest
import torch
from torch import nn

import nonlocalnn as nl
from helpers import randomize_
from nonlocalnn.cli import main
from nonlocalnn.cli.models import count_network
from nonlocalnn.models import ResidualNetwork, sample_shape
from nonlocalnn.models.bottleneck import FrozenNorm
from nonlocalnn.models.convolution import ClipConvolution
from tolerances import NETWORK, assert_near, assert_same

TINY = {"depth": (1, 1, 1, 1), "width": 4, "num_classes": 5}
BLOCKS = {"layer2": [0], "layer3": [0]}
SAMPLES = {1: (3, 70), 2: (3, 40, 52), 3: (3, 9, 40, 52)}

# Millions of parameters and 10^9 multiply-adds with pool1 padded and not, of 32 x 224 x 224, without norms.
COSTS = {
    "c2d_r50_32x2": (24.27, 20.44, 20.23),
    "nl5_c2d_r50_32x2": (31.62, 28.57, 28.36),
    "i3d_r50_32x2": (27.99, 33.13, 32.83),
    "nl5_i3d_r50_32x2": (35.34, 41.26, 40.96),
    "c2d_r101_32x2": (43.21, 35.29, 35.08),
    "nl5_c2d_r101_32x2": (50.56, 43.41, 43.21),
    "i3d_r101_32x2": (51.65, 51.68, 51.38),
    "nl5_i3d_r101_32x2": (59.00, 59.80, 59.51),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if "r101" in name else name for name in COSTS],
)
def test_costs_are_those_counted_from_the_paper(name):
    parameters, padded, unpadded = count_network(name)
    assert round(parameters, 2) == COSTS[name][0]
    assert padded == pytest.approx(COSTS[name][1], rel=0.005)
    assert unpadded == pytest.approx(COSTS[name][2], rel=0.005)


@pytest.mark.parametrize(("name", "parameters"), [("nl1_c2d_r50_32x2", 26.37), ("nl10_c2d_r50_32x2", 38.98)])
def test_parameters_of_other_numbers_of_blocks(name, parameters):
    assert round(count_network(name)[0], 2) == parameters


@pytest.mark.slow
def test_inflating_the_3x3_costs_what_table_2e_says():
    c2d, i3d333 = (count_network(f"{kind}_r101_32x2") for kind in ("c2d", "i3d333"))
    assert i3d333[0] / c2d[0] == pytest.approx(1.456, abs=5e-4)
    assert i3d333[1] / c2d[1] == pytest.approx(1.76, abs=0.05)


@pytest.mark.slow
def test_the_cost_table_is_printed_and_that_of_the_guide(capsys):
    assert main(["models", "--cost"]) == 0
    printed = capsys.readouterr().out
    assert "| c2d_r101_32x2 | 43.21 | 1.00 | 35.29 | 1.00 | 35.08 | 1.00 |" in printed
    guide = Path(__file__).resolve().parent.parent / "docs" / "guides" / "networks.md"
    assert printed in guide.read_text()


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("nl1_c2d_r50_8x8", {"layer3.4"}),
        ("nl5_c2d_r50_8x8", {"layer2.1", "layer2.3", "layer3.1", "layer3.3", "layer3.5"}),
        ("nl10_c2d_r50_8x8", {f"layer2.{i}" for i in range(4)} | {f"layer3.{i}" for i in range(6)}),
        ("nl1_i3d_r101_32x2", {"layer3.21"}),
        ("nl5_i3d_r101_32x2", {"layer2.1", "layer2.3", "layer3.6", "layer3.13", "layer3.20"}),
        ("nl5_resnet50", {"layer2.1", "layer2.3", "layer3.1", "layer3.3", "layer3.5"}),
    ],
)
def test_blocks_stand_where_the_paper_puts_them(name, places):
    with torch.device("meta"):
        model = nl.create_model(name)
    blocks = {name for name, module in model.named_modules() if isinstance(module, nl.NonLocalNd)}
    assert blocks == {f"{place}.nl" for place in places}


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("c2d_r50_32x2", [(16, 112), (8, 56), (4, 56), (4, 28), (4, 14), (4, 7)]),
        ("i3d_r50_8x8", [(8, 112), (8, 56), (4, 56), (4, 28), (4, 14), (4, 7)]),
        ("i3d_r50_32x4", [(32, 112), (32, 56), (16, 56), (16, 28), (16, 14), (16, 7)]),
        ("c2d_r101_128x1", [(64, 112), (32, 56), (16, 56), (16, 28), (16, 14), (16, 7)]),
    ],
)
def test_maps_have_the_sizes_of_table_1(name, sizes):
    with torch.device("meta"):
        model, found = nl.create_model(name).eval(), []
        for module in (
            model.conv1,
            model.layer1,
            model.layer2[0].conv1,
            model.layer2,
            model.layer3,
            model.layer4,
        ):
            module.register_forward_hook(
                lambda module, inputs, output: found.append(tuple(output.shape[2:4]))
            )
        assert model(torch.empty(2, *sample_shape(name))).shape == (2, 400)
    # Of layer1 comes what pool1 left; what pool2 leaves is seen by the first convolution of layer2.
    assert found == sizes


@pytest.mark.parametrize(
    ("inflation", "kernels"), [(None, (1, 1, 1)), ("3x1x1", (5, 3, 1)), ("3x3x3", (5, 1, 3))]
)
def test_every_second_bottleneck_is_inflated(inflation, kernels):
    with torch.device("meta"):
        model = ResidualNetwork(depth=50, inflation=inflation)
    assert model.conv1.kernel_size == (kernels[0], 7, 7)
    masks = {"layer1": "111", "layer2": "1010", "layer3": "101010", "layer4": "010"}
    for name, mask in masks.items():
        for bottleneck, is_inflated in zip(getattr(model, name), mask, strict=True):
            first, second = kernels[1:] if is_inflated == "1" else (1, 1)
            assert bottleneck.conv1.kernel_size == (first, 1, 1)
            assert bottleneck.conv2.kernel_size == (second, 3, 3)


@pytest.mark.parametrize("num_sides", SAMPLES)
def test_blocks_begin_as_the_identity(num_sides):
    torch.manual_seed(0)
    with_blocks = ResidualNetwork(num_sides=num_sides, blocks=BLOCKS, **TINY).eval()
    without = ResidualNetwork(num_sides=num_sides, **TINY).eval()
    without.load_state_dict({key: with_blocks.state_dict()[key] for key in without.state_dict()})
    x = torch.randn(2, *SAMPLES[num_sides])
    assert_near(with_blocks(x), without(x))
    assert not torch.allclose(randomize_(with_blocks)(x), without(x))


def test_names_are_those_of_torchvision():
    torchvision = pytest.importorskip("torchvision")
    theirs = torchvision.models.resnet50().eval()
    ours = nl.create_model("resnet50").eval()
    assert nl.inflate_(ours, randomize_(theirs).state_dict()) == []
    x = torch.randn(1, 3, 64, 80)
    assert_near(ours(x), theirs(x), sums=NETWORK)


@pytest.mark.parametrize("name", ["c2d_r50_8x8", "nl5_c2d_r50_8x8"])
def test_c2d_of_equal_frames_is_the_image_network(name):
    torch.manual_seed(0)
    image = nl.create_model("resnet50").eval()
    for module in image.modules():
        if isinstance(module, nn.BatchNorm2d):
            randomize_(module)
    video = nl.create_model(name).eval()
    kept = nl.inflate_(video, {f"module.{key}": value for key, value in image.state_dict().items()})
    assert {key.split(".nl.")[0] for key in kept if ".nl." not in key} == {"fc.weight", "fc.bias"}
    x = torch.randn(1, 3, 64, 96)
    frames = video.features(x.unsqueeze(2).repeat(1, 1, 4, 1, 1))
    expected = image.features(x).unsqueeze(2).expand(frames.shape)
    assert_near(frames, expected, sums=NETWORK)


@pytest.mark.parametrize("inflation", ["3x1x1", "3x3x3"])
def test_inside_a_clip_of_equal_frames_inflation_keeps_the_features(inflation):
    torch.manual_seed(0)
    settings = {"depth": (2, 1, 1, 2), "width": 4}
    image = randomize_(ResidualNetwork(num_sides=2, **settings)).double().eval()
    video = ResidualNetwork(inflation=inflation, **settings).double().eval()
    assert nl.inflate_(video, image.state_dict()) == []
    x = torch.randn(1, 3, 32, 40, dtype=torch.float64)
    frames = video.features(x.unsqueeze(2).repeat(1, 1, 48, 1, 1))
    expected = image.features(x)
    assert_near(frames[:, :, 12], expected)
    assert not torch.allclose(frames[:, :, 0], expected)  # where kernels meet the padding


def test_inflation_refuses_other_networks():
    image = ResidualNetwork(num_sides=2, **TINY).state_dict()
    before = {key: value.clone() for key, value in ResidualNetwork(**TINY).state_dict().items()}
    video = ResidualNetwork(**TINY)
    video.load_state_dict(before)
    wrong = {
        r"has 'conv0.weight', which the video network lacks": {**image, "conv0.weight": torch.ones(1)},
        r"'conv1.weight' has shape \(4, 3, 5, 5\)": {**image, "conv1.weight": torch.ones(4, 3, 5, 5)},
        r"lacks 'conv1.weight' and 0 more": {k: v for k, v in image.items() if k != "conv1.weight"},
    }
    for message, state in wrong.items():
        with pytest.raises(ValueError, match=message):
            nl.inflate_(video, state)
    for key, value in video.state_dict().items():
        assert torch.equal(value, before[key])


def test_frozen_norms_are_constant_and_take_over_batch_norms():
    norm = randomize_(nn.BatchNorm3d(4)).eval()
    frozen = FrozenNorm(4)
    frozen.load_state_dict(norm.state_dict())
    x = torch.randn(2, 4, 3, 5, 2)
    assert_near(frozen.train()(x), norm(x))
    assert list(frozen.parameters()) == []
    short = randomize_(ResidualNetwork(**TINY)).eval()
    long = ResidualNetwork(norm="frozen", blocks=BLOCKS, layer2_extent=4, **TINY)
    missing, unexpected = long.load_state_dict(short.state_dict(), strict=False)
    assert all(".nl." in name for name in missing)
    assert unexpected == []
    clip = torch.randn(1, 3, 8, 40, 40)
    assert_near(long.eval()(clip), short(clip))
    assert long.layer2[0].nl.norm is None
    assert (long.layer2[0].nl.extent, long.layer3[0].nl.extent) == (4, "spacetime")


def test_probabilities_are_means_over_windows():
    network = randomize_(ResidualNetwork(blocks=BLOCKS, **TINY)).eval()
    clip = torch.randn(2, 3, 4, 256, 256)
    maps = network.features(clip)
    assert maps.shape[2:] == (2, 8, 8)
    expected = torch.stack(
        [
            network.fc(maps[:, :, :, top : top + 7, left : left + 7].mean((2, 3, 4))).softmax(1)
            for top in (0, 1)
            for left in (0, 1)
        ]
    ).mean(0)
    assert_near(network.probabilities(clip), expected)
    small = clip[..., :64, :64]
    assert_near(network.probabilities(small), network(small).softmax(1))


@pytest.mark.parametrize("num_sides", SAMPLES)
def test_checkpoints_and_gradients(num_sides, tmp_path):
    model = nl.create_model(
        {1: "nl2_c1d_tiny", 2: "nl2_resnet_tiny", 3: "nl2_c2d_tiny"}[num_sides], num_classes=4
    )
    randomize_(model)(torch.randn(2, *SAMPLES[num_sides])).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
    nl.save_checkpoint(model, tmp_path / "model.safetensors")
    x = torch.randn(1, *SAMPLES[num_sides])
    assert_near(nl.load_checkpoint(tmp_path / "model.safetensors").eval()(x), model.eval()(x))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_sides": 4}, "num_sides must be 1"),
        ({"depth": 18}, "depth must be 50, 101 or the lengths of four stages; got 18"),
        ({"depth": (1, 2)}, "four lengths of at least 1"),
        ({"blocks": 3}, "blocks must be 0, or 1, 5 or 10 at depth 50 or 101"),
        ({"depth": (1, 1, 1, 1), "blocks": 1}, "got 1 at depth"),
        ({"blocks": {"res3": [1]}}, "stage must be one of 'layer1'"),
        ({"blocks": {"layer2": [4]}}, "layer2 has bottlenecks 0 to 3"),
        ({"blocks": {"layer2": [1, 1]}}, "at most one block"),
        ({"num_sides": 2, "inflation": "3x1x1"}, "settings of video networks"),
        ({"inflation": "3x1"}, r"did you mean '3x1x1'\?"),
        ({"norm": "batchnorm"}, "norm must be one of"),
        ({"small_stem": True, "halves_time_early": True}, "choose one"),
    ],
)
def test_wrong_settings(settings, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        ResidualNetwork(**settings)


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        ({}, (1, 3, 40, 40), r"the network takes \(B, C, T, H, W\)"),
        ({}, (1, 3, 1, 40, 40), "at least 2 frames for this network; got 1"),
        ({"halves_time_early": True}, (1, 3, 6, 40, 40), "at least 7 frames"),
    ],
)
def test_wrong_inputs(settings, shape, message):
    with pytest.raises(ValueError, match=message):
        ResidualNetwork(**TINY, **settings)(torch.zeros(shape))


def test_a_small_stem_halves_sides_once():
    seen = []
    for num_sides, sides in ((1, (20,)), (2, (20, 12)), (3, (4, 20, 12))):
        network = ResidualNetwork(num_sides=num_sides, small_stem=True, **TINY).eval()
        network.layer1.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
        assert network(torch.zeros(2, 3, *sides)).shape == (2, 5)
        frames, places = (sides[:1], sides[1:]) if num_sides == 3 else ((), sides)
        assert seen.pop() == (2, 16, *frames, *(side // 2 for side in places))


def test_what_starts_as_the_identity():
    for zero_init_residual in (True, False):
        network = ResidualNetwork(num_sides=2, zero_init_residual=zero_init_residual, **TINY)
        last = network.layer2[0].bn3.weight
        assert bool((last == 0).all()) is zero_init_residual
    tiny = nl.create_model("nl2_c2d_tiny")
    assert (tiny.layer3[0].nl.norm.weight == 1).all()


def test_the_fewest_frames_pass():
    for inflation in (None, "3x1x1"):
        for early, frames in ((False, 2), (True, 7)):
            network = ResidualNetwork(inflation=inflation, halves_time_early=early, **TINY).eval()
            assert network(torch.zeros(1, 3, frames, 33, 33)).shape == (1, 5)


@pytest.mark.parametrize("inflation", [None, "3x1x1", "3x3x3"])
@pytest.mark.parametrize("halves_time_early", [False, True])
def test_both_memory_formats_give_the_same_values_and_gradients(inflation, halves_time_early):
    settings = {"inflation": inflation, "halves_time_early": halves_time_early, "blocks": BLOCKS, **TINY}
    network = randomize_(ResidualNetwork(**settings)).eval()
    clip = torch.randn(2, *SAMPLES[3])
    formats = (torch.contiguous_format, torch.channels_last_3d)
    for memory_format in formats:
        network.to(memory_format=memory_format)
        assert network.features(clip.to(memory_format=memory_format)).is_contiguous(
            memory_format=memory_format
        )
    # Doubles: weights this large make logits so sharp that single precision's rounding grows 1000 times.
    network, clip, results = network.double(), clip.double(), []
    for memory_format in formats:
        x = clip.clone(memory_format=memory_format).requires_grad_()
        maps = network.to(memory_format=memory_format).features(x)
        slope = torch.linspace(-1, 2, maps.numel(), dtype=maps.dtype).view(maps.shape)
        # The gradient of phi's bias is nothing but rounding: it moves all logits of a query alike.
        parameters = [part for name, part in network.layer2.named_parameters() if "phi.bias" not in name]
        results.append((maps, *torch.autograd.grad(maps, (x, *parameters), slope)))
    assert_near(*results, sums=NETWORK)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [
        ((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        ((1, 7, 7), (2, 2, 2), (0, 3, 3)),
        ((3, 1, 1), (1, 1, 1), (1, 0, 0)),
        ((3, 1, 1), (2, 1, 1), (0, 0, 0)),
        ((3, 1, 1), (1, 2, 2), (1, 0, 0)),
        ((1, 1, 1), (1, 1, 1), (0, 0, 0)),
        ((1, 1, 1), (1, 1, 1), (1, 0, 0)),
        ((3, 3, 3), (1, 1, 1), (1, 1, 1)),
    ],
)
@pytest.mark.parametrize("bias", [False, True])
def test_clip_convolutions_are_those_in_3d(kernel, stride, padding, bias):
    layer = ClipConvolution(4, 6, kernel, stride=stride, padding=padding, bias=bias).double()
    clip = torch.randn(2, 4, 5, 9, 7, dtype=torch.float64).to(memory_format=torch.channels_last_3d)
    y = layer(clip)
    assert_near(y, nn.functional.conv3d(clip, layer.weight, layer.bias, stride, padding))


@pytest.mark.parametrize("way", ["train", "eval", "fused", "bfloat16"])
@pytest.mark.parametrize("num_sides", SAMPLES, ids=["1d", "2d", "3d"])
def test_bottlenecks_work_in_their_own_memory_and_leave_their_input(num_sides, way):
    network = randomize_(
        ResidualNetwork(num_sides=num_sides, blocks=BLOCKS, **{**TINY, "depth": (2, 2, 1, 1)})
    )
    network.train(way == "train")
    if way == "fused":
        nl.fuse_(network)
    # The second of a stage has its input for a shortcut.
    bottleneck = network.layer1[1]
    x = torch.randn(2, 16, *SAMPLES[num_sides][1:], requires_grad=True)
    before = x.detach().clone()
    with torch.autocast("cpu", torch.bfloat16, enabled=way == "bfloat16"):
        hidden = bottleneck.bn1(bottleneck.conv1(x)).relu()
        hidden = bottleneck.bn2(bottleneck.conv2(hidden)).relu()
        expected = (bottleneck.bn3(bottleneck.conv3(hidden)) + x).relu()
        found = bottleneck(x)
    assert found.dtype == expected.dtype == torch.float32
    assert_same(found, expected)
    assert_same(x.detach(), before)
    given = torch.randn_like(found)
    own = [x, *bottleneck.parameters()]
    mine, theirs = (torch.autograd.grad(y, own, given) for y in (found, expected))
    assert_same(list(mine), list(theirs))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", ["conv1", "bn1", "conv3", "bn3"])
def test_what_a_hook_keeps_stays_as_it_was(name, fused):
    network = randomize_(ResidualNetwork(num_sides=2, **TINY)).eval()
    if fused:
        nl.fuse_(network)
    kept = []
    layer = getattr(network.layer1[0], name)
    layer.register_forward_hook(lambda module, given, made: kept.append((made, made.clone())))
    layer.register_full_backward_hook(lambda module, given, made: None)
    network(torch.randn(2, 3, 40, 52)).sum().backward()
    ((held, copy),) = kept
    assert (copy < 0).any()
    assert_same(held, copy)


def test_layers_that_return_what_they_were_given_or_save_what_they_return():
    bottleneck = randomize_(ResidualNetwork(num_sides=2, **TINY)).layer1[0]
    x = torch.randn(2, 4, 10, 13, requires_grad=True)
    bottleneck.bn1 = nn.Sequential(bottleneck.bn1, nn.Tanh())
    bottleneck.bn3 = nn.Tanh()
    bottleneck(x).sum().backward()
    bottleneck = randomize_(ResidualNetwork(num_sides=2, **TINY)).layer1[0]
    bottleneck.conv1, bottleneck.bn1 = nn.Identity(), nn.Identity()
    given = x.detach().clone()
    bottleneck(given)
    assert_same(given, x.detach())


def test_several_networks_under_vmap_that_differ_in_the_shortcut_alone():
    bottleneck = randomize_(ResidualNetwork(num_sides=2, **TINY)).layer1[0].eval()
    x = torch.randn(2, 4, 10, 13)
    weights = torch.randn(3, *bottleneck.downsample[0].weight.shape)

    def run(weight):
        return torch.func.functional_call(bottleneck, {"downsample.0.weight": weight}, (x,))

    assert_near(torch.func.vmap(run)(weights), torch.stack([run(weight) for weight in weights]))


def test_fx_and_export():
    network = randomize_(ResidualNetwork(inflation="3x1x1", blocks=BLOCKS, **TINY)).eval()
    clip = torch.randn(1, *SAMPLES[3])
    expected = network(clip)
    assert_near(torch.fx.symbolic_trace(network)(clip), expected)
    program = torch.export.export(network, (clip,))
    assert_near(program.module()(clip), expected)


def test_from_scratch_phi_starts_as_theta():
    network = nl.create_model("nl2_c2d_tiny", num_classes=2)
    embeddings = [(block.theta, block.phi) for block in nl.nonlocal_blocks(network).values()]
    assert len(embeddings) == 2
    for theta, phi in embeddings:
        assert torch.equal(theta.weight, phi.weight)
        assert torch.equal(theta.bias, phi.bias)
        # Training moves them apart.
        assert theta.weight is not phi.weight
    # Blocks that start as the identity keep weights of their own, as the paper has them.
    for block in nl.nonlocal_blocks(nl.create_model("nl2_c2d_tiny", num_classes=2, zero_init=True)).values():
        assert not torch.equal(block.theta.weight, block.phi.weight)


@pytest.mark.parametrize("kind", ["3x1x1", "3x3x3"])
def test_video_networks_from_scratch_begin_with_their_middle_frames(kind):
    for zero_init in (False, True):
        torch.manual_seed(5)
        video = nl.create_model("nl2_c2d_tiny", inflation=kind, zero_init=zero_init)
        over_time = [
            layer for layer in video.modules() if isinstance(layer, nn.Conv3d) and layer.kernel_size[0] > 1
        ]
        assert len(over_time) == 4
        for layer in over_time:
            frames = layer.kernel_size[0]
            sizes = layer.weight.detach().square().mean((0, 1, 3, 4))
            assert (sizes == 0).tolist() == [
                not zero_init and frame != frames // 2 for frame in range(frames)
            ]
            # As an image kernel of as many outputs is drawn.
            expected = 2 / (layer.out_channels * layer.kernel_size[1] ** 2)
            if not zero_init:
                assert sizes[frames // 2].item() == pytest.approx(expected, rel=0.3)
    plain = nl.create_model("c2d_tiny", inflation=kind)
    assert (plain.conv1.weight != 0).all()
    # What is alike in each frame is seen as by the network of single frames.
    image = nl.create_model("nl2_c2d_tiny", zero_init=False).eval()
    video = nl.create_model("nl2_c2d_tiny", inflation=kind, zero_init=False).eval()
    state = image.state_dict()
    for name, value in video.state_dict().items():
        if value.shape != state[name].shape:
            value.zero_()[:, :, value.shape[2] // 2] = state[name].squeeze(2)
        else:
            value.copy_(state[name])
    clip = torch.rand(2, 3, 8, 32, 32)
    with torch.no_grad():
        assert_near(video(clip), image(clip))


def test_kernels_of_volumes_begin_whole():
    volume = ResidualNetwork(
        is_volume=True, depth=(1, 1, 1, 1), width=8, zero_init=False, blocks={"layer2": [0]}
    )
    assert all((layer.weight != 0).all() for layer in volume.modules() if isinstance(layer, nn.Conv3d))
