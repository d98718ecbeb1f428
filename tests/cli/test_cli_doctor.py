"""`nonlocalnn doctor`: a verdict on each block of a trained network, and refusals in one line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from one_line import fails

import nonlocalnn as nl
from nonlocalnn.checkpoints import read_metadata
from nonlocalnn.cli import main
from nonlocalnn.cli.doctor import _batches
from nonlocalnn.data import LabelledSamples
from nonlocalnn.data.masks import load_masks
from tolerances import assert_same, near

# A network that learnt the generated clips of long range; its blocks are dot products.
TRAINED = Path(__file__).parents[2] / "examples" / "notebooks" / "cue.safetensors"
WORDS = ["--samples", "16", "--device", "cpu"]


def examined(capsys, *words):
    assert main(["doctor", *map(str, words), *WORDS, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def changed(tmp_path, change):
    """The trained network with all of its blocks changed by hand."""
    model = nl.load_checkpoint(TRAINED)
    with torch.no_grad():
        for block in nl.nonlocal_blocks(model).values():
            change(block)
    path = tmp_path / "changed.safetensors"
    nl.save_checkpoint(model, path, metadata=read_metadata(TRAINED))
    return path


def test_a_network_that_learnt_the_long_range_has_a_healthy_block(capsys):
    found = examined(capsys, TRAINED, "--data", "cue")
    first, second = found["blocks"]
    assert first["name"] == "layer2.0.nl"
    assert first["verdict"] == "healthy"
    assert first["without"]["figures"]["accuracy"] < -0.2
    assert second["verdict"] not in ("never trained", "attends to padding", "even attention")
    assert (found["data"], found["split"], found["num_samples"]) == ("cue", "validation", 16)


def test_blocks_that_were_never_trained(tmp_path, capsys):
    path = changed(tmp_path, lambda block: block.norm.weight.zero_() + block.norm.bias.zero_())
    assert main(["doctor", str(path), "--data", "cue", *WORDS]) == 0
    said = capsys.readouterr().out
    assert said.count(": never trained") == 2
    # Blocks of one verdict share what to try.
    assert said.count("see that the optimiser has its parameters") == 1
    assert "layer2.0.nl, layer3.0.nl: it adds next to nothing yet" in said


def test_blocks_with_flat_attention(tmp_path, capsys):
    def flatten(block):
        for layer in (block.theta, block.phi):
            layer.weight.zero_()
            layer.bias.fill_(0.3)

    found = examined(capsys, changed(tmp_path, flatten), "--data", "cue")
    assert [block["verdict"] for block in found["blocks"]] == ["even attention"] * 2
    assert [block["entropy"] for block in found["blocks"]] == [near(1.0), near(1.0)]


@pytest.fixture(scope="module")
def sequences(tmp_path_factory):
    """A checkpoint of sequences, of the widths 2 and unequal lengths, and folders of them."""
    place = tmp_path_factory.mktemp("sequences")
    generator = np.random.default_rng(0)
    for folder in ("own", "padded"):
        for name in ("falls", "rises"):
            (place / folder / "validation" / name).mkdir(parents=True)
            for number, length in enumerate((9, 14, 40, 12, 33, 11, 64, 16)):
                wave = generator.normal(size=(2, length)) + np.linspace(-1, 1, length)
                if folder == "padded":
                    wave = np.pad(wave, ((0, 0), (0, 64 - length)))
                np.save(place / folder / "validation" / name / f"{number}.npy", wave)
    for folder in ("own", "padded"):
        for split in ("train", "test"):
            shutil.copytree(place / folder / "validation", place / folder / split)
    torch.manual_seed(0)
    model = nl.create_model("nl2_resnet1d_tiny", num_classes=2, in_channels=2)
    facts = {"classes": ["falls", "rises"], "sample_shape": [2, 64], "lengths": [9, 64]}
    facts |= {"mean": [0.0, 0.0], "standard_deviation": [1.0, 1.0]}
    nl.save_checkpoint(model, place / "waves.safetensors", metadata=facts)
    return place


def test_sequences_whose_padding_is_masked_and_not(sequences, capsys):
    words = [sequences / "waves.safetensors", "--data", "sequences", "--data-dir", sequences / "own"]
    masked = examined(capsys, *words)
    assert [block["padding"] for block in masked["blocks"]] == [0.0, 0.0]
    assert all(block["padded_keys"] > 0.3 for block in masked["blocks"])
    blind = examined(capsys, *words, "--no-masks")
    assert [block["verdict"] for block in blind["blocks"]] == ["attends to padding"] * 2
    assert all(block["padding"] > 0.1 for block in blind["blocks"])


def test_padding_inside_the_files_is_found(sequences, capsys):
    words = [str(sequences / "waves.safetensors"), "--data", "sequences"]
    assert main(["doctor", *words, "--data-dir", str(sequences / "padded"), *WORDS]) == 0
    captured = capsys.readouterr()
    assert captured.out.count(": attends to padding") == 2
    assert "14 of 16 samples begin or end with steps that repeat one value" in captured.err


def test_a_segmentation_network_is_examined(tmp_path, capsys):
    torch.manual_seed(0)
    path = tmp_path / "scenes.safetensors"
    model = nl.create_model("nl_fcn_tiny")
    classes = list(load_masks("segment-cue", "validation").classes)
    facts = {"task": "segmentation", "classes": classes, "recipe": {"data": "segment-cue"}}
    nl.save_checkpoint(model, path, metadata=facts)
    assert main(["doctor", str(path), "--samples", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["figures"]) == ["pixel_accuracy"]
    assert len(found["blocks"]) == 1


def test_batches_hold_samples_from_all_over_a_split():
    # Folders have one class after another.
    class Sorted(LabelledSamples):
        def __init__(self):
            super().__init__(classes=("a", "b"), sample_shape=(1, 2), targets=[0] * 200 + [1] * 200)

        def read(self, index):
            return torch.full((1, 2), float(index))

        def sample_id(self, index):
            return str(index)

    (first, targets), *others = _batches(Sorted(), 64)
    assert len(others) == 7
    assert all(0 < each.sum() < len(each) for each in (targets, *(each for _, each in others)))
    assert_same(first, next(iter(_batches(Sorted(), 64)))[0])
    everything = torch.cat([first, *(each for each, _ in others)])[:, 0, 0]
    assert (everything.min(), everything.max(), len(everything.unique())) == (0, 399, 64)


def test_refusals(tmp_path, capsys):
    def refused(*words, says, status=1):
        fails(capsys, "doctor", *words, status=status, says=says)

    refused(TRAINED, says="--data is needed: the checkpoint does not say what it was trained on")
    refused(TRAINED, "--data", "digits", says="the model was trained on clips")
    refused(TRAINED, "--data", "cue", "--samples", "1", says="--samples must be a whole number of at least 2")
    refused(TRAINED, "--data", "videos", "--data-dir", tmp_path / "no", says="no such folder of videos")
    refused(tmp_path / "no.safetensors", says="there is no checkpoint")
    refused(says="RUN", status=2)
    plain = tmp_path / "plain.safetensors"
    nl.save_checkpoint(nl.create_model("c2d_tiny"), plain, metadata=read_metadata(TRAINED))
    refused(plain, "--data", "cue", says="has no non-local block that could be examined")
    facts = {"task": "detection", "classes": ["0", "1"]}
    nl.save_checkpoint(nl.create_model("nl1_fasterrcnn_tiny"), plain, metadata=facts)
    refused(plain, "--data", "detect-cue", says="is a detector, whose loss is made in train mode only")
