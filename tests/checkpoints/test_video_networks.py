"""Video networks of three code bases become ours: equal outputs, and back under their names."""

import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch

import nonlocalnn as nl
from foreign_video_networks import MMAction2, Official, SlowFast
from nonlocalnn.checkpoints import export_checkpoint, import_checkpoint, read_metadata
from nonlocalnn.checkpoints.sources.key_names import KeyNames
from tolerances import assert_near

NETWORKS = {"official": Official, "slowfast": SlowFast, "mmaction2": MMAction2}


def write(network, path, **more):
    """Write a network's state dict as its code base does."""
    if isinstance(network, Official):
        blobs = {key: value.numpy() for key, value in network.state.items()}
        path.write_bytes(pickle.dumps({"blobs": {**blobs, **more}}, protocol=2))
    elif isinstance(network, SlowFast):
        content = {"epoch": 3, "model_state": {**network.state, **more}, "optimizer_state": {"state": {}}}
        torch.save({**content, "cfg": "MODEL:\n  ARCH: i3d\n"}, path)
    else:
        meta = {"epoch": 100, "mmaction_version": "0.24", "CLASSES": None}
        torch.save({"meta": meta, "state_dict": OrderedDict({**network.state, **more})}, path)
    return path


def clip_for(network, frames=8, side=64):
    torch.manual_seed(1)
    return torch.randn(2, 3, frames, side, side + 8, dtype=torch.float64)


def assert_same(ours, network, x):
    ours = ours.double().eval()
    with torch.no_grad():
        expected = network(x)
        # Norms were folded and files written in float32, each a rounding.
        assert_near(ours(x), expected, dtype=torch.float32, sums=10)
        assert expected.std() > 1e-3
        blocks = [module for module in ours.modules() if isinstance(module, nl.NonLocalNd)]
        assert len(blocks) == sum(map(len, network.blocks.values()))
        for block in blocks:  # they matter: without them the scores differ
            block.W_z.weight.zero_()
        assert not blocks or not torch.allclose(ours(x), expected, atol=1e-3)


CASES = [
    (Official, {}, "i3d_nonlocal_8x8_IN.pkl", "nl5_i3d_r50_8x8"),
    (Official, {"early": True}, "i3d_nonlocal_32x2_IN.pkl", "nl5_i3d_r50_32x2"),
    (Official, {"inflation": None, "blocks": {}}, "c2d_baseline_8x8_IN.pkl", "c2d_r50_8x8"),
    (Official, {"inflation": "3x3x3", "blocks": {4: (4,)}}, "x_8x8.pkl", "nl1_i3d333_r50_8x8"),
    (Official, {"frozen": True, "group": 4}, "i3d_nonlocal_32x4_I3D.pkl", "nl5_i3d_r50_32x4"),
    (Official, {"frozen": True, "early": True, "group": 4}, "i3d_128x1.pkl", "nl5_i3d_r50_128x1"),
    (Official, {"blocks": {3: (0,), 5: (2,)}}, "x_8x8.pkl", "i3d_r50_8x8"),
    (SlowFast, {}, "x.pyth", "nl5_i3d_r50_8x8"),
    (SlowFast, {"inflation": None, "blocks": {}}, "x.pyth", "c2d_r50_8x8"),
    (SlowFast, {}, "x_32x2.pyth", "nl5_i3d_r50_32x2"),
    (MMAction2, {}, "x.pth", "nl5_i3d_r50_32x2"),
    (MMAction2, {"kind": "gaussian"}, "x.pth", "nl5_i3d_r50_32x2"),
    (MMAction2, {"kind": "concatenation"}, "x.pth", "nl5_i3d_r50_32x2"),
    (MMAction2, {"sub_sample": False}, "x.pth", "nl5_i3d_r50_32x2"),
    (MMAction2, {"blocks": {}}, "x.pth", "i3d_r50_32x2"),
    (MMAction2, {"early": False}, "x_8x8.pth", "nl5_i3d_r50_8x8"),
]


