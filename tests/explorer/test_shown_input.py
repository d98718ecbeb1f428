"""What a network takes of an input, and what people see of it."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from nonlocalnn.data import load_dataset, read_image
from nonlocalnn.inference import Classifier
from nonlocalnn.tasks import inputs
from nonlocalnn.tasks.inputs import take_sample
from tolerances import assert_near
from videos import RATE, level, write_video

MEAN, DEVIATION = 100.0, 50.0


def classifier(*sample_shape, **settings):
    return Classifier(nn.Flatten(), classes=("run", "walk"), sample_shape=sample_shape, recipe={}, **settings)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a wide image and a wide video, whose left and right thirds differ."""
    folder = tmp_path_factory.mktemp("inputs")
    wide = np.zeros((20, 60, 3), dtype=np.uint8)
    wide[:, :20], wide[:, 40:] = 250, 120
    Image.fromarray(wide).save(folder / "wide.png")
    frames = []
    for number in range(20):
        frame = np.full((24, 72, 3), level(number), dtype=np.uint8)
        frame[:, :20] = 0
        frames.append(frame)
    write_video(folder / "wide.mp4", frames)
    (folder / "inside").mkdir()
    for number in range(3):
        Image.new("L", (12, 8), 40 * number).save(folder / "inside" / f"{number}.png")
    (folder / "text.mp4").write_text("no video\n" * 99)
    return folder


def test_an_image_is_what_predict_is_given(place):
    shown = classifier(1, 28, 28).show(place / "wide.png")
    assert torch.equal(shown.sample, read_image(place / "wide.png", image_size=(28, 28), channels=1))
    assert torch.equal(shown.pixels, shown.sample)
    assert shown.name == "wide.png"
    assert (shown.frame_numbers, shown.seconds, shown.truth) == (None, None, None)
    assert shown.file_sides == (20, 60)


def test_a_whole_image_keeps_its_aspect_ratio(place):
    shown = classifier(3, 28, 32).show(place / "wide.png", whole=True)
    # The short side becomes the shorter one of the model's.
    assert shown.sample.shape == (3, 28, 84)
    assert shown.sample[:, 14, 5].tolist() == pytest.approx([250 / 255] * 3, abs=0.01)
    assert shown.sample[:, 14, 42].tolist() == pytest.approx([0] * 3, abs=0.01)


def test_a_video_is_the_clip_in_the_middle_as_it_looks_and_as_the_network_takes_it(place):
    model = classifier(3, 4, 16, 16, stride=3, test_size=24, mean=MEAN, standard_deviation=DEVIATION)
    shown = model.show(place / "wide.mp4")
    # 20 frames, of which a clip spans 12: it begins at the fifth.
    assert shown.frame_numbers == (4, 7, 10, 13)
    assert shown.seconds == tuple(round(number / RATE, 3) for number in shown.frame_numbers)
    assert shown.sample.shape == shown.pixels.shape == (3, 4, 24, 24)
    # The square leaves out what the file has at its sides.
    assert (shown.file_sides, shown.picture.shape[-2:]) == ((24, 72), (24, 24))
    assert_near(shown.sample, (shown.pixels * 255 - MEAN) / DEVIATION)
    seen = [round((value * 255 - 20) / 5) for value in shown.pixels.mean((0, 2, 3)).tolist()]
    assert seen == [4, 7, 10, 13]


def test_a_whole_video_keeps_what_the_square_leaves_out(place):
    model = classifier(3, 4, 16, 16, stride=3, test_size=12)
    shown = model.show(place / "wide.mp4", whole=True)
    assert shown.sample.shape == (3, 4, 12, 36)
    assert shown.frame_numbers == (4, 7, 10, 13)
    assert float(shown.pixels[..., :8].max()) < 0.1
    assert float(shown.pixels[..., 14:].min()) > 0.1


def test_a_folder_of_frames_has_no_rate(place):
    shown = classifier(3, 2, 8, 8).show(place / "inside")
    assert (shown.name, shown.frame_numbers, shown.seconds) == ("inside", (0, 1), None)


@pytest.mark.parametrize(
    ("shape", "name", "error", "says"),
    [
        ((1, 28, 28), "absent.png", FileNotFoundError, "absent.png"),
        ((1, 28, 28), "inside", ValueError, "one image is taken at a time"),
        ((1, 28, 28), "wide.mp4", ValueError, "cannot read image"),
        ((3, 4, 8, 8), "wide.png", ValueError, "is an image, and the model takes videos"),
        ((3, 4, 8, 8), "text.mp4", ValueError, "cannot read video"),
        ((3, 4, 8, 8), "absent.mp4", FileNotFoundError, "absent.mp4"),
        ((3, 384), "wide.png", ValueError, "this model takes sequences"),
    ],
    ids=["no image", "folder", "video for images", "image for videos", "text", "no video", "sequences"],
)
def test_what_cannot_be_shown(place, shape, name, error, says):
    with pytest.raises(error, match=says):
        classifier(*shape).show(place / name)


def test_a_sample_has_its_name_and_its_class():
    digits = load_dataset("digits", "test")
    shown = take_sample(digits, 7, split="test")
    image, target = digits[7]
    assert torch.equal(shown.sample, image)
    assert torch.equal(shown.pixels, image)
    assert (shown.name, shown.truth) == (f"test-7-class-{target}", str(target))
    for index in (353, -1):
        with pytest.raises(ValueError, match=f"samples are from 0 to 352 for this split; got {index}"):
            take_sample(digits, index, split="test")


def test_files_are_shown_in_their_own_resolution(place):
    shown = classifier(1, 28, 28).show(place / "wide.png")
    assert torch.equal(shown.picture, read_image(place / "wide.png", image_size=None, channels=1))
    assert shown.pixels.shape == (1, 28, 28)
    model = classifier(3, 4, 16, 16, stride=3, test_size=37)
    # The square that the network sees, of 24 x 72 pixels; and all of it.
    square = model.show(place / "wide.mp4")
    assert (square.sample.shape, square.picture.shape) == ((3, 4, 37, 37), (3, 4, 24, 24))
    assert float(square.picture.min()) > 0.02
    whole = model.show(place / "wide.mp4", whole=True)
    assert whole.picture.shape == (3, 4, 24, 72)
    assert float(whole.picture[..., :18].max()) < 0.1
    seen = [round((value * 255 - 20) / 5) for value in square.picture.mean((0, 2, 3)).tolist()]
    assert seen == list(square.frame_numbers)
    digits = load_dataset("digits", "test")
    assert take_sample(digits, 7, split="test").picture is None


def test_pictures_are_made_smaller_only_where_they_are_too_many_pixels(place, monkeypatch):
    monkeypatch.setattr(inputs, "MOST_SHOWN", 4 * 12 * 36)
    model = classifier(3, 4, 16, 16, stride=3)
    assert model.show(place / "wide.mp4", whole=True).picture.shape == (3, 4, 12, 36)
    assert classifier(3, 16, 16).show(place / "wide.png").picture.shape == (3, 20, 60)
    monkeypatch.setattr(inputs, "MOST_SHOWN", 300)
    assert classifier(3, 16, 16).show(place / "wide.png").picture.shape == (3, 10, 30)
