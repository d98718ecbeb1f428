"""The example that makes pretrained weights and photographs ready: files, names and the command."""

import shlex
import sys
from collections import OrderedDict
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from benchmarks.ablation.runs import plan
from nonlocalnn.cli.recipe_parser import RecipeParser
from test_docs import ROOT


def network():
    layers = {"conv": nn.Conv2d(3, 4, 3), "norm": nn.BatchNorm2d(4), "classifier": nn.Linear(4, 1000)}
    return nn.Sequential(OrderedDict(layers))


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    # The network itself is another library's, which this test does without.
    library = ModuleType("timm")
    library.create_model = lambda _: network()
    monkeypatch.setitem(sys.modules, "timm", library)
    import pretrained_photographs

    return pretrained_photographs


@pytest.fixture
def files(tmp_path):
    """Weights under foreign names, and photographs whose first pixel is their number."""
    torch.manual_seed(0)
    foreign = network().state_dict()
    torch.save({f"_{key}": value for key, value in foreign.items()}, tmp_path / "weights.pth")
    pixels = np.random.default_rng(0).integers(0, 256, (32, 5, 7, 3), dtype=np.uint8)
    pixels[:, 0, 0, 0] = range(32)
    arrays = {"x_train": pixels[:20], "y_train": np.arange(20) % 10, "x_test": pixels[20:]}
    np.savez(tmp_path / "photographs.npz", **arrays, y_test=np.arange(12) % 10)
    return foreign, pixels


def test_files_and_a_command(tmp_path, example, files, capsys):
    foreign, pixels = files
    words = ["--weights", str(tmp_path / "weights.pth"), "--photographs", str(tmp_path / "photographs.npz")]
    example.main([*words, "--output", str(tmp_path / "out")])
    found = torch.load(tmp_path / "out/weights.pth", weights_only=True)
    assert list(found) == list(foreign)
    # All that it has learnt, and a last layer of these classes that prefers none.
    for key, value in foreign.items():
        zeros = torch.zeros(10, *value.shape[1:])
        assert torch.equal(found[key], zeros if key.startswith("classifier.") else value)
    written = {}
    for path in (tmp_path / "out/photographs").rglob("*.png"):
        split, name = path.parts[-3:-1]
        pixel = np.asarray(Image.open(path))
        assert np.array_equal(pixel, pixels[pixel[0, 0, 0]])
        written.setdefault(split, []).append((int(pixel[0, 0, 0]), example.CLASSES.index(name)))
    assert {split: sorted(members) for split, members in written.items()} == {
        "validation": [(0, 0), (10, 0)],
        "train": [(number, number % 10) for number in range(20) if number % 10],
        "test": [(20 + number, number % 10) for number in range(12)],
    }
    program, *words = shlex.split(capsys.readouterr().out.replace("\\\n", " "))[3:]
    assert (program, words[0]) == ("ablation", "images")
    parser = RecipeParser(program="ablation", description="", example="")
    parser.add_argument("--table")
    recipe, own = parser.parse_words([*words[1:], "--data", words[0], "--model", "torchvision/resnet18"])
    rows = [variant.name for variant, _ in plan(recipe, table=own.table, num_seeds=1)]
    assert rows[:2] == ["no block", "mean over positions"]


def test_other_weights_are_refused(example):
    with pytest.raises(ValueError, match="must be of tf_efficientnet_lite0, 9 tensors; they are 1 others"):
        example.under_names_of(network(), {"weight": torch.zeros(4)})
