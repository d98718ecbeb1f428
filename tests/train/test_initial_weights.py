import pytest
import torch
from safetensors.torch import save_file

import nonlocalnn as nl
from helpers import randomize_
from nonlocalnn.checkpoints import CheckpointError
from nonlocalnn.train.initial_weights import start_from_
from tolerances import NETWORK, assert_near, assert_same


def network(name="nl2_c2d_tiny", **settings):
    return randomize_(nl.create_model(name, **{"num_classes": 5, **settings})).double().eval()


def saved(model, folder):
    path = folder / "weights.safetensors"
    nl.save_checkpoint(model, path)
    return path


def test_the_same_network_gives_the_same_scores(tmp_path):
    source, model, clip = network(), network(), torch.randn(2, 3, 4, 16, 16).double()
    assert not torch.allclose(source(clip), model(clip), rtol=0.01)
    assert start_from_(model, saved(source, tmp_path)) == []
    assert_near(model(clip), source(clip))


def test_other_classes_begin_anew(tmp_path):
    source, model = network(), network(num_classes=7)
    kept, own = model.fc.weight.clone(), start_from_(model, saved(source, tmp_path))
    assert own == ["fc.weight", "fc.bias"]
    assert_near(model.fc.weight, kept)
    clip = torch.randn(2, 3, 4, 16, 16).double()
    assert_near(model.features(clip), source.features(clip))


def test_new_blocks_begin_as_they_are(tmp_path):
    source, model = (
        network("c2d_tiny"),
        nl.create_model("nl2_c2d_tiny", num_classes=5, zero_init=True).double().eval(),
    )
    kept = start_from_(model, saved(source, tmp_path))
    assert kept
    assert all(".nl." in name for name in kept)
    clip = torch.randn(2, 3, 4, 16, 16).double()
    assert_near(model(clip), source(clip))


@pytest.mark.parametrize("instantiation", ["embedded_gaussian", "concatenation"])
def test_frozen_norms_and_blocks_without_norm_give_the_same_scores(tmp_path, instantiation):
    source = network(instantiation=instantiation)
    model = network(instantiation=instantiation, norm="frozen")
    assert start_from_(model, saved(source, tmp_path)) == []
    clip = torch.randn(2, 3, 4, 16, 16).double()
    # The network in between, whose norms are folded, is in float32.
    assert_near(model(clip), source(clip), sums=NETWORK, dtype=torch.float32)


def test_image_weights_are_inflated(tmp_path):
    image = randomize_(nl.create_model("resnet_tiny", num_classes=9)).double().eval()
    path = tmp_path / "image.pth"
    torch.save(image.state_dict(), path)
    model = network("c2d_tiny", inflation="3x1x1")
    assert start_from_(model, path) == ["fc.weight", "fc.bias"]
    # Of a clip of equal frames, those in the middle see no padding.
    pixels = torch.randn(2, 3, 16, 16).double()
    frames = model.conv1(pixels.unsqueeze(2).expand(-1, -1, 9, -1, -1))
    assert_near(frames[:, :, 4], image.conv1(pixels))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("c2d_tiny", {"width": 4}, r"of another network: conv1.weight is \(4, 3, 1, 3, 3\) and it is \(8"),
        ("c2d_tiny", {"depth": [2, 1, 1, 1]}, "layer1.1.conv1.weight is .* the network lacks it"),
        ("nl2_c2d_tiny", {}, r"layer2.0.nl.*the network lacks it"),
    ],
)
def test_another_network(tmp_path, name, settings, message):
    path = saved(network(name, **settings), tmp_path)
    model = network("c2d_tiny")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        start_from_(model, path)
    assert_same(model.state_dict(), before)


def test_a_shallower_network_lacks_weights(tmp_path):
    path = saved(network("c2d_tiny"), tmp_path)
    with pytest.raises(CheckpointError, match=r"it lacks layer1\.1\.conv1\.weight and"):
        start_from_(network("c2d_tiny", depth=[2, 1, 1, 1]), path)


def test_the_folder_of_a_run_stands_for_its_best_weights(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(FileNotFoundError, match="holds no finished epoch"):
        start_from_(network(), run)
    saved(source := network(), tmp_path).rename(run / "best.safetensors")
    torch.manual_seed(1)
    model = network()
    start_from_(model, run)
    assert_same(model.state_dict(), source.state_dict())


def test_files_that_are_no_weights(tmp_path):
    path = tmp_path / "image.pth"
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        start_from_(network(), path)
    path.write_bytes(b"not weights at all")
    with pytest.raises(CheckpointError, match="is no checkpoint: it is a text"):
        start_from_(network(), path)
    torch.save({"strange.weight": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match=r"no image network that fits this one: .*'strange.weight'"):
        start_from_(network(), path)


@pytest.mark.parametrize("name", ["resnet_tiny", "nl_fcn_tiny"])
def test_quantised_weights_are_refused(tmp_path, name):
    model = nl.create_model(name)
    torch.save({key: value.to(torch.int8) for key, value in model.state_dict().items()}, tmp_path / "a.pth")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match="quantised weights or whole numbers"):
        start_from_(model, tmp_path / "a.pth")
    assert_same(model.state_dict(), before)


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_published_weights_of_another_library(tmp_path, ending):
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    published = randomize_(models.resnet18(weights=None, num_classes=9)).eval()
    path = tmp_path / f"resnet18.{ending}"
    if ending == "pth":
        torch.save(published.state_dict(), path)
    else:
        save_file(published.state_dict(), path)
    model = models.resnet18(weights=None, num_classes=5).eval()
    nl.insert_nonlocal_(model, ["layer3"])
    kept = start_from_(model, path)
    assert {name.rpartition(".")[0] for name in kept if not name.startswith("layer3.nl.")} == {"fc"}
    x = torch.randn(2, 3, 32, 32)
    published.fc = model.fc
    assert_near(model(x), published(x))
    with pytest.raises(CheckpointError, match=r"of another network: layer1\.0\.bn3\..* lacks it"):
        start_from_(model, saved(models.resnet50(weights=None), tmp_path))


def test_heads_of_segmentation_networks_of_other_classes_begin_anew(tmp_path):
    source, model = network("fcn_tiny", num_classes=3), network("fcn_tiny", num_classes=4)
    kept = start_from_(model, saved(source, tmp_path))
    assert kept
    assert {name.split(".")[0] for name in kept} == {"head"}
    image = torch.randn(1, 3, 16, 16).double()
    body, theirs = (dict(each.named_children())["conv1"](image) for each in (model, source))
    assert_near(body, theirs)
