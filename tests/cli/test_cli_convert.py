"""The command that brings checkpoints in and out: what it says, what it writes, and what it refuses."""

import functools
import json
import pickle
import zipfile

import pytest
import torch
from one_line import fails
from safetensors.torch import save_file

import nonlocalnn as nl
from alexhex7 import TheirNetwork, randomized
from foreign_video_networks import MMAction2, Official, SlowFast
from nonlocalnn.checkpoints import read_metadata
from nonlocalnn.cli import main
from tolerances import assert_near
from videos import write_video


def official(path, **settings):
    torch.manual_seed(0)
    network = Official(**{"blocks": {3: (1, 3)}, **settings})
    blobs = {key: value.numpy() for key, value in network.state.items()}
    path.write_bytes(pickle.dumps({"blobs": blobs}, protocol=2))
    return network


def convert(*words):
    return main(["convert", *map(str, words)])


def refuses(capsys, *words, says):
    fails(capsys, "convert", *words, status=1, says=says)


@pytest.mark.parametrize("dot_product", [False, True])
def test_the_digits_of_alexhex7(tmp_path, capsys, dot_product):
    theirs = randomized("dot_product" if dot_product else "embedded_gaussian")
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    words = [tmp_path / "theirs.pth", tmp_path / "ours.safetensors"]
    assert convert(*words, *["--dot-product"] * dot_product) == 0
    ours = nl.load_checkpoint(tmp_path / "ours.safetensors").eval()
    x = torch.rand(2, 1, 28, 28)
    assert_near(ours(x), theirs(x))
    capsys.readouterr()
    assert main(["evaluate", "--model", str(tmp_path / "ours.safetensors"), "--data", "digits",
                 "--output", str(tmp_path / "evaluation")]) == 0  # fmt: skip
    assert "on 353 samples of digits/test" in capsys.readouterr().out


def test_the_dot_product_of_what_is_none(tmp_path, capsys):
    torch.save(TheirNetwork("gaussian").state_dict(), tmp_path / "theirs.pth")
    words = (tmp_path / "theirs.pth", tmp_path / "ours.safetensors", "--dot-product")
    refuses(capsys, *words, says="holds blocks of the kind 'gaussian'")


def test_what_was_found_is_said(tmp_path, capsys):
    network = official(tmp_path / "i3d_nonlocal_8x8_IN.pkl")
    assert convert(tmp_path / "i3d_nonlocal_8x8_IN.pkl", tmp_path / "i3d.safetensors") == 0
    said = capsys.readouterr().out.splitlines()[0]
    for words in (
        "video-nonlocal-net; I3D (3x1x1) of depth 50 (3, 4, 6, 3), first kernel 5x7x7",
        "2 blocks, embedded_gaussian, after layer2.1, layer2.3; batch norms",
        "clips of 8 frames, stride 8",
        "mean 114.75, standard deviation 57.375",
        f"{len(network.state)} tensors, all used",
    ):
        assert words in said
    ours = nl.load_checkpoint(tmp_path / "i3d.safetensors").double().eval()
    assert not ours.pads_pool1
    x = torch.randn(1, 3, 8, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        assert_near(ours(x), network(x))


def test_classes_and_prediction(tmp_path, capsys):
    torch.manual_seed(0)
    network = MMAction2(blocks={}, lengths=(1, 1, 1, 1), width=2, classes=3)
    torch.save({"meta": {}, "state_dict": network.state}, tmp_path / "i3d.pth")
    (tmp_path / "classes.txt").write_text("run\nwalk\nswim\n")
    words = (tmp_path / "i3d.pth", tmp_path / "i3d.safetensors", "--clip", "8x8", "--allow-partial")
    # With clips of 8 frames time is not halved early; its published networks have 32.
    assert convert(*words[:2], "--classes", tmp_path / "classes.txt") == 0
    metadata = read_metadata(tmp_path / "i3d.safetensors")
    assert metadata["classes"] == ["run", "walk", "swim"]
    assert metadata["mean"] == [123.675, 116.28, 103.53]
    write_video(tmp_path / "a.mp4")
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "a.mp4"), "--model", str(tmp_path / "i3d.safetensors")]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["class"] in ("run", "walk", "swim")
    assert convert(*words) == 0
    assert read_metadata(tmp_path / "i3d.safetensors")["sample_shape"] == [3, 8, 224, 224]


def test_there_and_back(tmp_path, capsys):
    torch.manual_seed(0)
    network = SlowFast(blocks={3: (1,)})
    torch.save({"model_state": network.state}, tmp_path / "a.pyth")
    assert convert(tmp_path / "a.pyth", tmp_path / "a.safetensors") == 0
    assert convert(tmp_path / "a.safetensors", tmp_path / "b.pyth", "--to", "slowfast") == 0
    assert "tell slowfast" not in capsys.readouterr().out
    back = torch.load(tmp_path / "b.pyth", weights_only=True)["model_state"]
    assert all(torch.equal(back[key], value) for key, value in network.state.items())
    assert convert(tmp_path / "a.safetensors", tmp_path / "b.pth", "--to", "mmaction2") == 0
    assert "tell mmaction2 what no key says: use_scale is True, theirs False" in capsys.readouterr().out


def test_a_network_of_ours_keeps_what_it_knows(tmp_path):
    facts = {"classes": ["a", "b"], "sample_shape": [3, 8, 32, 32], "stride": 3}
    nl.save_checkpoint(nl.create_model("c2d_tiny", num_classes=2), tmp_path / "a.safetensors", metadata=facts)
    assert convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors") == 0
    assert read_metadata(tmp_path / "b.safetensors") == facts


