"""From a folder of volumes to a trained network, figures, answers, pictures and a page, by commands."""

import json
from argparse import Namespace

import numpy as np
import pytest
import torch
from one_line import fails

import nonlocalnn as nl
from data.volume_files import AFFINE, ball, write_nifti, write_series
from helpers import randomize_
from nonlocalnn.checkpoints import read_metadata
from nonlocalnn.cli import main
from nonlocalnn.cli.answers import write_lines
from nonlocalnn.inference import VolumeSegmenter, load_classifier, load_segmenter
from nonlocalnn.train.initial_weights import start_from_

nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    """A folder of volumes with masks, and the run of a training on it."""
    place, generator = tmp_path_factory.mktemp("masks"), np.random.default_rng(0)
    for split, number in (("train", 4), ("validation", 1), ("test", 2)):
        for each in range(number):
            array, mask = ball(generator)
            write_nifti(place / "data" / split / f"images/{each}.nii.gz", array, AFFINE, dtype=np.float32)
            write_nifti(place / "data" / split / f"masks/{each}.nii.gz", mask, AFFINE, dtype=np.uint8)
    (place / "data/classes.txt").write_text("background\nball\n")
    words = ["--image-size", "16", "--patches", "6", "--epochs", "3", "--lr", "0.01", "--device", "cpu"]
    words += ["--model-overrides", '{"width": 4, "depth": 2}', "--output", str(place / "run")]
    assert main(["train", str(place / "data"), *words]) == 0
    return place


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """A folder of volumes in class folders, and the run of a training on it."""
    place, generator = tmp_path_factory.mktemp("classes"), np.random.default_rng(0)
    for split, number in (("train", 6), ("validation", 2), ("test", 2)):
        for name in ("ball", "none"):
            for each in range(number):
                array, mask = ball(generator)
                array = array if name == "ball" else array - mask
                write_nifti(place / "data" / split / name / f"{each}.nii.gz", array, dtype=np.float32)
    words = ["--image-size", "16", "--epochs", "4", "--lr", "0.003", "--device", "cpu"]
    assert main(["train", str(place / "data"), *words, "--output", str(place / "run")]) == 0
    return place


def test_a_run_of_volumes_with_masks(masks):
    recipe = json.loads((masks / "run/recipe.json").read_text())
    assert (recipe["data"], recipe["model"]) == ("volume-masks", "nl_unet3d_tiny")
    facts = read_metadata(masks / "run/best.safetensors")
    assert facts["volume"] == {"spacing": None, "intensity": None}
    assert (facts["task"], facts["sample_shape"], facts["window"]) == ("segmentation", [1, 16, 16, 16], 16)
    metrics = json.loads((masks / "run/metrics.json").read_text())
    # Far more than the ball's share of the voxels, which a network gets that says "ball" everywhere.
    assert metrics["test"]["mean_dice"] > 0.6
    assert metrics["test"]["mean_hausdorff_95_mm"] > 0


def test_volumes_are_labelled_on_their_own_grid(masks, capsys):
    test, out = masks / "data/test/images", masks / "labelled"
    assert main(["predict", str(test), "--model", str(masks / "run"), "--output-folder", str(out)]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["path"] for answer in answers] == [str(test / "0.nii.gz"), str(test / "1.nii.gz")]
    for answer in answers:
        mask, image = nibabel.load(answer["labels"]), nibabel.load(answer["path"])
        assert (mask.affine == image.affine).all()
        ids = np.asarray(mask.dataobj)
        assert ids.shape == image.shape
        truth = np.asarray(nibabel.load(answer["path"].replace("images", "masks")).dataobj)
        both = ((ids == 1) & (truth == 1)).sum()
        assert 2 * both / ((ids == 1).sum() + (truth == 1).sum()) > 0.5
        (found,) = [each for each in answer["classes"] if each["class"] == "ball"]
        # 1 x 2 x 1.5 mm are 3 cubic millimetres.
        assert found["millilitres"] == pytest.approx(0.003 * (ids == 1).sum())
        assert (out / f"{answer['labels'].split('/')[-1][0]}-overlay.png").stat().st_size > 1000


def test_the_same_figures_as_in_training(masks, capsys):
    assert main(["evaluate", "--model", str(masks / "run"), "--output", str(masks / "figures")]) == 0
    assert "Hausdorff 95 %" in capsys.readouterr().out
    found = json.loads((masks / "figures/metrics.json").read_text())
    trained = json.loads((masks / "run/metrics.json").read_text())["test"]
    assert found["mean_dice"] == pytest.approx(trained["mean_dice"], abs=1e-6)
    assert found["volumes"] == trained["volumes"] or found["mean_hausdorff_95_mm"] == pytest.approx(
        trained["mean_hausdorff_95_mm"]
    )


