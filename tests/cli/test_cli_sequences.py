"""From a folder of sequences to a trained network, figures, answers, pictures and a page, by commands."""

import json

import numpy as np
import pytest
import torch
from one_line import fails
from safetensors.torch import load_file

import nonlocalnn as nl
from helpers import randomize_
from nonlocalnn.checkpoints import read_metadata
from nonlocalnn.cli import main
from nonlocalnn.inference import load_classifier
from tolerances import assert_near, assert_same

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")
LENGTHS = (9, 14, 20, 12, 17, 11, 23, 16)


def waves(rising, length, generator):
    """Two channels in units of their own; the first rises or falls."""
    slope = np.linspace(-1, 1, length) * (1 if rising else -1)
    noise = generator.normal(size=(2, length))
    return np.stack([1000 + 50 * slope + 10 * noise[0], 0.001 * noise[1]])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data in class folders, and the run of a training on it."""
    place = tmp_path_factory.mktemp("place")
    generator = np.random.default_rng(0)
    for split in ("train", "validation", "test"):
        for name in ("falls", "rises"):
            (place / "data" / split / name).mkdir(parents=True)
            for number, length in enumerate(LENGTHS if split == "train" else LENGTHS[:3]):
                array = waves(name == "rises", length, generator)
                np.save(place / "data" / split / name / f"{number}.npy", array)
    words = ["--output", str(place / "run"), "--epochs", "4", "--device", "cpu", "--lr", "0.003"]
    assert main(["train", str(place / "data"), *words]) == 0
    return place


def test_the_run_says_what_it_trained_on(place):
    recipe = json.loads((place / "run" / "recipe.json").read_text())
    assert (recipe["data"], recipe["model"]) == ("sequences", "nl2_resnet1d_tiny")
    facts = read_metadata(place / "run" / "best.safetensors")
    assert (facts["sample_shape"], facts["lengths"], facts["classes"]) == (
        [2, 23],
        [9, 23],
        ["falls", "rises"],
    )
    assert 990 < facts["mean"][0] < 1010
    assert facts["standard_deviation"][1] < 0.002
    log = [json.loads(line) for line in (place / "run" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["train_loss"] < log[0]["train_loss"]


def test_it_is_evaluated_and_asked(place, capsys):
    run, test = str(place / "run"), place / "data" / "test"
    assert main(["evaluate", "--model", run, "--output", str(place / "figures")]) == 0
    found = json.loads((place / "figures" / "metrics.json").read_text())
    assert found["num_samples"] == 6
    assert {"accuracy", "balanced_accuracy", "macro_f1", "confusion"} <= found.keys()
    capsys.readouterr()
    assert main(["predict", "--model", run, str(test)]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["path"] for answer in answers] == sorted(map(str, test.rglob("*.npy")))
    right = sum(answer["class"] in answer["path"] for answer in answers)
    assert right == round(found["accuracy"] * 6)
    # Beside longer ones an answer is what it is alone.
    loaded = load_classifier(run)
    for answer in answers:
        alone = loaded.predict(answer["path"])
        assert (alone["class"], list(alone)) == (answer["class"], list(answer))
        assert_near(answer["probability"], alone["probability"], sums=10_000)


def test_it_is_drawn(place, capsys):
    pytest.importorskip("matplotlib")
    run, file = str(place / "run"), place / "data" / "test" / "rises" / "1.npy"
    words = ["--model", run, "--output", str(place / "maps"), "--rate", "50"]
    assert main(["maps", str(file), *words, "--format", "svg"]) == 0
    facts = json.loads((place / "maps" / "1" / "summary.json").read_text())
    assert facts["sides"] == [14]
    drawn = (place / "maps" / "1" / "layer2.0.nl.svg").read_text()
    assert "seconds" in drawn
    assert "step of the input" not in drawn
    page = place / "page.html"
    assert main(["explain", str(file), "--model", run, "-o", str(page), "--rate", "50"]) == 0
    text = page.read_text()
    assert '"kind":"sequence"' in text
    assert '"rate":50.0' in text
    assert main(["explain", str(file), "--model", run, "-o", str(page)]) == 0
    assert '"rate"' not in page.read_text()
    fails(
        capsys, "maps", str(file), "--model", run, "--rate", "0", status=1, says="rate must be greater than"
    )


def test_a_run_of_padded_batches_goes_on_to_the_same_bits(place, tmp_path):
    words = ["train", str(place / "data"), "--device", "cpu", "--model", "nl2_resnet1d_tiny"]
    words += ["--model-overrides", '{"width": 4}']
    assert main([*words, "--epochs", "2", "--output", str(tmp_path / "whole")]) == 0
    assert main([*words, "--epochs", "1", "--output", str(tmp_path / "parts")]) == 0
    assert main([*words, "--epochs", "2", "--output", str(tmp_path / "parts"), "--resume"]) == 0
    whole, parts = (load_file(tmp_path / name / "last.safetensors") for name in ("whole", "parts"))
    assert_same(parts, whole)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A network of one channel that was not trained; what it learnt from is not asked here."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "one.safetensors"
    network = randomize_(nl.create_model("resnet1d_tiny", num_classes=2, in_channels=1, width=4))
    facts = {"classes": ["a", "b"], "sample_shape": [1, 30], "mean": [5.0], "standard_deviation": [2.0]}
    nl.save_checkpoint(network, path, metadata=facts)
    return str(path)


def test_one_of_a_file_of_many(tmp_path, model, capsys):
    (tmp_path / "a.ts").write_text("@classLabel false\n@data\n1,2,3\n4,5,6,7\n")
    np.save(tmp_path / "b.npy", np.array([4.0, 5, 6, 7]))
    assert main(["predict", "--model", model, str(tmp_path)]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["path"].rpartition("/")[2] for answer in answers] == ["a.ts#0", "a.ts#1", "b.npy"]
    assert_near(answers[1]["probability"], answers[2]["probability"], sums=10_000)
    assert load_classifier(model).show(tmp_path / "a.ts#1").name == "a-1.ts"
    says = f"one sequence is taken at a time, and {tmp_path / 'a.ts'} is a file of 2, as"
    fails(capsys, "explain", str(tmp_path / "a.ts"), "--model", model, status=1, says=says)
    # The list of many files knows them, too.
    (tmp_path / "list.txt").write_text("a.ts#1\nb.npy\na.ts#7\n")
    words = ["--list", str(tmp_path / "list.txt"), "--output-folder", str(tmp_path / "answers")]
    assert main(["predict", "--model", model, *words, "--num-workers", "0"]) == 1
    assert "holds sequences 0 to 1" in capsys.readouterr().err


def test_columns_go_by_the_names_of_the_training(tmp_path, capsys):
    generator = torch.Generator().manual_seed(0)
    walks = [(place, torch.randn(12, 2, generator=generator).tolist()) for place in range(14)]
    for name, part in (("walks_TRAIN", walks[:10]), ("walks_TEST", walks[10:])):
        lines = [f"{i},{a},{100 * b},{i % 2}" for i, steps in part for a, b in steps]
        (tmp_path / f"{name}.csv").write_text("\n".join(["id,a,b,label", *lines]))
    run = ["--output", str(tmp_path / "run"), "--epochs", "1", "--device", "cpu"]
    assert main(["train", str(tmp_path), *run, "--model-overrides", '{"width": 4}']) == 0
    loaded = load_classifier(tmp_path / "run")
    assert loaded.channel_names == ("a", "b") == tuple(loaded.facts()["channel_names"])
    steps = walks[11][1]
    (tmp_path / "new.csv").write_text(
        "\n".join(["b,time,a", *(f"{100 * b},{n},{a}" for n, (a, b) in enumerate(steps))])
    )
    (tmp_path / "less.csv").write_text("\n".join(["a,time", *(f"{a},{n}" for n, (a, _) in enumerate(steps))]))
    capsys.readouterr()
    words = [str(tmp_path / name) for name in ("walks_TEST.csv#1", "new.csv", "less.csv")]
    assert main(["predict", "--model", str(tmp_path / "run"), *words]) == 1
    known, new, less = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert_near(new["probability"], known["probability"], sums=10_000)
    assert less["error"].endswith("less.csv must have the channels a, b; got a")
    drawn = ["--output", str(tmp_path / "maps"), "--format", "svg"]
    assert main(["maps", "--model", str(tmp_path / "run"), str(tmp_path / "new.csv"), *drawn]) == 0
    shown = loaded.take(loaded.load_dataset("sequences", "test"), 0, split="test")
    assert shown.channel_names == ("a", "b")
    # A file whose columns were in another order is tested as what it is, too.
    text = (tmp_path / "walks_TEST.csv").read_text().splitlines()
    turned = [",".join(line.split(",")[each] for each in (3, 2, 1, 0)) for line in text]
    (tmp_path / "other").mkdir()
    (tmp_path / "other/walks_TEST.csv").write_text("\n".join(turned))
    (tmp_path / "other/walks_TRAIN.csv").write_text((tmp_path / "walks_TRAIN.csv").read_text())
    data = [
        loaded.load_dataset("sequences", "test", data_dir=place) for place in (tmp_path, tmp_path / "other")
    ]
    assert_same(data[1][2][0], data[0][2][0])


def test_a_model_refuses_what_is_of_another_kind(tmp_path, model, checkpoint, of_clips, photo, capsys):
    np.save(tmp_path / "a.npy", np.zeros((3, 9)))
    sequence = str(tmp_path / "a.npy")
    fails(
        capsys,
        "predict",
        sequence,
        "--model",
        model,
        status=1,
        says="must have 1 channel for this model; got 3",
    )
    fails(
        capsys,
        "predict",
        str(photo),
        "--model",
        model,
        status=1,
        says="is no sequence (.ts, .npy, .npz, .csv, .parquet), and this model",
    )
    for other in (checkpoint, of_clips):
        fails(capsys, "predict", sequence, "--model", str(other), status=1, says="a.npy")
        fails(
            capsys,
            "maps",
            str(photo),
            "--model",
            str(other),
            "--rate",
            "3",
            status=1,
            says="rate is of sequences",
        )


def test_what_a_folder_lacks_is_heard_of_before_the_training(tmp_path, capsys):
    words = ("--data", "sequences", "--output", str(tmp_path / "run"))
    fails(capsys, "train", *words, status=1, says="'sequences' needs --data-dir")
    for name in ("up", "down"):
        (tmp_path / "data" / "train" / name).mkdir(parents=True)
        np.save(tmp_path / "data" / "train" / name / "a.npy", np.ones((1, 5)))
    data = ("--data-dir", str(tmp_path / "data"))
    fails(capsys, "train", *words, *data, status=1, says="has no folder 'validation'")
    np.save(tmp_path / "data" / "train" / "up" / "a.npy", np.full((1, 5), np.nan))
    fails(
        capsys, "train", *words, *data, "--image-size", "8", status=1, says="--image-size applies to images"
    )
    assert not (tmp_path / "run").exists()
