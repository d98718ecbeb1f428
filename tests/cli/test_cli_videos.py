"""``nonlocalnn predict`` and ``evaluate`` for videos, by their functions."""

import json

import pytest
import torch
from one_line import fails
from PIL import Image

import nonlocalnn as nl
from helpers import randomize_
from nonlocalnn.cli import main
from nonlocalnn.data import load_dataset
from nonlocalnn.data.video.dataset import VideoClips, Views
from nonlocalnn.data.video.named import load_video_set
from nonlocalnn.inference.classifier import load_classifier
from nonlocalnn.tasks.evaluation import evaluate
from nonlocalnn.tasks.inputs import take_sample
from tolerances import assert_near, assert_same, near
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
    assert report["views"] == "30 views (10 clips x 3 crops)"
    assert (report["num_samples"], report["unreadable"]) == (4, [broken])
    assert (
        f"accuracy {report['accuracy']:.4f} on 4 of 5 samples of videos/test, 30 views (10 clips x 3 crops)\n"
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
        expected = evaluate(nl.load_checkpoint(place / "model.safetensors"), dataset)
    assert report["loss"] == near(expected.loss)
    assert report["confusion"] == expected.confusion.tolist()


def test_evaluate_by_one_clip(place, capsys, tmp_path):
    words = ["evaluate", "--model", str(place / "model.safetensors"), "--output", str(tmp_path)]
    assert main([*words, "--views", "1", "--split", "validation", "--num-workers", "1"]) == 0
    assert " on 2 samples of videos/validation, 1 clip\n" in capsys.readouterr().out
    assert json.loads((tmp_path / "metrics.json").read_text())["views"] == "1 clip"


def test_tables_of_many_classes_are_left_out(place, capsys, tmp_path):
    for number in range(70):
        write_video(tmp_path / f"data/test/class {number:02}/1.mp4", grey_frames(1, 36, 36))
    words = ["evaluate", "--model", str(place / "others.safetensors"), "--data", "videos", "--views", "1"]
    assert main([*words, "--data-dir", str(tmp_path / "data"), "--output", str(tmp_path / "out")]) == 0
    assert " on 70 samples of videos/test, 1 clip" in capsys.readouterr().out.splitlines()[0]
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
            "'videos' has clips",
        ),
        (
            ["evaluate", "--model", "several.safetensors", "--data", "videos"],
            "the model has learnt several classes a sample; videos has one class a sample",
        ),
        (
            ["evaluate", "--model", "images.safetensors", "--data", "digits", "--views", "30"],
            "views applies to videos only, and not to 'digits': leave it out",
        ),
        (
            ["evaluate", "--model", "images.safetensors", "--data", "digits", "--max-broken", "0"],
            "--max-broken applies to 'images', 'archives' and videos only",
        ),
        (
            ["evaluate", "--model", "images.safetensors", "--data", "digits", "--decoder", "pyav"],
            "decoder applies to videos only",
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


def test_nothing_that_is_read_is_overwritten(place, tmp_path, capsys):
    model, video = tmp_path / "m.safetensors", tmp_path / "v.mp4"
    model.write_bytes((place / "model.safetensors").read_bytes())
    video.write_bytes((place / "data/test/walk/0.mp4").read_bytes())
    for output in (model, video):
        before = output.read_bytes()
        words = [str(video), "--model", str(model), "--output", str(output)]
        fails(capsys, "predict", *words, status=1, says="which is read: choose another")
        fails(capsys, "explain", *words, status=2, says="--output must end with .html")
        assert output.read_bytes() == before


def test_a_checkpoint_of_before_names_archives_as_they_were_called(place, tmp_path):
    save(tmp_path / "m.safetensors", ["run", "walk"], recipe={"data": "shards", "data_dir": "a"})
    assert nl.load_classifier(tmp_path / "m.safetensors").recipe == {"data": "archives", "data_dir": "a"}


def test_a_list_beside_folders_is_named(place, tmp_path):
    write_video(tmp_path / "train/run/0.mp4", grey_frames(2, 36, 36))
    (tmp_path / "train.txt").write_text("train/run/0.mp4 0\n")
    with pytest.warns(UserWarning, match=r"train\.txt is passed over: the videos of its split"):
        assert load_dataset("videos", "train", data_dir=tmp_path).classes == ("run",)
    # Of another split nothing is said: it has no folder, so its list is read.
    write_video(tmp_path / "1.mp4", grey_frames(2, 36, 36))
    (tmp_path / "test.txt").write_text("1.mp4 run\n")
    (tmp_path / "train.txt").unlink()
    assert len(load_dataset("videos", "test", data_dir=tmp_path)) == 1


def test_load_dataset_gives_what_the_command_line_takes(place):
    settings = {"data_dir": place / "data", "image_size": 36, "frames": 8, "stride": 2}
    data = load_dataset("videos", "validation", **settings)
    expected = nl.load_classifier(place / "model.safetensors").load_dataset("videos", "validation")
    assert (data.classes, data.views, data.num_views) == (("run", "walk"), "1 clip", 1)
    for (clip, target), (other, label) in zip(data, expected, strict=True):
        assert target == label
        assert_same(clip, other)
    assert load_dataset("videos", "validation", views=30, **settings)[0][0].shape == (30, 3, 8, 36, 36)
    with pytest.raises(ValueError, match="not by clips at random places"):
        evaluate(nl.create_model("c2d_tiny"), load_dataset("videos", "train", augment=True, **settings))


def test_a_sample_of_a_set_of_videos_is_explained(place, tmp_path, capsys):
    words = ["explain", "--data", "videos", "--data-dir", str(place / "data"), "--split", "validation"]
    blocks = nl.create_model("nl2_c2d_tiny", num_classes=2)
    nl.save_checkpoint(blocks, tmp_path / "m.safetensors", metadata={**FACTS, "classes": ["run", "walk"]})
    assert main([*words, "--model", str(tmp_path / "m.safetensors"), "-o", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out.startswith("validation-0-class-run: ")
    data = load_dataset("videos", "validation", data_dir=place / "data", image_size=36)
    shown = take_sample(data, 1, split="validation")
    assert shown.truth == "walk"
    assert 0 <= shown.pixels.min() < shown.pixels.max() <= 1
    assert_near(shown.sample, (shown.pixels * 255 - 114.75) / 57.375)
