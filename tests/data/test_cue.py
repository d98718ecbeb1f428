"""The generated clips and sequences: each checked from its pixels, by a reader that knows no scene."""

import functools
import hashlib
import pickle
import sys

import pytest
import torch
from sklearn import datasets

from nonlocalnn.data import load_dataset
from nonlocalnn.data.cue import CueClips, CueSequences, load_cue
from nonlocalnn.data.digits import load_digits, split_indices
from nonlocalnn.data.labelled import resize_image
from tolerances import assert_near, assert_same

SPLITS = ("train", "validation", "test")
NAMES = ("cue", "cue-sequence")
RGB = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0)}
SHAPES = {"cue": (3, 8, 32, 32), "cue-sequence": (3, 384)}


def colour_of(pixels):
    """Return the name of the only colour in (3, ...)."""
    brightest = pixels.flatten(1).amax(1).round()
    return next(name for name, rgb in RGB.items() if torch.equal(brightest, tensor(rgb)))


def tensor(rgb):
    return torch.tensor(rgb, dtype=torch.float32)


def is_coloured(frame):
    """Return where (3, ...) is not grey."""
    return frame.amax(0) > frame.amin(0)


def digits_by_colour(name, sample):
    """Return the grey image of each digit that is shown, cut out by its colour."""
    found = {}
    if name == "cue":
        for place in range(4):
            rows, columns = (slice(16 * corner, 16 * corner + 16) for corner in divmod(place, 2))
            quarter = sample[:, -1, rows, columns]
            inside = is_coloured(quarter).nonzero()
            if not len(inside):
                continue
            (top, left), (bottom, right) = inside.amin(0), inside.amax(0) + 1
            coloured = quarter[:, top:bottom, left:right]
            found[colour_of(coloured)] = coloured.amax(0)
    else:
        for coloured in sample[:, 128:].unflatten(1, (4, 8, 8)).unbind(1):
            if is_coloured(coloured).any():
                found[colour_of(coloured)] = coloured.amax(0)
    return found


def cue_of(name, sample):
    if name == "cue-sequence":
        return colour_of(sample[:, :16])
    first = sample[:, 0]
    return colour_of(first[:, is_coloured(first)])


def answer(name, sample, split):
    """Return the class of the real digit that is drawn in the cue's colour."""
    shown = digits_by_colour(name, sample)
    assert len(shown) == 2
    image = shown[cue_of(name, sample)]
    for known, target in real_digits(name, split):
        if known.shape == image.shape and torch.allclose(known, image, rtol=0, atol=0.6 / 255):
            return target
    raise AssertionError(f"no digit of {split} looks like this")


@functools.cache
def real_digits(name, split):
    source, found = datasets.load_digits(), []
    for index in split_indices(source.target.tolist(), split):
        image = torch.from_numpy(source.images[index]).float()[None] / 16
        if name == "cue":
            image = cut(resize_image(image, (14, 14)))
        found.append((image[0], int(source.target[index])))
    return found


def cut(image):
    """Leave out the black rows and columns at the border of (1, H, W)."""
    inside = (image[0] * 255).round().nonzero()
    (top, left), (bottom, right) = inside.amin(0), inside.amax(0) + 1
    return image[:, top:bottom, left:right]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("split", "number"), [("train", 4000), ("validation", 500), ("test", 1000)])