@pytest.mark.parametrize(
    ("kind", "settings", "file", "name"),
    # Every second one of the two with many.
    [
        pytest.param(
            *case,
            marks=pytest.mark.slow if number % 2 and case[0] is not SlowFast else (),
            id=f"{number}-{case[3]}",
        )
        for number, case in enumerate(CASES)
    ],
)
def test_equal_outputs(tmp_path, kind, settings, file, name):
    torch.manual_seed(0)
    network = kind(**settings)
    ours = nl.load_checkpoint(write(network, tmp_path / file))
    assert ours.config["name"] == name
    assert ours.config["num_classes"] == 7
    frames = {"128x1": 32, "32x4": 16}.get(name.rsplit("_", 1)[1], 8)
    assert_same(ours, network, clip_for(network, frames))


@pytest.mark.parametrize(
    "kind", [*(pytest.param(kind, marks=pytest.mark.slow) for kind in (SlowFast, MMAction2)), Official]
)
def test_the_dot_product_has_the_same_keys(tmp_path, kind):
    torch.manual_seed(0)
    network = kind(kind="dot_product")
    path = write(network, tmp_path / "x_8x8.pkl")
    found = import_checkpoint(path, dot_product=True, clip="32x2" if kind is MMAction2 else None)
    assert_same(found.model, network, clip_for(network))
    # So does a model of that kind which is given.
    given = nl.create_model(**arguments(found.model.config))
    assert nl.load_checkpoint(path, given) is given
    assert_same(given, network, clip_for(network))


def arguments(config):
    return {"name": config["name"], "num_classes": config["num_classes"], **config["overrides"]}


@pytest.mark.parametrize("depth", [(3, 4, 23, 3), (1, 2, 2, 1)], ids=str)
def test_other_depths(tmp_path, depth):
    torch.manual_seed(0)
    network = SlowFast(lengths=depth, width=2, blocks={3: (1,)})
    ours = nl.load_checkpoint(write(network, tmp_path / "x.pyth"))
    assert ours.config["name"] == ("i3d_r101_8x8" if depth[2] == 23 else "i3d_r50_8x8")
    assert ours.config["overrides"].get("depth", "of the name") == (
        "of the name" if depth[2] == 23 else list(depth)
    )
    assert_same(ours, network, clip_for(network, side=32))


def test_probabilities_are_those_of_each_head(tmp_path):
    """Windows of 7 x 7 positions, or the whole map."""
    torch.manual_seed(0)
    x = torch.randn(1, 3, 5, 256, 256, dtype=torch.float64)
    slowfast, mmaction2 = (kind(blocks={}, width=2, lengths=(1, 1, 1, 1)) for kind in (SlowFast, MMAction2))
    with torch.no_grad():
        ours = nl.load_checkpoint(write(slowfast, tmp_path / "a.pyth")).double().eval()
        assert_near(ours.probabilities(x), slowfast.windows(x))
        assert not torch.allclose(ours.probabilities(x), slowfast(x).softmax(1))
        ours = nl.load_checkpoint(write(mmaction2, tmp_path / "a.pth")).double().eval()
        assert_near(ours.probabilities(x), mmaction2(x).softmax(1))


@pytest.mark.parametrize("frames", [5, 6, 7, 9])
def test_odd_numbers_of_frames(tmp_path, frames):
    """mmaction2's first pooling leaves frames out: five are enough, and an odd last one counts."""
    torch.manual_seed(0)
    network = MMAction2(blocks={})
    ours = nl.load_checkpoint(write(network, tmp_path / "a.pth"))
    assert_same(ours, network, clip_for(network, frames, side=32))


@pytest.mark.parametrize("kind", [SlowFast, MMAction2])
@pytest.mark.parametrize("blocks", [{}, {3: (1, 3)}], ids=str)
def test_there_and_back(tmp_path, kind, blocks):
    torch.manual_seed(0)
    network = kind(blocks=blocks)
    counters = {
        key.replace("running_var", "num_batches_tracked"): torch.tensor(5)
        for key in network.state
        if key.endswith("running_var")
    }
    first = nl.load_checkpoint(write(network, tmp_path / "theirs", **counters)).eval()
    name = "slowfast" if kind is SlowFast else "mmaction2"
    assert export_checkpoint(first, tmp_path / "back", to=name) == []
    content = torch.load(tmp_path / "back", weights_only=True)
    exported = content["model_state" if kind is SlowFast else "state_dict"]
    assert set(exported) == {*network.state, *counters}
    for key, value in {**network.state, **counters}.items():
        assert torch.equal(exported[key], value), key
    again = nl.load_checkpoint(tmp_path / "back").eval()
    assert again.config == first.config
    x = clip_for(network, side=32).float()
    with torch.no_grad():
        assert torch.equal(again(x), first(x))