@pytest.mark.parametrize("kind", ["masks", "classes"])
def test_pictures_and_a_page(kind, request, capsys):
    place = request.getfixturevalue(kind)
    inside = "images/0.nii.gz" if kind == "masks" else "ball/0.nii.gz"
    file, run = str(place / "data/test" / inside), str(place / "run")
    block = "nl" if kind == "masks" else "layer2.0.nl"
    words = ["--output", str(place / "maps"), "--pixels", "3,4,5", "--blocks", block]
    assert main(["maps", file, "--model", run, *words]) == 0
    told = capsys.readouterr().out
    assert "slices (uniform)" in told
    # Names of blocks may be shorter than their column's title.
    title = next(line for line in told.splitlines() if "entropy" in line)
    assert title.split()[:3] == ["block", "form", "entropy"]
    assert ("most voxels" in told) == (kind == "masks")
    names = {path.name for path in (place / "maps/0").iterdir()}
    assert {f"{block}.png", f"{block}-attended.png", "summary.json"} <= names
    assert ("labels.png" in names) == (kind == "masks")
    summary = json.loads((place / "maps/0/summary.json").read_text())
    assert len(summary["millimetres"]) == 3
    page = place / "page.html"
    assert main(["explain", file, "--model", run, "-o", str(page), "--blocks", block]) == 0
    assert '"kind":"volume"' in page.read_text()
    assert main(["explain", "--data", *data_of(kind), "--sample", "1", "--model", run, "-o", str(page)]) == 0


def data_of(kind):
    return {"masks": ["volume-masks"], "classes": ["volumes"]}[kind]


def test_volumes_are_classified(classes, capsys):
    facts = read_metadata(classes / "run/best.safetensors")
    assert facts["volume"] == {"spacing": None, "intensity": None}
    assert "image_size" not in facts
    run = str(classes / "run")
    assert main(["evaluate", "--model", run, "--output", str(classes / "figures")]) == 0
    found = json.loads((classes / "figures/metrics.json").read_text())
    capsys.readouterr()
    series = write_series(classes / "scan", np.zeros((4, 5, 6), dtype=int))
    assert (
        main(["predict", str(classes / "data/test"), str(series), "--model", run, "--batch-size", "3"]) == 0
    )
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (len(answers), answers[-1]["path"]) == (5, str(series))
    right = sum(f"/{answer['class']}/" in answer["path"] for answer in answers[:4])
    assert right == round(4 * found["accuracy"])
    loaded = load_classifier(run)
    assert (loaded.kind.name, loaded.facts()["volume"]) == ("volume", {"spacing": None, "intensity": None})


def test_an_error_names_its_file(capsys):
    errors = [{"path": "a.nii", "error": "too few voxels"}, {"path": "b.nii", "error": "b.nii is cut"}]
    assert write_lines(Namespace(output=None), errors, total=2) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("nonlocalnn")]
    assert said == ["nonlocalnn predict: a.nii: too few voxels", "nonlocalnn predict: b.nii is cut"]


def test_each_kind_refuses_the_others(masks, classes, tmp_path, capsys):
    from PIL import Image

    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    for place in (masks, classes):
        words = ["explain", tmp_path / "a.png", "--model", place / "run"]
        fails(capsys, *words, status=1, says=f"{tmp_path / 'a.png'} is no volume")
    model = randomize_(nl.create_model("nl2_resnet_tiny", num_classes=2))
    facts = {"classes": ["a", "b"], "sample_shape": [3, 32, 32]}
    nl.save_checkpoint(model, tmp_path / "images.safetensors", metadata=facts)
    scan = masks / "data/test/images/0.nii.gz"
    fails(
        capsys,
        "predict",
        scan,
        "--model",
        tmp_path / "images.safetensors",
        status=1,
        says="cannot read image",
    )
    evaluate = ["evaluate", "--model", classes / "run", "--data", "digits"]
    fails(capsys, *evaluate, status=1, says="was trained on volumes")
    evaluate = ["evaluate", "--model", masks / "run", "--data", "segment-cue"]
    fails(capsys, *evaluate, status=1, says="trained to label volumes")
    for data in ("volume-masks", "sequence-labels"):
        evaluate = ["evaluate", "--model", classes / "run", "--data", data, "--data-dir", masks / "data"]
        says = f"gives one class a volume, and '{data}' has classes of parts of one: choose volumes"
        fails(capsys, *evaluate, status=1, says=says)
    maps = ["maps", scan, "--model", masks / "run", "--format", "gif"]
    fails(capsys, *maps, status=1, says="--format gif is for videos")
    maps = ["maps", scan, "--model", masks / "run", "--pixels", "40,1,1", "--output", tmp_path / "maps"]
    fails(capsys, *maps, status=1, says="nl: pixel must be a place in (16, 18, 20); got (40, 1, 1)")
    assert not (tmp_path / "maps").exists()


