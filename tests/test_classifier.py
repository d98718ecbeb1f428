"""A checkpoint and a file, and nothing else to be known."""

import json
import re

import pytest
import torch
from PIL import Image

import nonlocalnn as nl
from helpers import randomize_
from nonlocalnn.checkpoints import native
from nonlocalnn.cli import main
from nonlocalnn.data import read_image
from nonlocalnn.data.video.dataset import CentreClip, VideoClips, Views
from nonlocalnn.data.video.lists import VideoList
from nonlocalnn.inference.classifier import Classifier
from tolerances import assert_near
from videos import cut, grey_frames, write_video

CLASSES = ["run", "walk", "swim"]
CLIPS = {"classes": CLASSES, "sample_shape": [3, 8, 32, 32], "channels": 3, "image_size": [32, 32]}
OF_VIDEOS = {"stride": 3, "test_size": 40, "mean": 114.75, "standard_deviation": 57.375, "multi_label": False}
IMAGES = {"classes": CLASSES, "channels": 1, "image_size": [28, 28]}


def saved(path, name, **facts):
    """Write a checkpoint whose answers depend on the input, but are not sure."""
    model = randomize_(nl.create_model(name, num_classes=3)).eval()
    with torch.no_grad():
        last = model.fc if isinstance(model.fc, torch.nn.Linear) else model.fc[-1]
        last.weight *= 0.01
    nl.save_checkpoint(model, path, metadata=facts)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("classifier")
    saved(folder / "videos.safetensors", "c2d_tiny", **CLIPS, **OF_VIDEOS)
    saved(folder / "cue.safetensors", "c2d_tiny", **CLIPS)
    saved(folder / "several.safetensors", "c2d_tiny", **CLIPS, **{**OF_VIDEOS, "multi_label": True})
    saved(folder / "images.safetensors", "nl_digits", **IMAGES)
    saved(folder / "sequences.safetensors", "c1d_tiny", classes=CLASSES, sample_shape=[3, 384])
    write_video(folder / "files" / "a.mp4")
    write_video(folder / "files" / "deep" / "b.mp4", grey_frames(5))
    cut(folder / "files" / "a.mp4", folder / "files" / "cut.mp4")
    Image.new("L", (40, 30), 90).save(folder / "image.png")
    return folder


def answer_by_hand(folder, checkpoint, sampling, **settings):
    """The probabilities of a.mp4, by the data set and the network."""
    videos = VideoList((folder / "files" / "a.mp4",), (0,), tuple(CLASSES))
    clips = VideoClips(videos, frames=8, sampling=sampling, **settings)[0][0]
    model = nl.load_checkpoint(folder / checkpoint).eval()
    with torch.no_grad():
        return model.probabilities(clips.view(-1, *clips.shape[-4:])).mean(0)


def probabilities(answer):
    by_class = {row["class"]: row["probability"] for row in answer["top"]}
    return torch.tensor([by_class[name] for name in CLASSES])


def test_three_lines(folder):
    classifier = nl.load_classifier(folder / "videos.safetensors")
    answer = classifier.predict(folder / "files" / "a.mp4")
    assert answer["class"] in CLASSES
    assert answer["views"] == "1 clip"
    expected = answer_by_hand(folder, "videos.safetensors", CentreClip(40), stride=3)
    assert_near(probabilities(answer), expected)
    many = classifier.predict(str(folder / "files" / "a.mp4"), views=30, batch_size=7)
    assert many["views"] == "30 views (10 clips x 3 crops)"
    expected = answer_by_hand(folder, "videos.safetensors", Views(size=40), stride=3)
    assert_near(probabilities(many), expected)
    assert json.loads(json.dumps(many)) == many


def test_what_a_checkpoint_does_not_say_is_that_of_generated_clips(folder):
    classifier = nl.load_classifier(folder / "cue.safetensors")
    assert (classifier.stride, classifier.video_size) == (1, 32)
    assert (classifier.mean, classifier.standard_deviation, classifier.multi_label) == (0, 255, False)
    expected = answer_by_hand(
        folder, "cue.safetensors", CentreClip(32), stride=1, mean=0.0, standard_deviation=255.0
    )
    assert_near(probabilities(classifier.predict(folder / "files" / "a.mp4")), expected)