@pytest.mark.parametrize(
    ("name", "frozen"),
    [
        ("slowfast", False),
        ("mmaction2", True),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (("slowfast", True), ("mmaction2", False))),
    ],
)
def test_the_official_network_under_other_names(tmp_path, name, frozen):
    """Its keys go out; what their code would do otherwise is said, and comes back with a model given."""
    torch.manual_seed(0)
    network = Official(frozen=frozen, blocks={3: (1, 3)})
    first = nl.load_checkpoint(write(network, tmp_path / "x_8x8.pkl"))
    says = export_checkpoint(first, tmp_path / "out", to=name)
    assert "pads_pool1 is False, theirs True" in says
    assert ("sub_sample is 'before', theirs 'after'" in says) == (name == "mmaction2")
    config = arguments(first.config)
    config["norm"] = "batch"
    again = nl.load_checkpoint(tmp_path / "out", nl.create_model(**config))
    assert_same(again, network, clip_for(network))


@pytest.mark.parametrize("nested", [True, False], ids=["nested", "flat"])
def test_momentum_and_counters_are_no_weights(tmp_path, nested):
    torch.manual_seed(0)
    network = Official(blocks={3: (1,)})
    blobs = {key: value.numpy() for key, value in network.state.items()}
    blobs |= {f"{key}_momentum": value for key, value in blobs.items()}
    blobs |= {"lr": np.float32(0.01), "model_iter": 400000, "epoch": np.array([3.0])}
    blobs["conv1_w"] = np.asfortranarray(blobs["conv1_w"])
    blobs["pred_w"] = blobs["pred_w"].reshape(*blobs["pred_w"].shape, 1, 1, 1)
    content = {"blobs": blobs, "cfg": "text"} if nested else blobs
    (tmp_path / "x_8x8.pkl").write_bytes(pickle.dumps(content, protocol=2))
    found = import_checkpoint(tmp_path / "x_8x8.pkl")
    assert found.num_tensors == len(network.state)
    assert_same(found.model, network, clip_for(network))


def test_a_network_with_norms_in_its_blocks_or_not(tmp_path):
    """Frozen norms beside blocks with a norm, and the other way round."""
    torch.manual_seed(0)
    network, x = Official(blocks={3: (1,)}), clip_for(None)
    for key in [key for key in network.state if key.startswith("nonlocal_conv3_1_bn_")]:
        del network.state[key]
    network.normed = lambda layer, y: y if layer[-1] == "out" else Official.normed(network, layer, y)
    assert_same(nl.load_checkpoint(write(network, tmp_path / "x_8x8.pkl")), network, x)
    frozen = Official(blocks={3: (1,)}, frozen=True)
    more = {f"nonlocal_conv3_1_bn_{name}": torch.rand(32) + 0.5 for name in ("s", "b", "rm", "riv")}
    frozen.state |= more
    s, b, mean, variance = (value.double() for value in more.values())

    def normed(layer, y):
        if layer[-1] != "out":
            return Official.normed(frozen, layer, y)
        return torch.nn.functional.batch_norm(y, mean, variance, s, b, eps=1e-5)

    frozen.normed = normed
    assert_same(nl.load_checkpoint(write(frozen, tmp_path / "y_8x8.pkl")), frozen, x)


def test_weights_of_images_are_inflated(tmp_path):
    torch.manual_seed(0)
    network = Official(inflation=None, blocks={}, classes=7)
    blobs = {key: value.numpy() for key, value in network.images().items()}
    path = tmp_path / "r50_8x8.pkl"
    path.write_bytes(pickle.dumps(blobs, protocol=2))
    with pytest.raises(nl.CheckpointError, match="they are of an image network: name the video network"):
        nl.load_checkpoint(path)
    model = nl.create_model("nl1_i3d_r50_8x8", width=4, num_classes=5, pads_pool1=False)
    found = import_checkpoint(path, model)
    layers, blocks = found.gaps
    assert layers.endswith("stay as they were: fc.weight, fc.bias")
    assert "stay as they were: layer3.4.nl.theta.weight" in blocks
    assert "conv1.weight" not in blocks
    expected = network.state["conv1_w"].expand(-1, -1, 5, -1, -1) / 5
    assert_near(model.conv1.weight.detach(), expected)
    with pytest.raises(nl.CheckpointError, match="is no image network that fits the model"):
        nl.load_checkpoint(path, nl.create_model("i3d_r50_8x8", width=8))