def test_numbers_shapes_and_names(name, split, number):
    dataset = load_cue(name, split)
    assert len(dataset) == number
    assert dataset.sample_shape == SHAPES[name]
    assert dataset.channels == 3
    assert dataset.classes == tuple("0123456789")
    assert [dataset.targets.count(digit) for digit in range(10)] == [number // 10] * 10
    sample, target = dataset[13]
    assert (sample.shape, sample.dtype, target) == (SHAPES[name], torch.float32, 3)
    assert sample.min() >= 0
    assert sample.max() == 1
    assert dataset.sample_id(13) == f"{name}/{split}/13"
    assert dataset.sample_id(-1) == f"{name}/{split}/{number - 1}"
    assert_same(dataset[-1], dataset[number - 1])
    with pytest.raises(IndexError):
        dataset[number]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", NAMES)
def test_the_label_can_be_read_from_the_pixels(name, split):
    dataset = load_cue(name, split)
    for index in range(0, len(dataset), len(dataset) // 20 + 1):
        sample, target = dataset[index]
        assert answer(name, sample, split) == target


@pytest.mark.parametrize("name", NAMES)
def test_another_cue_asks_for_another_digit(name):
    dataset = load_cue(name, "test")
    for index in range(10):
        sample, target = dataset[index]
        began = cue_of(name, sample)
        answers = {}
        for colour in digits_by_colour(name, sample):
            changed = sample.clone()
            first = changed[:, 0] if name == "cue" else changed[:, :16]
            first[:, is_coloured(first)] = tensor(RGB[colour])[:, None]
            answers[colour] = answer(name, changed, "test")
        assert answers[began] == target
        assert len(set(answers.values())) == 2


def test_between_the_first_and_the_last_frame_there_is_grey_noise():
    clip, _ = load_cue("cue", "train")[5]
    between = clip[:, 1:-1]
    assert not is_coloured(between).any()
    assert 0.2 < between.max() < 0.25
    assert len(between.unique()) == 64
    sequence, _ = load_cue("cue-sequence", "train")[5]
    assert not is_coloured(sequence[:, 16:128]).any()
    assert is_coloured(sequence[:, :16]).all()


@pytest.mark.parametrize("name", NAMES)
def test_colours_and_places_are_drawn_evenly(name):
    dataset = load_cue(name, "train")
    scenes = [dataset.scene(index) for index in range(2000)]
    for values in ([scene.colours[0] for scene in scenes], [scene.places[0] for scene in scenes]):
        assert all(400 < values.count(value) < 600 for value in range(4))
    assert all(len(set(scene.colours)) == len(set(scene.places)) == 2 for scene in scenes)


def test_no_digit_is_in_two_splits():
    shown = {}
    for split in SPLITS:
        dataset, source = load_cue("cue", split), load_digits(split)
        scenes = [dataset.scene(index) for index in range(300)]
        shown[split] = {source.sample_id(digit) for scene in scenes for digit in scene.digits}
        for index, scene in enumerate(scenes):
            targets = [source.targets[digit] for digit in scene.digits]
            assert targets[0] == dataset.targets[index]
            assert len(set(targets)) == 2
    assert not shown["train"] & (shown["validation"] | shown["test"])
    assert not shown["validation"] & shown["test"]


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("cue", "cc95d2ab1238ecf50b50ed17fdeb7a1fe9d2857c881bf3758f9cf8f6ce480b64"),
        ("cue-sequence", "30519fbdb167714b88ea8bd42f3c48cb69d8f171579d2544282096e006e0bda9"),
    ],
)
def test_the_samples_are_the_published_ones(name, digest):
    torch.manual_seed(1)
    dataset = load_cue(name, "test")
    samples = torch.stack([dataset[index][0] for index in range(20)])
    pixels = (samples * 255).round().to(torch.uint8)
    assert hashlib.sha256(pixels.numpy().tobytes()).hexdigest() == digest


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_depends_on_no_other_and_on_no_global_generator(name):
    dataset = load_cue(name, "validation")
    before = torch.random.get_rng_state()
    expected = dataset[7]
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(99)
    assert_same(load_cue(name, "validation")[7], expected)
    copy = pickle.loads(pickle.dumps(dataset))
    assert_same(copy[7], expected)
    assert not torch.equal(dataset[17][0], expected[0])


@pytest.mark.parametrize("name", NAMES)
def test_augmented_all_but_the_class_is_new_each_time(name):
    dataset, plain = load_cue(name, "train", augment=True), load_cue(name, "train")
    torch.manual_seed(7)
    first, second = dataset[14], dataset[14]
    torch.manual_seed(7)
    assert_same(dataset[14], first)
    assert not torch.equal(first[0], second[0])
    assert_same(dataset.read(14), plain[14][0])
    for sample, target in (first, second):
        assert target == 4
        assert answer(name, sample, "train") == 4


@pytest.mark.parametrize(("image_size", "sides"), [(24, (24, 24)), ((20, 44), (20, 44)), (48, (48, 48))])
def test_frames_are_stretched(image_size, sides):
    clip, _ = load_cue("cue", "test", image_size=image_size)[3]
    assert clip.shape == (3, 8, *sides)
    original, _ = load_cue("cue", "test")[3]
    for frame in (0, 4, 7):
        expected = resize_image(original[:, frame], sides)
        assert_near(clip[:, frame], expected)


def test_longer_clips_have_the_same_beginning_and_end_further_apart():
    clips = load_dataset("cue", "test", frames=13)
    clip, target = clips[3]
    assert clip.shape == clips.sample_shape == (3, 13, 32, 32)
    assert answer("cue", clip, "test") == target == load_cue("cue", "test")[3][1]
    # Grey noise between, and nothing else.
    assert not is_coloured(clip[:, 1:-1]).any()
    assert 0 < clip[:, 1:-1].max() < 0.26


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"name must be one of 'cue', 'cue-sequence'; got 'cues'"):
        load_cue("cues", "train")
    with pytest.raises(ValueError, match=r"split must be one of 'train', 'validation', 'test'; got 'valid'"):
        load_cue("cue", "valid")
    with pytest.raises(ValueError, match="image_size must be at least 1 pixel"):
        load_cue("cue", "train", image_size=0)
    with pytest.raises(TypeError, match="image_size must be an integer"):
        load_cue("cue", "train", image_size=2.5)
    with pytest.raises(ValueError, match="'cue-sequence' has no frames and no image_size: leave it out"):
        load_cue("cue-sequence", "train", image_size=28)
    with pytest.raises(ValueError, match="'cue-sequence' has no frames and no image_size: leave it out"):
        load_cue("cue-sequence", "train", frames=9)
    with pytest.raises(ValueError, match="frames must be a whole number of at least 2; got 1"):
        load_cue("cue", "train", frames=1)


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"needs the library 'scikit-learn'.*nonlocalnn\[data\]"):
        load_cue("cue", "train")


def test_the_classes_need_no_name():
    assert_near(CueClips("test", image_size=(32, 32))[3], load_cue("cue", "test")[3])
    assert_near(CueSequences("test")[3], load_cue("cue-sequence", "test")[3])