def test_what_a_checkpoint_says(folder):
    classifier = nl.load_classifier(folder / "videos.safetensors")
    assert (classifier.classes, classifier.sample_shape) == (tuple(CLASSES), (3, 8, 32, 32))
    assert (classifier.stride, classifier.video_size, classifier.image_size) == (3, 40, (32, 32))
    assert (classifier.mean, classifier.standard_deviation) == (114.75, 57.375)
    assert not classifier.model.training
    several = nl.load_classifier(folder / "several.safetensors")
    assert several.multi_label
    assert probabilities(several.predict(folder / "files" / "a.mp4")).sum() != pytest.approx(1, abs=0.01)


def test_each_channel_has_its_own_mean(folder):
    """Three numbers come back from the file as a list."""
    facts = {**OF_VIDEOS, "mean": [120.0, 110.0, 100.0], "standard_deviation": [50.0, 60.0, 70.0]}
    saved(folder / "channels.safetensors", "c2d_tiny", **CLIPS, **facts)
    normalization = {name: tuple(facts[name]) for name in ("mean", "standard_deviation")}
    expected = answer_by_hand(folder, "channels.safetensors", CentreClip(40), stride=3, **normalization)
    answer = nl.load_classifier(folder / "channels.safetensors").predict(folder / "files" / "a.mp4")
    assert_near(probabilities(answer), expected)
    one = nl.load_classifier(folder / "videos.safetensors").predict(folder / "files" / "a.mp4")
    assert not torch.allclose(probabilities(one), probabilities(answer))


def test_images(folder):
    classifier = nl.load_classifier(folder / "images.safetensors")
    answer = classifier.predict(folder / "image.png", top=3)
    assert "views" not in answer
    image = read_image(folder / "image.png", image_size=(28, 28), channels=1)
    with torch.no_grad():
        expected = classifier.model(image[None]).softmax(1)[0]
    assert_near(probabilities(answer), expected)


def test_many_files(folder):
    classifier = nl.load_classifier(folder / "videos.safetensors")
    answers = list(classifier.predict_many([folder / "files"], top=1))
    names = [answer["path"].removeprefix(str(folder / "files")) for answer in answers]
    assert names == ["/a.mp4", "/cut.mp4", "/deep/b.mp4"]
    assert ["error" in answer for answer in answers] == [False, True, False]
    assert len(answers[0]["top"]) == 1
    (alone,) = classifier.predict_many(str(folder / "files" / "a.mp4"), top=1)
    assert alone == answers[0]


def test_a_folder_of_frames_is_a_video(folder, tmp_path):
    for number in range(30):
        Image.new("RGB", (40, 36), (9 * number, 0, 0)).save(tmp_path / f"{number}.png")
    classifier = nl.load_classifier(folder / "videos.safetensors")
    assert classifier.predict(tmp_path)["views"] == "1 clip"


def test_a_file_that_cannot_be_read(folder):
    classifier = nl.load_classifier(folder / "videos.safetensors")
    with pytest.raises(ValueError, match=r"cut\.mp4: it is cut"):
        classifier.predict(folder / "files" / "cut.mp4")
    with pytest.raises(FileNotFoundError, match=r"there is no file or folder .*none\.mp4"):
        classifier.predict(folder / "none.mp4")
    with pytest.raises(ValueError, match=r"files is a folder of files: predict_many takes folders"):
        classifier.predict(folder / "files")
    # One that is missing, or of another kind, does not cancel the others.
    image, missing = classifier.predict_many([folder / "image.png", folder / "none.mp4"])
    assert "image.png is an image, and the model takes videos" in image["error"]
    assert "no such video" in missing["error"]


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("images", {"views": 1}, "views is a setting of models of videos; this one takes images"),
        ("videos", {"views": 3}, "views must be one of 1, 30; got 3"),
        ("videos", {"top": 0}, "top must be a whole number of at least 1; got 0"),
        ("images", {"batch_size": 0}, "batch_size must be a whole number of at least 1; got 0"),
        ("sequences", {}, "this model takes sequences"),
    ],
    ids=str,
)
def test_wrong_settings(folder, name, settings, says):
    classifier = nl.load_classifier(folder / f"{name}.safetensors")
    file = folder / "files" / "a.mp4" if name == "videos" else folder / "image.png"
    with pytest.raises(ValueError, match=says):
        classifier.predict(file, **settings)


