"""Segmentation from the command line: from a folder of images and masks to pictures of labels."""

import json
import re

import numpy as np
import pytest
import torch
from one_line import fails
from PIL import Image

import nonlocalnn as nl
from mask_pictures import draw, write_folder
from nonlocalnn.cli import main
from nonlocalnn.explorer.labels import colours_of
from nonlocalnn.inference import load_segmenter
from tolerances import near

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")
SMALL = ["--image-size", "24", "--resize", "24", "--batch-size", "4", "--device", "cpu"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("masks"), train=12, others=3)


@pytest.fixture(scope="session")
def run_folder(folder, tmp_path_factory):
    """A run that has learnt which pixels are the square: its colour tells."""
    output = tmp_path_factory.mktemp("runs") / "run"
    words = ["train", str(folder), *SMALL, "--epochs", "6", "--lr", "0.01", "--scales", "[0.8,1.2]"]
    assert main([*words, "--output", str(output)]) == 0
    return output


def test_train_and_evaluate(run_folder, capsys):
    recorded = json.loads((run_folder / "metrics.json").read_text())
    assert recorded["test"]["mean_iou"] > 0.6
    recipe = json.loads((run_folder / "recipe.json").read_text())
    assert (recipe["data"], recipe["model"]) == ("masks", "nl_fcn_tiny")
    assert main(["evaluate", "--model", str(run_folder)]) == 0
    said = capsys.readouterr().out
    assert f"mean IoU {recorded['test']['mean_iou']:.4f} (over 2 of 2 classes)" in said
    assert re.search(r"^square +\d", said, re.M)
    report = json.loads((run_folder / "evaluation-masks-test/metrics.json").read_text())
    assert report["confusion"] == recorded["test"]["confusion"]
    # Every pixel of the three masks but those of their ignored column.
    assert np.sum(report["confusion"]) == 3 * 24 * 39


def test_the_task_may_be_named(folder, tmp_path, capsys):
    words = ["--task", "segmentation", "--data", "masks", "--data-dir", str(folder), *SMALL]
    assert main(["train", *words, "--epochs", "1", "--output", str(tmp_path / "run")]) == 0
    assert "test mean iou" in capsys.readouterr().out


