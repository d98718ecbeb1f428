"""Which colours a network confuses: counted by a network that answers by the colours alone."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from nonlocalnn.data import cue, load_dataset
from nonlocalnn.inference.classifier import Classifier


class Blind(nn.Module):
    """Right about every clip, but for those with two given colours whose cue has the first of them."""

    def __init__(self, colours):
        super().__init__()
        self.colours, self.clips, self.next = colours, load_dataset("cue", "test"), 0
        self.weight = nn.Parameter(torch.ones(()))  # it says where the network is

    def forward(self, clips):
        scores = torch.zeros(len(clips), 10)
        for row in scores:
            target, scene = self.clips.targets[self.next], self.clips.scene(self.next)
            row[(target + (scene.colours == self.colours)) % 10] = 1
            self.next += 1
        return scores


def test_a_pair_that_is_confused_stands_out(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples"))
    import cue_colours

    monkeypatch.setitem(cue.NUM_SAMPLES, "test", 120)
    red, blue = cue.COLOURS.index("red"), cue.COLOURS.index("blue")
    model = Blind((red, blue))
    loaded = Classifier(model.eval(), classes=tuple("0123456789"), sample_shape=(3, 8, 32, 32), recipe={})
    monkeypatch.setattr(cue_colours.nl, "load_classifier", lambda run: loaded)
    monkeypatch.setattr(
        sys, "argv", ["cue_colours.py", "runs/a/seed-3", "--output", str(tmp_path / "out.json")]
    )
    cue_colours.main()
    (row,) = json.loads((tmp_path / "out.json").read_text())["rows"]
    scenes = [model.clips.scene(number) for number in range(120)]
    both = [scene.colours for scene in scenes if set(scene.colours) == {red, blue}]
    assert row["run"] == "a/seed-3"
    assert len(row["accuracy"]) == 6
    assert row["accuracy"].pop("red and blue") == pytest.approx(both.count((blue, red)) / len(both))
    assert 0 < both.count((blue, red)) < len(both)
    assert set(row["accuracy"].values()) == {1.0}
    said = capsys.readouterr().out
    assert said.count("**") == 2
    assert said.startswith("| network | ")