def test_files_that_hold_no_classifier(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no finished epoch"):
        nl.load_classifier(tmp_path)
    nl.save_checkpoint(torch.nn.Sequential(torch.nn.Linear(3, 2)), tmp_path / "own.safetensors")
    with pytest.raises(nl.CheckpointError, match="does not say what builds its model: give load_checkpoint"):
        nl.load_classifier(tmp_path / "own.safetensors")


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"classes": []}, "classes must be a list of names; got \\[\\]"),
        ({"classes": ["a", 2]}, "classes must be a list of names"),
        ({"classes": ["a", "a"]}, "classes must have different names; 'a' is there more than once"),
        ({"sample_shape": None}, "sample_shape must be .* got None"),
        ({"sample_shape": None, "channels": 3, "image_size": 28}, "sample_shape must be .* got None"),
        ({"sample_shape": [3]}, "sample_shape must be"),
        ({"sample_shape": [3, "8", 8]}, "each number of sample_shape must be a whole number .* got '8'"),
        ({"sample_shape": [3, 8, 0]}, "each number of sample_shape must be a whole number"),
        ({"stride": 0}, "stride must be a whole number"),
        ({"test_size": "large"}, "test_size must be a whole number"),
        ({"mean": [1.0, 2.0]}, "mean must be one number, or one for each"),
        ({"standard_deviation": 0}, "standard_deviation must be greater than 0"),
        ({"standard_deviation": "one"}, "standard_deviation must be one number, or one for each"),
        ({"mean": "123"}, "mean must be one number, or one for each"),
        ({"multi_label": 1}, "multi_label must be true or false; got 1"),
        ({"recipe": ["digits"]}, "recipe must be an object"),
    ],
    ids=str,
)
def test_facts_that_are_none(tmp_path, facts, says):
    whole = {"classes": ["a", "b"], "sample_shape": [3, 8, 32, 32]}
    path = tmp_path / "clips.safetensors"
    nl.save_checkpoint(nl.create_model("c2d_tiny", num_classes=2), path, metadata={**whole, **facts})
    with pytest.raises(nl.CheckpointError, match=rf"clips.safetensors does not say what .*{says}"):
        nl.load_classifier(path)


@pytest.mark.parametrize(("kind", "file"), [("videos", "files/a.mp4"), ("images", "image.png")])
def test_an_answer_that_is_not_finite_is_an_error(folder, kind, file):
    loaded = nl.load_classifier(folder / f"{kind}.safetensors")
    with torch.no_grad():
        next(loaded.model.parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match="the model's answer is not finite"):
        loaded.predict(folder / file)


def test_as_many_classes_as_outputs(tmp_path):
    path = tmp_path / "clips.safetensors"
    facts = {"classes": ["a", "b"], "sample_shape": [3, 8, 32, 32]}
    nl.save_checkpoint(nl.create_model("c2d_tiny", num_classes=3), path, metadata=facts)
    with pytest.raises(nl.CheckpointError, match="names 2 classes of a model with 3"):
        nl.load_classifier(path)


@pytest.mark.parametrize(
    ("name", "shape", "takes"),
    [
        ("c2d_tiny", [3, 32, 32], r"clips or volumes, \[C, T, H, W\]"),
        ("nl_digits", [3, 32], r"images, \[C, H, W\]"),
        ("c1d_tiny", [3, 8, 32, 32], r"sequences, \[C, N\]"),
    ],
)
def test_samples_that_the_network_cannot_take(tmp_path, name, shape, takes):
    path = tmp_path / "clips.safetensors"
    nl.save_checkpoint(nl.create_model(name), path, metadata={"sample_shape": shape})
    with pytest.raises(nl.CheckpointError, match=f"the shape {re.escape(str(shape))}, .* takes {takes}"):
        nl.load_classifier(path)


def test_facts_of_older_files(tmp_path):
    path = tmp_path / "images.safetensors"
    facts = {"classes": list("0123456789"), "channels": 1, "image_size": [28, 28]}
    nl.save_checkpoint(nl.create_model("nl_digits"), path, metadata=facts)
    assert nl.load_classifier(path).sample_shape == (1, 28, 28)