def test_predict_writes_labels_overlays_and_lines(run_folder, folder, tmp_path, capsys):
    image = folder / "test/images/test-1.png"
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    words = ["predict", str(image), str(broken), "--model", str(run_folder), "--output-folder"]
    assert main([*words, str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("nonlocalnn predict: cannot read image")
    first, second = map(json.loads, captured.out.splitlines())
    assert second.keys() == {"path", "error"}
    assert (first["width"], first["height"]) == (40, 24)
    with Image.open(first["labels"]) as picture:
        ids = np.array(picture)
        assert (picture.mode, picture.size) == ("P", (40, 24))
        assert tuple(picture.getpalette()[3:6]) == colours_of(("background", "square"))[1]
    assert set(np.unique(ids)) <= {0, 1}
    shares = {each["class"]: each["share"] for each in first["classes"]}
    assert shares["square"] == near(float((ids == 1).mean()))
    # The square is where it is.
    mask = draw(1)[1]
    both = (ids == 1) & (mask == 1)
    assert both.sum() / ((ids == 1) | (mask == 1)).sum() > 0.4
    with Image.open(first["overlay"]) as picture:
        assert picture.width >= 320
        colours = {tuple(colour) for colour in np.array(picture).reshape(-1, 3).tolist()}
    assert (128, 0, 0) in colours  # in the legend


def test_predict_to_a_file_and_beside_the_run(run_folder, folder, tmp_path):
    lines = tmp_path / "lines.jsonl"
    words = ["predict", str(folder / "test/images"), "--model", str(run_folder), "--window", "16"]
    assert main([*words, "--output", str(lines)]) == 0
    answers = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [each["labels"] for each in answers] == [
        str(run_folder / f"predictions/test-{index}-labels.png") for index in range(3)
    ]


def test_pages_and_maps_show_the_labels(run_folder, folder, tmp_path, capsys):
    image = str(folder / "test/images/test-0.png")
    page = tmp_path / "page.html"
    assert main(["explain", image, "--model", str(run_folder), "--output", str(page)]) == 0
    assert "most pixels 'background'" in capsys.readouterr().out
    text = page.read_text()
    document = json.loads(
        re.search(r'<script[^>]*type="application/json"[^>]*>(.*?)</script>', text, re.S)[1]
    )
    assert document["input"]["labels"].startswith("data:image/")
    assert document["input"]["picture_sides"] == [24, 40]
    assert sum(each["share"] for each in document["prediction"]) == near(1.0)
    assert [block["name"] for block in document["blocks"]] == ["head.nl"]
    # At a stride of 8 of 24 x 40 pixels.
    assert document["blocks"][0]["sides"] == [3, 5]
    assert document["blocks"][0]["grid"]["steps"] == [8.0, 8.0]

    assert main(["maps", image, "--model", str(run_folder), "--output", str(tmp_path / "maps")]) == 0
    written = tmp_path / "maps/test-0"
    assert {path.name for path in written.iterdir()} >= {"labels.png", "head.nl.png", "summary.json"}
    summary = json.loads((written / "summary.json").read_text())
    assert summary["prediction"][0].keys() == {"class", "id", "share"}


def test_of_a_data_set(run_folder, folder, tmp_path, capsys):
    words = ["--data", "masks", "--data-dir", str(folder), "--model", str(run_folder)]
    assert main(["explain", *words, "--sample", "2", "-o", str(tmp_path / "p.html")]) == 0
    assert "test-2: most pixels" in capsys.readouterr().out
    fails(capsys, "explain", *words, "--sample", "3", status=1, says="samples are from 0 to 2")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["evaluate", "--data", "digits"], "'digits' has no masks"),
        (["evaluate", "--views", "30"], "--views has no effect on a segmentation network"),
        (["predict", "x.png", "--top", "2"], "--top has no effect on a segmentation network"),
        (["predict", "x.png", "--window", "0"], "window must be a whole number"),
        (["predict", "--list", "x.txt", "--output-folder", "o"], "--list is for classifiers"),
        (["maps", "x.png", "--whole"], "--whole has no effect on a segmentation network"),
        (["explain", "x.png", "--deletion"], "--deletion has no effect on a segmentation network"),
    ],
    ids=lambda value: "-".join(value[:3]) if isinstance(value, list) else "",
)
def test_what_has_no_effect(run_folder, words, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fails(capsys, *words, "--model", run_folder, status=1, says=says)


def test_a_window_for_a_classifier(checkpoint, photo, capsys):
    for words in (["predict", photo], ["evaluate"]):
        fails(capsys, *words, "--model", checkpoint, "--window", 8, status=1, says="--window is a setting of")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda root: Image.new("L", (9, 9)).save(root / "train/masks/train-0.png"), "as large as its image"),
        (lambda root: Image.new("L", (40, 24), 7).save(root / "train/masks/train-0.png"), "has the ids 7"),
        (lambda root: (root / "test/masks/test-0.png").unlink(), "has no mask"),
        (lambda root: (root / "train/images/train-0.png").write_bytes(b"x"), "cannot read image"),
        (lambda root: (root / "classes.txt").unlink(), "classes.txt"),
    ],
    ids=["size", "ids", "no mask", "broken", "no classes"],
)
def test_bad_folders_are_one_line(tmp_path, spoil, says, capsys):
    spoil(write_folder(tmp_path / "data"))
    words = ["train", tmp_path / "data", *SMALL, "--epochs", "1", "--output", tmp_path / "run"]
    main([str(word) for word in words])
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("nonlocalnn train: ")
    assert says in line


def test_other_classes_than_the_models(run_folder, tmp_path, capsys):
    root = write_folder(tmp_path / "data", classes=("background", "circle"))
    words = ["evaluate", "--model", run_folder, "--data", "masks", "--data-dir", root]
    fails(capsys, *words, "--output", tmp_path / "out", status=1, says="are 'square' and 'circle'")


def test_a_segmentation_network_is_no_classifier(run_folder):
    with pytest.raises(nl.CheckpointError, match=r"nonlocalnn\.inference\.load_segmenter"):
        nl.load_classifier(run_folder)
    segmenter = load_segmenter(run_folder)
    assert (segmenter.resize, segmenter.assumed) == (24, ())
    assert segmenter.labels(torch.rand(3, 31, 57)).shape == (31, 57)


def test_a_classifier_is_no_segmentation_network(checkpoint):
    with pytest.raises(nl.CheckpointError, match="was trained for classification"):
        load_segmenter(checkpoint)


@pytest.mark.slow
def test_export_takes_any_size(run_folder, tmp_path, capsys):
    for name in ("net.pt2", "net.onnx"):
        kind = name.rpartition(".")[2]
        words = ["export", str(run_folder), "--format", kind, "--output", str(tmp_path / name)]
        assert main(words) == 0
        assert "any size: batch, height, width" in capsys.readouterr().out