FACTS = {
    "official": ([3, 8, 224, 224], 8, 114.75, 57.375),
    "slowfast": ([3, 8, 224, 224], 8, 114.75, 57.375),
    "mmaction2": ([3, 32, 224, 224], 2, [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_what_prediction_needs_is_written_down(tmp_path, name):
    file = tmp_path / ("x_8x8.pkl" if name == "official" else "x")
    found = import_checkpoint(write(NETWORKS[name](blocks={}), file))
    nl.save_checkpoint(found.model, tmp_path / "ours.safetensors", metadata=found.metadata)
    metadata = read_metadata(tmp_path / "ours.safetensors")
    told = tuple(metadata[key] for key in ("sample_shape", "stride", "mean", "standard_deviation"))
    assert told == FACTS[name]
    assert metadata["source"] == found.source
    classifier = nl.load_classifier(tmp_path / "ours.safetensors")
    assert classifier.classes == tuple("0123456")
    assert (classifier.video_size, classifier.multi_label) == (256, False)
    assert classifier.model.config == found.model.config


def test_clip_settings(tmp_path):
    path = write(Official(blocks={}), tmp_path / "weights.pkl")
    with pytest.raises(
        nl.CheckpointError, match=r"has the keys of video-nonlocal-net, but .* give clip, one of 8x8"
    ):
        nl.load_checkpoint(path)
    assert nl.load_checkpoint(path, clip="32x2").halves_time_early
    with pytest.raises(ValueError, match=r"clip must be one of '8x8', .* got '8x9'"):
        nl.load_checkpoint(path, clip="8x9")
    with pytest.raises(ValueError, match="leave them out where one is given"):
        nl.load_checkpoint(path, nl.create_model("i3d_r50_8x8"), clip="8x8")
    nl.save_checkpoint(nl.create_model("nl_digits"), tmp_path / "d.safetensors")
    with pytest.raises(ValueError, match="clip is for video networks of other code bases"):
        nl.load_checkpoint(tmp_path / "d.safetensors", clip="8x8")


@pytest.mark.parametrize("name", NETWORKS)
def test_what_does_not_fit_is_named(tmp_path, name):
    network = NETWORKS[name](blocks={3: (1,)})
    path = tmp_path / "x_8x8"
    extra = np.zeros(1) if name == "official" else torch.zeros(1)
    write(network, path, stranger=extra)
    with pytest.raises(nl.CheckpointError, match="does not fit ResidualNetwork: unexpected keys: stranger"):
        nl.load_checkpoint(path)
    found = import_checkpoint(path, allow_partial=True)
    assert found.gaps == ["unexpected keys: stranger"]
    del network.state[network.weight((4, 0, "c"))]
    del network.state[network.weight("fc")]
    write(network, path)
    with pytest.raises(nl.CheckpointError, match=r"missing keys:.*layer3.0.conv3.weight"):
        nl.load_checkpoint(path)
    (gap,) = import_checkpoint(path, allow_partial=True).gaps
    assert "layer3.0.conv3.weight" in gap
    assert "fc.weight" in gap
    network.state[network.weight((2, 0, "b"))] = torch.zeros(4, 4, 1, 5, 5)
    write(network, path)
    with pytest.raises(nl.CheckpointError, match=r"mis-shaped keys: layer1.0.conv2.weight \(4, 4, 1, 5, 5\)"):
        import_checkpoint(path, allow_partial=True)
    del network.state[network.weight("stem")]
    write(network, path)
    with pytest.raises(nl.CheckpointError):
        import_checkpoint(path, allow_partial=True)


@pytest.mark.parametrize(
    ("lost", "ours"),
    [
        ("res_conv1_bn_rm", "bn1.running_mean"),
        ("res3_1_branch2a_bn_riv", "layer2.1.bn1.running_var"),
        ("nonlocal_conv3_1_bn_s", "layer2.1.nl.norm.weight"),
        ("nonlocal_conv3_1_bn_riv", "layer2.1.nl.norm.running_var"),
        ("nonlocal_conv3_1_out_b", "layer2.1.nl.W_z.bias"),
    ],
)
def test_lost_statistics_are_missed(tmp_path, lost, ours):
    """They are not taken for those of a norm that is frozen, nor of a block without one."""
    network = Official(blocks={3: (1, 3)})
    del network.state[lost]
    with pytest.raises(nl.CheckpointError, match=f"missing keys: {ours}$"):
        nl.load_checkpoint(write(network, tmp_path / "x_8x8.pkl"))


def test_a_block_that_lost_its_norm_among_others_is_missed(tmp_path):
    network = MMAction2(blocks={3: (1, 3)})
    for key in [key for key in network.state if "layer2.1.non_local_block.conv_out.bn" in key]:
        del network.state[key]
    with pytest.raises(nl.CheckpointError, match=r"missing keys: layer2.1.nl.norm.weight"):
        nl.load_checkpoint(write(network, tmp_path / "x.pth"))


def test_the_settings_that_imports_need():
    with pytest.raises(ValueError, match="pool1_skips_frames is about how halves_time_early pools"):
        nl.create_model("i3d_r50_8x8", pool1_skips_frames=True)
    network = nl.create_model("c2d_r50_32x2", pool1_skips_frames=True, width=2, depth=(1, 1, 1, 1)).eval()
    with pytest.raises(ValueError, match="at least 5 frames for this network; got 4"):
        network(torch.zeros(1, 3, 4, 32, 32))
    assert network(torch.zeros(1, 3, 5, 32, 32)).shape == (1, 400)


def test_networks_like_theirs_that_are_not(tmp_path):
    """Clips of one frame, two pathways, a bottleneck left out, other places of the wide kernels."""
    images = {
        key: value[:, :, 0] if value.dim() == 5 else value
        for key, value in MMAction2(blocks={}).state.items()
    }
    two = {**SlowFast(blocks={}).state, "s1.pathway1_stem.conv.weight": torch.zeros(1)}
    shorter = {
        key: value for key, value in SlowFast(blocks={}).state.items() if "s3.pathway0_res1" not in key
    }
    slow = SlowFast(inflation=None, blocks={}).state
    slow["s4.pathway0_res0.branch2.a.weight"] = torch.zeros(16, 64, 3, 1, 1)
    for state, says in (
        (images, "does not say what builds its model"),
        (two, "does not say what builds its model"),
        (shorter, r"layer2 must have bottlenecks from 0 on; it has \[0, 2, 3\]"),
        (slow, "mis-shaped keys: layer3.0.conv1.weight"),
    ):
        torch.save(state, tmp_path / "x.pth")
        with pytest.raises(nl.CheckpointError, match=says):
            nl.load_checkpoint(tmp_path / "x.pth")


def test_what_is_not_exported(tmp_path):
    with pytest.raises(nl.CheckpointError, match="only those for videos are exported"):
        export_checkpoint(nl.create_model("nl_digits"), tmp_path / "x", to="slowfast")
    gaussian = nl.create_model("nl1_i3d_r50_8x8", width=4, instantiation="gaussian")
    with pytest.raises(nl.CheckpointError, match="these weights are none for SlowFast"):
        export_checkpoint(gaussian, tmp_path / "x", to="slowfast")
    with pytest.raises(ValueError, match="to must be one of 'slowfast', 'mmaction2'"):
        export_checkpoint(gaussian, tmp_path / "x", to="caffe2")
    assert not list(tmp_path.iterdir())


def test_a_name_is_translated_by_the_numbers_of_its_own_side():
    names = KeyNames([("res{res}_{place}_{letter}", "layer{res}.{place}.conv{letter}")])
    assert names.ours("res5_0_b") == "layer4.0.conv2"
    assert names.theirs("layer1.3.conv3") == "res2_3_c"
    for key in ("res1_0_a", "res2_0_1"):
        assert names.ours(key) is None
    for key in ("layer5.0.conv1", "layer1.0.conva"):
        assert names.theirs(key) is None


def test_what_the_other_code_computes_otherwise_is_all_said(tmp_path):
    network = nl.create_model("nl5_i3d_r50_32x2", width=4)
    assert export_checkpoint(network, tmp_path / "x", to="slowfast") == [
        "halves_time_early is True, theirs False"
    ]
    assert export_checkpoint(network, tmp_path / "x", to="mmaction2") == [
        "pool1_skips_frames is False, theirs True",
        "window is 7, theirs None",
        "sub_sample is 'before', theirs 'after'",
        "use_scale is True, theirs False",
    ]