def test_a_run_s_folder_is_its_best_weights(folder, tmp_path):
    (tmp_path / "best.safetensors").write_bytes((folder / "images.safetensors").read_bytes())
    loaded = nl.load_classifier(str(tmp_path))
    assert isinstance(loaded, Classifier)
    assert loaded.predict(folder / "image.png") == nl.load_classifier(folder / "images.safetensors").predict(
        folder / "image.png"
    )


def test_a_file_is_opened_once(folder, monkeypatch):
    """So that all of it is of one file, even where another takes its place meanwhile."""
    path, opened = folder / "videos.safetensors", []
    real = native.safe_open

    def counted(place, **settings):
        opened.append(place)
        return real(place, **settings)

    monkeypatch.setattr(native, "safe_open", counted)
    monkeypatch.setattr(type(path), "open", lambda *_: pytest.fail("opened once more"))
    nl.load_classifier(path)
    assert opened == [path]


@pytest.mark.parametrize(
    ("name", "settings", "shape", "stride", "size"),
    [
        ("nl5_i3d_r50_8x8", {"width": 2}, (3, 8, 224, 224), 8, 256),
        ("i3d_r50_32x2", {"width": 2, "in_channels": 1}, (1, 32, 224, 224), 2, 256),
        ("c2d_r50_128x1", {"width": 2}, (3, 128, 224, 224), 1, 256),
        ("c2d_tiny", {}, (3, 8, 32, 32), 1, 37),
        ("resnet50", {"width": 2}, (3, 224, 224), 1, 224),
        ("nl_digits", {"image_size": [20, 24], "in_channels": 3}, (3, 20, 24), 1, 20),
        ("c1d_tiny", {}, (3, 64), 1, None),
        ("resnet_tiny", {"num_sides": 1}, (3, 1024), 1, None),
    ],
)
def test_what_a_name_implies(tmp_path, name, settings, shape, stride, size):
    nl.save_checkpoint(nl.create_model(name, num_classes=3, **settings), tmp_path / "m.safetensors")
    loaded = nl.load_classifier(tmp_path / "m.safetensors")
    assert (loaded.classes, loaded.sample_shape, loaded.stride) == (("0", "1", "2"), shape, stride)
    assert size is None or loaded.video_size == size
    of_videos = len(shape) == 4
    assert (loaded.mean, loaded.standard_deviation) == ((114.75, 57.375) if of_videos else (0.0, 255.0))
    assert {"classes", "sample_shape"} <= set(loaded.assumed)


def test_what_the_file_says_goes_before_what_the_name_implies(tmp_path):
    facts = {"classes": CLASSES, "mean": 100.0, "stride": 5}
    model = nl.create_model("nl5_i3d_r50_8x8", num_classes=3, width=2)
    nl.save_checkpoint(model, tmp_path / "m.safetensors", metadata=facts)
    loaded = nl.load_classifier(tmp_path / "m.safetensors")
    assert (loaded.classes, loaded.mean, loaded.stride) == (tuple(CLASSES), 100.0, 5)
    assert (loaded.sample_shape, loaded.standard_deviation) == ((3, 8, 224, 224), 57.375)
    assert not {"classes", "mean", "stride"} & set(loaded.assumed)


def test_three_means_are_for_three_channels(tmp_path):
    facts = {**IMAGES, "mean": [1.0, 2.0, 3.0]}
    nl.save_checkpoint(
        nl.create_model("nl_digits", num_classes=3), tmp_path / "m.safetensors", metadata=facts
    )
    with pytest.raises(
        nl.CheckpointError, match="mean must be one number, or one for each of the 1 channels"
    ):
        nl.load_classifier(tmp_path / "m.safetensors")


