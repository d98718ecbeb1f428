"""The plots of the results pages: their numbers are those of the JSON files."""

import json
import shutil

import pytest
from PIL import Image

from benchmarks import plots
from benchmarks.__main__ import main

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")


def rows_of(name):
    return plots.PLOTS[name][0](json.loads((plots.RESULTS / f"{name}.json").read_text()))


def test_rows_are_the_numbers_of_the_pages():
    assert rows_of("digits")["gaussian"] == pytest.approx([99.43, 99.43, 98.87], abs=0.005)
    assert rows_of("finetune")["before"] == pytest.approx([98.58, 99.15, 98.58], abs=0.005)
    assert rows_of("attended-cue")["dot_product, layer2"] == pytest.approx([31.5, 34.4, 42.5], abs=0.05)
    assert list(rows_of("attended-cue"))[-2:] == ["even attention, layer2", "even attention, layer3"]
    assert rows_of("models")["nl5_i3d_r50_8x8, inference, 1 clip"] == pytest.approx([1.43], abs=0.005)
    assert rows_of("models")["long clip, concatenation"] == pytest.approx([2.06], abs=0.005)
    assert rows_of("ranks")["gaussian, 1 rank"] == pytest.approx([103], abs=0.5)
    assert len(rows_of("ranks")["gaussian, 4 ranks"]) == 4
    assert max(rows_of("training")["two ranks, ddp"]) == pytest.approx(440, abs=0.5)


def test_all_are_drawn_and_each_lies_beside_its_page(tmp_path, capsys):
    for name in plots.PLOTS:
        shutil.copy(plots.RESULTS / f"{name}.json", tmp_path)
    names = [*plots.PLOTS, "cue/init", "dense/points"]
    for name in names[-2:]:
        (tmp_path / name).parent.mkdir()
        shutil.copy(plots.RESULTS / f"{name}.json", tmp_path / f"{name}.json")
    assert main(["plots", "--results", str(tmp_path)]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / f"{name}.png") for name in names]
    for name in names:
        with Image.open(tmp_path / f"{name}.png") as drawn, Image.open(plots.RESULTS / f"{name}.png") as kept:
            # Versions of matplotlib round the tight box of a picture to another pixel.
            assert drawn.size == pytest.approx(kept.size, abs=2)