@pytest.mark.parametrize("words", [["--image-size", "4"], ["--window", "4"]])
def test_what_is_too_small_for_the_network_is_told_before_anything_is_written(masks, tmp_path, capsys, words):
    words = [
        "train",
        masks / "data",
        *words,
        "--model-overrides",
        '{"depth": 2}',
        "--output",
        tmp_path / "run",
    ]
    fails(capsys, *words, status=1, says=f"{words[2]} must be more than 4 voxels for this network; got 4")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--model", "nl2_c2d_tiny"], "takes clips, and the samples of 'volumes' are volumes"),
        (["--model", "nl2_resnet_tiny"], "takes images, and the samples of 'volumes' are volumes"),
        (["--patches", "3"], "--patches has an effect only on volumes with masks"),
        (["--spacing", "[1,2]"], "spacing"),
        (["--channels", "1"], "channels"),
    ],
)
def test_trainings_that_are_refused(classes, tmp_path, capsys, words, says):
    words = ["train", classes / "data", *words, "--output", tmp_path / "run"]
    assert main([str(word) for word in words]) in (1, 2)
    said = capsys.readouterr().err.splitlines()
    assert says in said[-1]
    assert "Traceback" not in "".join(said)


def test_what_cannot_be_read_keeps_nothing_from_the_others(masks, tmp_path, capsys):
    (tmp_path / "b.nii.gz").write_bytes(b"")
    good = str(masks / "data/test/images/0.nii.gz")
    words = ["predict", str(tmp_path / "b.nii.gz"), good, "--model", str(masks / "run")]
    assert main([*words, "--output-folder", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert "b.nii.gz is empty" in said.err
    assert [json.loads(line).get("error") is None for line in said.out.splitlines()] == [False, True]


def test_a_large_volume_shows_its_middle(masks, monkeypatch):
    loaded = load_segmenter(masks / "run")
    assert isinstance(loaded, VolumeSegmenter)
    monkeypatch.setattr("nonlocalnn.inference.volume_segmenter._MOST_TOGETHER", 1000)
    with pytest.warns(UserWarning, match="too many for maps: its middle is shown, slices x rows x columns"):
        shown = loaded.show(masks / "data/test/images/0.nii.gz")
    assert shown.sample.numel() <= 1000
    whole = nibabel.load(masks / "data/test/images/0.nii.gz")
    # The middle stays where it was.
    middle = [(side - 1) / 2 for side in shown.sample.shape[1:]]
    expected = whole.affine @ [*((side - 1) / 2 for side in whole.shape), 1]
    assert shown.planes.millimetres(middle) == pytest.approx(tuple(expected[:3]), abs=2)


def test_a_network_by_name_says_what_was_assumed(tmp_path):
    for name in ("nl_unet3d_tiny", "nl2_resnet3d_tiny"):
        model = nl.create_model(name, num_classes=2)
        nl.save_checkpoint(model, tmp_path / "a.safetensors", metadata={"classes": ["a", "b"]})
        load = load_segmenter if "unet" in name else load_classifier
        loaded = load(tmp_path / "a.safetensors")
        assert (loaded.kind.name, loaded.sample_shape[0]) == ("volume", 1)
        assert "volumes of" in loaded.assumptions
        assert "each normalised by itself" in loaded.assumptions


def test_a_trained_body_is_taken_over(tmp_path):
    without = nl.create_model("unet3d_tiny", width=4, depth=2)
    nl.save_checkpoint(without, tmp_path / "a.safetensors", metadata={"classes": ["a", "b"]})
    model = nl.create_model("nl_unet3d_tiny", width=4, depth=2)
    kept = start_from_(model, tmp_path / "a.safetensors")
    assert all(name.startswith("nl.") for name in kept)
    assert torch.equal(model.first[0].weight, without.first[0].weight)