def test_a_file_of_torch_save_becomes_one_that_commands_take(tmp_path, capsys):
    network = nl.create_model("nl2_c2d_tiny", num_classes=3)
    torch.save(network.state_dict(), tmp_path / "a.pth")
    (tmp_path / "classes.txt").write_text("run\nwalk\nswim\n")
    words = (tmp_path / "a.pth", tmp_path / "a.safetensors")
    refuses(capsys, *words, says=f"nonlocalnn convert {tmp_path / 'a.pth'} NEW.safetensors --model NAME")
    assert convert(*words, "--model", "nl2_c2d_tiny", "--classes", tmp_path / "classes.txt") == 0
    found = nl.load_classifier(tmp_path / "a.safetensors")
    assert found.classes == ("run", "walk", "swim")
    assert torch.equal(found.model.fc.weight, network.fc.weight)


def test_weights_of_images(tmp_path, capsys, monkeypatch):
    torch.manual_seed(0)
    network = Official(inflation=None, blocks={})
    blobs = {key: value.numpy() for key, value in network.images().items()}
    (tmp_path / "r50.pkl").write_bytes(pickle.dumps(blobs, protocol=2))
    narrow = functools.partial(nl.create_model, width=4)
    monkeypatch.setattr("nonlocalnn.cli.convert.create_model", narrow)
    assert convert(tmp_path / "r50.pkl", tmp_path / "i3d.safetensors", "--model", "i3d_r50_32x2") == 0
    assert "stay as they were: fc.weight, fc.bias" in capsys.readouterr().out
    assert nl.load_checkpoint(tmp_path / "i3d.safetensors").config["name"] == "i3d_r50_32x2"
    assert read_metadata(tmp_path / "i3d.safetensors")["sample_shape"] == [3, 32, 224, 224]


def test_each_error_is_one_line(tmp_path, capsys):
    ours = tmp_path / "ours.safetensors"
    network = official(tmp_path / "weights.pkl")
    refuses(capsys, tmp_path / "weights.pkl", ours, says="give clip, one of 8x8, 32x2, 32x4, 128x1")
    words = (tmp_path / "weights.pkl", ours, "--clip")
    refuses(capsys, *words, "9x9", says="clip must be one of '8x8'")
    (tmp_path / "two.txt").write_text("run\nrun\n")
    named = (*words, "8x8", "--classes", tmp_path / "two.txt")
    refuses(capsys, *named, says="must name 7 different classes")
    refuses(capsys, *named, "--to", "slowfast", says="leave it out with --to")
    refuses(capsys, *words, "8x8", "--model", "i3d_r50_8x8", says="leave them out where one is given")
    refuses(capsys, tmp_path / "weights.pkl", ours, "--model", "i3d_r50_9x9", says="model must be one of")
    del network.state["res3_0_branch2a_w"]
    network.state["stranger"] = torch.zeros(1)
    blobs = {key: value.numpy() for key, value in network.state.items()}
    (tmp_path / "weights.pkl").write_bytes(pickle.dumps(blobs, protocol=2))
    refuses(capsys, *words, "8x8", says="missing keys: layer2.0.conv1.weight; unexpected keys: stranger")
    assert not ours.exists()
    assert convert(*words, "8x8", "--allow-partial") == 0
    out = capsys.readouterr().out
    assert "missing keys: layer2.0.conv1.weight" in out
    assert "unexpected keys: stranger" in out
    assert "all used" not in out


def test_damaged_files_are_one_line(tmp_path, capsys):
    ours = tmp_path / "ours.safetensors"
    official(tmp_path / "x_8x8.pkl")
    data = (tmp_path / "x_8x8.pkl").read_bytes()
    (tmp_path / "cut_8x8.pkl").write_bytes(data[: len(data) // 2])
    refuses(capsys, tmp_path / "cut_8x8.pkl", ours, says="or is damaged, and was not read")
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"\0" * 10_000_000)
    refuses(capsys, tmp_path / "bomb.pth", ours, says="claim to unpack to 10000000")
    save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    refuses(capsys, tmp_path / "plain.safetensors", ours, says="does not say what builds its model")
    refuses(capsys, tmp_path / "absent.pkl", ours, says="there is no checkpoint")
    assert not ours.exists()


def test_a_source_is_not_overwritten(tmp_path, capsys):
    path = tmp_path / "a.safetensors"
    nl.save_checkpoint(nl.create_model("nl_digits"), path)
    before = path.read_bytes()
    (tmp_path / "link").symlink_to(path)
    for target in (path, tmp_path / "link"):
        refuses(capsys, path, target, says=f"target {target} would overwrite {path}, which is read")
    assert path.read_bytes() == before


def test_what_is_read_beside_the_source_is_not_overwritten(tmp_path, capsys):
    index = tmp_path / "model.safetensors.index.json"
    shard = tmp_path / "model-00001-of-00001.safetensors"
    nl.save_checkpoint(nl.create_model("nl_digits"), shard)
    index.write_text(json.dumps({"weight_map": {"conv_1.0.weight": shard.name}}))
    classes = tmp_path / "classes.txt"
    classes.write_text("\n".join("abcdefghij"))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    refuses(capsys, index, shard, says=f"would overwrite {shard}, which is read")
    refuses(capsys, shard, classes, "--classes", classes, says=f"would overwrite {classes}, which is read")
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}
