"""``nonlocalnn predict`` and ``evaluate`` for videos, by their functions."""

import json

import pytest
import torch
from one_line import fails
from PIL import Image

import nonlocalnn as nl
from helpers import randomize_
from nonlocalnn.classifier import load_classifier
from nonlocalnn.cli import main
from nonlocalnn.data.video_named import load_video_set
from nonlocalnn.data.video_sets import VideoClips, Views
from nonlocalnn.video_evaluation import evaluate_videos
from tolerances import near
from videos import cut, grey_frames, write_video

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")
FACTS = {
    "sample_shape": [3, 8, 32, 32],
    "channels": 3,
    "image_size": [32, 32],
    "stride": 2,
    "test_size": 36,
    "mean": 114.75,
    "standard_deviation": 57.375,
}


def save(path, classes, **facts):
    """Write a checkpoint that is not sure, so that its answers depend on every frame."""
    model = randomize_(nl.create_model("c2d_tiny", num_classes=len(classes))).eval()
    with torch.no_grad():
        model.fc.weight *= 0.01
    nl.save_checkpoint(model, path, metadata={**FACTS, "classes": classes, **facts})
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with checkpoints, and with data of which one video in the test is cut."""
    torch.manual_seed(1)
    place = tmp_path_factory.mktemp("place")
    for split, number in (("train", 1), ("validation", 1), ("test", 2)):
        for name in ("run", "walk"):
            for count in range(number):
                write_video(place / f"data/{split}/{name}/{count}.mp4", grey_frames(9 + 20 * count, 36, 44))
    cut(place / "data/test/run/0.mp4", place / "data/test/run/cut.mp4")
    recipe = {"data": "videos", "data_dir": str(place / "data")}
    save(place / "model.safetensors", ["run", "walk"], recipe=recipe)
    save(place / "others.safetensors", [f"class {number:02}" for number in range(70)])
    save(place / "several.safetensors", ["run", "walk"], multi_label=True)
    facts = {"classes": ["run", "walk"], "channels": 1, "image_size": [28, 28]}
    nl.save_checkpoint(
        nl.create_model("nl_digits", num_classes=2), place / "images.safetensors", metadata=facts
    )
    Image.new("L", (8, 8)).save(place / "image.png")
    return place


def lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_predict_names_the_views_in_every_line(place, capsys):
    words = ["predict", str(place / "data/validation"), "--model", str(place / "model.safetensors")]
    assert main(words) == 0
    one = lines(capsys)
    assert [line["views"] for line in one] == ["1 clip"] * 2
    assert main([*words, "--views", "30", "--top", "1", "--batch-size", "16"]) == 0
    many = lines(capsys)
    assert [line["views"] for line in many] == ["30 views (10 clips x 3 crops)"] * 2
    assert [len(line["top"]) for line in many] == [1, 1]
    expected = load_classifier(place / "model.safetensors").predict(one[0]["path"])
    assert one[0] == json.loads(json.dumps(expected))


def test_predict_lists_what_is_broken(place, capsys, tmp_path):
    output = tmp_path / "answers.jsonl"
    words = ["predict", str(place / "data/test"), "--model", str(place / "model.safetensors")]
    assert main([*words, "--output", str(output)]) == 1
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert ["error" in row for row in rows] == [False, False, True, False, False]
    assert "nonlocalnn predict: cannot read video" in capsys.readouterr().err


def test_evaluate_says_what_it_covers_and_by_which_views(place, capsys, tmp_path):
    words = ["evaluate", "--model", str(place / "model.safetensors"), "--output", str(tmp_path)]
    assert main([*words, "--max-broken", "1"]) == 0
    captured = capsys.readouterr()
    broken = str(place / "data/test/run/cut.mp4")
    assert captured.err == f"nonlocalnn evaluate: left out, cannot be read: {broken}\n"
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert (report["views"], report["num_videos"]) == ("30 views (10 clips x 3 crops)", 5)
    assert (report["num_covered"], report["unreadable"]) == (4, [broken])
    assert (
        f"accuracy {report['accuracy']:.4f} (top-5 1.0000) on 4 of 5 videos of videos/test, "
        "30 views (10 clips x 3 crops)\n"
    ) in captured.out
    with Image.open(tmp_path / "confusion.png") as picture:
        assert picture.format == "PNG"
    # The checkpoint's numbers are those that the figures are made with.
    dataset = VideoClips(
        load_video_set("videos", "test", data_dir=place / "data"),
        frames=8,
        stride=2,
        sampling=Views(size=36),
        max_broken=1,
    )
    with pytest.warns(UserWarning, match="left out"):
        expected = evaluate_videos(nl.load_checkpoint(place / "model.safetensors"), dataset)
    assert report["loss"] == near(expected.figures.loss)
    assert report["confusion"] == expected.figures.confusion.tolist()


def test_evaluate_by_one_clip(place, capsys, tmp_path):
    words = ["evaluate", "--model", str(place / "model.safetensors"), "--output", str(tmp_path)]
    assert main([*words, "--views", "1", "--split", "validation", "--num-workers", "1"]) == 0
    assert " on 2 of 2 videos of videos/validation, 1 clip\n" in capsys.readouterr().out
    assert json.loads((tmp_path / "metrics.json").read_text())["views"] == "1 clip"


def test_tables_of_many_classes_are_left_out(place, capsys, tmp_path):
    for number in range(70):
        write_video(tmp_path / f"data/test/class {number:02}/1.mp4", grey_frames(1, 36, 36))
    words = ["evaluate", "--model", str(place / "others.safetensors"), "--data", "videos", "--views", "1"]
    assert main([*words, "--data-dir", str(tmp_path / "data"), "--output", str(tmp_path / "out")]) == 0
    assert " on 70 of 70 videos of videos/test, 1 clip" in capsys.readouterr().out.splitlines()[0]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["metrics.json"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["predict", "image.png", "--model", "images.safetensors", "--views", "1"], "views is a setting of"),
        (
            ["predict", "image.png", "--model", "model.safetensors"],
            "image.png is an image, and the model",
        ),
        (
            ["evaluate", "--model", "model.safetensors"],
            "1 of 5 videos could not be read so far",
        ),
        (
            ["evaluate", "--model", "others.safetensors", "--data", "videos"],
            "knows 70 classes, videos has 2, and they must be the same; the first that differ, number 0, are "
            "'class 00' and 'run'",
        ),
        (
            ["evaluate", "--model", "images.safetensors", "--data", "videos"],
            "'videos' has videos, and the",
        ),
        (
            ["evaluate", "--model", "several.safetensors", "--data", "videos"],
            "the model has learnt several classes a video; videos has one class a video",
        ),
        (
            ["evaluate", "--model", "images.safetensors", "--data", "digits", "--views", "30"],
            "--views is a setting of videos, and 'digits' has none: leave it out",
        ),
        (
            ["evaluate", "--model", "images.safetensors", "--data", "digits", "--max-broken", "0"],
            "--max-broken is a setting of videos",
        ),
        (
            ["evaluate", "--model", "images.safetensors", "--data", "digits", "--decoder", "pyav"],
            "--decoder is a setting of videos",
        ),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_what_does_not_go_together(place, capsys, tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(place)
    if words[0] == "evaluate":
        words = [*words, "--output", str(tmp_path)]
        if "digits" not in words:
            words += ["--data-dir", "data"]
    fails(capsys, *words, status=1, says=says)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_another_number_of_views_is_refused(command, capsys):
    fails(capsys, command, "clip.mp4", "--model", "model", "--views", "3", status=2, says="--views")