TORCHVISION = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"mean": TORCHVISION[0], "standard_deviation": TORCHVISION[1]}, "write [123.675, 116.28, 103.53]"),
        ({"mean": TORCHVISION[0]}, "write [123.675, 116.28, 103.53]"),
        ({"mean": 0.5, "standard_deviation": 0.5}, "0.5 is of values from 0 to 1: write 127.5"),
        ({"mean": 0.0, "standard_deviation": TORCHVISION[1]}, "write [58.395, 57.12, 57.375]"),
        (
            {"mean": 114.75, "standard_deviation": 0.225},
            "standard_deviation must be of pixel values",
        ),
        ({"mean": 1.0, "standard_deviation": 1.0}, "write 255.0"),
    ],
    ids=str,
)
def test_a_scale_of_values_from_0_to_1_is_refused(tmp_path, facts, says):
    path = tmp_path / "clips.safetensors"
    model = nl.create_model("c2d_tiny", num_classes=2)
    with pytest.warns(UserWarning, match=r"will be refused by predict .* must be of pixel values") as caught:
        nl.save_checkpoint(model, path, metadata={"classes": ["a", "b"], **facts})
    with pytest.raises(nl.CheckpointError, match=re.escape(says)):
        nl.load_classifier(path)
    assert any(says in str(each.message) for each in caught)


@pytest.mark.parametrize(
    "scale", [(0.0, 1.0), (0.0, 255.0), ([103.0, 116.0, 123.0], 1.0), ([0.5, 116.0, 123.0], 57.0)], ids=str
)
def test_other_scales_are_taken(tmp_path, scale):
    facts = {"classes": ["a", "b"], "mean": scale[0], "standard_deviation": scale[1]}
    nl.save_checkpoint(nl.create_model("c2d_tiny", num_classes=2), tmp_path / "m.safetensors", metadata=facts)
    loaded = nl.load_classifier(tmp_path / "m.safetensors")
    assert (loaded.mean, loaded.standard_deviation) == scale


def test_sequences_have_units_of_their_own(tmp_path):
    facts = {"classes": ["a", "b"], "sample_shape": [3, 384], "mean": 0.3, "standard_deviation": 0.2}
    nl.save_checkpoint(nl.create_model("c1d_tiny", num_classes=2), tmp_path / "m.safetensors", metadata=facts)
    assert nl.load_classifier(tmp_path / "m.safetensors").mean == 0.3


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"sample_shape": [3, 8, 32, 32]}, "classes 0 to 1"),
        ({"classes": ["a", "b"], "mean": 100.0},
         "clips of 8 frames, one in 1, of 37 pixels, 3 channels, standard deviation 57.375"),
        ({"classes": ["a", "b"], "stride": 2, "test_size": 40, "mean": 100.0, "standard_deviation": 50.0},
         "clips of 8 frames, 3 channels"),
    ],
    ids=str,
)  # fmt: skip
def test_only_what_the_file_leaves_out_is_called_assumed(tmp_path, facts, says):
    nl.save_checkpoint(nl.create_model("c2d_tiny", num_classes=2), tmp_path / "m.safetensors", metadata=facts)
    assert nl.load_classifier(tmp_path / "m.safetensors").assumptions == says


def test_a_file_that_says_its_samples_assumes_nothing_that_is_said(tmp_path, capsys):
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    scale = {"mean": [120.0, 110.0, 100.0], "standard_deviation": [50.0, 60.0, 70.0]}
    facts = {"classes": ["a", "b"], "sample_shape": [3, 24, 24], **scale}
    nl.save_checkpoint(models.resnet18(num_classes=2), tmp_path / "m.safetensors", metadata=facts)
    assert nl.load_classifier(tmp_path / "m.safetensors").assumptions == ""
    Image.new("L", (40, 30), 90).save(tmp_path / "a.png")
    assert main(["predict", str(tmp_path / "a.png"), "--model", str(tmp_path / "m.safetensors")]) == 0
    assert capsys.readouterr().err == ""


def test_a_relative_folder_of_the_training_is_looked_for_from_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loaded = Classifier(
        model=nl.create_model("nl_digits"),
        classes=("a", "b"),
        sample_shape=(1, 28, 28),
        recipe={"data": "images", "data_dir": "photos"},
    )
    assert loaded.folder("images", "elsewhere") == "elsewhere"
    assert loaded.folder("archives", None) is None
    with pytest.raises(FileNotFoundError, match=r"from photos, a relative path, .* say where they are"):
        loaded.folder("images", None)
    (tmp_path / "photos").mkdir()
    assert loaded.folder("images", None) == "photos"
