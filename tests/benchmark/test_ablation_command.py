"""``python -m benchmarks ablation``: the files of a table, all tables, and bad input."""

import json
import struct

import pytest
from PIL import Image

from benchmarks.__main__ import main
from nonlocalnn.data import cue, torchvision_sets
from nonlocalnn.functional import INSTANTIATIONS
from tolerances import near

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")


@pytest.fixture
def few_clips(monkeypatch):
    for split, number in {"train": 32, "validation": 20, "test": 20}.items():
        monkeypatch.setitem(cue.NUM_SAMPLES, split, number)


@pytest.mark.slow
def test_a_table_as_json_markdown_and_picture(tmp_path, few_clips, capsys):
    config = tmp_path / "recipe.yaml"
    # The data set on the command line wins over the file's.
    config.write_text("data: digits\nmodel: nl2_c2d_tiny\nepochs: 1\nbatch_size: 16\nlr: 0.003\n")
    folder = tmp_path / "out"
    words = ["ablation", "cue", "--table", "extent", "--seeds", "2", "--config", str(config)]
    assert main([*words, "--output", str(folder)]) == 0
    captured = capsys.readouterr()
    assert "extent: no block, seed 0: test accuracy" in captured.err
    assert "extent: spacetime, seed 1: test accuracy" in captured.err
    table = (folder / "extent.md").read_text()
    assert table in captured.out
    assert [line.split(" | ")[0] for line in table.splitlines()[2:]] == [
        "| no block", "| no block, wider", "| no block, deeper", "| space", "| time", "| spacetime"
    ]  # fmt: skip
    report = json.loads((folder / "extent.json").read_text())
    assert (report["table"], report["seeds"], report["recipe"]["data"]) == ("extent", 2, "cue")
    assert report["variants"][3] == {
        "name": "space", "model": "nl2_c2d_tiny", "overrides": {"extent": "space"}, "gamma": None,
        "alike": None, "start": None, "control": None, "inserted": None,
    }  # fmt: skip
    assert [row["parameters"] for row in report["rows"]] == [130002, 201500, 174674, *[171826] * 3]
    assert [round(row["flops"] / 1e6) for row in report["rows"]] == [17, 26, 26, 23, 23, 25]
    for row in report["rows"]:
        for name in ("test_accuracy", "validation_accuracy", "best_epoch", "seconds", "threads"):
            assert len(row[name]) == 2
        assert row["mean"] == near(sum(row["test_accuracy"]) / 2)
    with Image.open(folder / "extent.png") as picture:
        assert picture.width > 600


@pytest.mark.filterwarnings("ignore:.*sample is of class")
def test_the_digit_network_on_mnists_files(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torchvision_sets, "_NUM_IMAGES", {"train": 24, "test": 10})
    monkeypatch.setattr(torchvision_sets, "_NUM_VALIDATION", 8)
    for name, number in {"train": 24, "t10k": 10}.items():
        labels = bytes(index % 10 for index in range(number))
        pixels = bytes((7 * index) % 251 for index in range(number * 28 * 28))
        for kind, sides, values in (
            ("images-idx3", (number, 28, 28), pixels),
            ("labels-idx1", (number,), labels),
        ):
            header = bytes([0, 0, 8, len(sides)]) + struct.pack(f">{len(sides)}I", *sides)
            (tmp_path / f"{name}-{kind}-ubyte").write_bytes(header + values)
    folder = tmp_path / "out"
    words = ["ablation", "mnist", "--config", "mnist", "--data-dir", str(tmp_path), "--seeds", "1"]
    assert main([*words, "--epochs", "1", "--batch-size", "8", "--output", str(folder)]) == 0
    report = json.loads((folder / "instantiations.json").read_text())
    assert (report["recipe"]["lr"], report["recipe"]["schedule"]) == (0.002, "cosine")
    assert [row["variant"] for row in report["rows"]] == ["no block", *INSTANTIATIONS]
    assert [path.name for path in sorted(folder.iterdir()) if path.is_dir()] == [
        "nl_digits-blocks-false", *(f"nl_digits-instantiation-{name}" for name in sorted(INSTANTIATIONS))
    ]  # fmt: skip


@pytest.mark.slow
def test_all_tables_of_the_digits_are_one(tmp_path, capsys):
    words = [
        "--table",
        "all",
        "--seeds",
        "1",
        "--epochs",
        "1",
        "--batch-size",
        "633",
        "--output",
        str(tmp_path),
    ]
    assert main(["ablation", "digits", *words]) == 0
    assert sorted(path.name for path in tmp_path.glob("*.*")) == [
        "instantiations.json", "instantiations.md", "instantiations.png"
    ]  # fmt: skip
    report = json.loads((tmp_path / "instantiations.json").read_text())
    assert report["variants"][0]["model"] is None
    assert len(report["rows"]) == 5
    assert "results in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["cue", "--table", "stages"], "(did you mean 'stage'?)"),
        (["digits", "--table", "depth"], "table of 'digits' must be one of 'instantiations'"),
        (["cue", "--table", "depth", "--seeds", "0"], "seeds must be at least 1"),
        (["cue", "--model-overrides", '{"depth": [1]}'], "must leave depth to the ablation"),
    ],
)
def test_bad_input_is_one_line(words, says, tmp_path, capsys):
    assert main(["ablation", *words, "--output", str(tmp_path / "runs")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("python -m benchmarks ablation: ")
    assert says in said
    assert said.count("\n") == 1
    assert not (tmp_path / "runs").exists()
