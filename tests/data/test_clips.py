import pytest
import torch

from nonlocalnn.data.video import clips
from tolerances import assert_near, assert_same


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def ramp(frames=2, height=6, width=9):
    """Frames whose red is the row, whose green is the column and whose blue is the frame."""
    pixels = torch.zeros(frames, height, width, 3, dtype=torch.uint8)
    pixels[..., 0] = torch.arange(height)[:, None]
    pixels[..., 1] = torch.arange(width)
    pixels[..., 2] = torch.arange(frames)[:, None, None]
    return pixels


def test_training_starts_cover_their_whole_range_evenly():
    starts = []
    for seed in range(3000):
        indices = clips.train_indices(37, frames=4, stride=8, generator=generator(seed))
        assert [index - indices[0] for index in indices] == [0, 8, 16, 24]
        starts.append(indices[0])
    # 37 - 4 * 8 = 5, itself included.
    counts = torch.tensor(starts).bincount()
    assert len(counts) == 6
    assert (counts - 500).abs().max() < 100


@pytest.mark.parametrize("num_frames", [1, 3, 31, 32])
def test_short_videos_start_over(num_frames):
    for seed in range(5):
        indices = clips.train_indices(num_frames, frames=4, stride=8, generator=generator(seed))
        assert indices == [0, 8 % num_frames, 16 % num_frames, 24 % num_frames]
    assert clips.centre_indices(num_frames, frames=4, stride=8) == indices


def test_training_clips_follow_the_generator():
    draws = [clips.train_indices(500, frames=8, stride=8, generator=generator(seed)) for seed in (3, 3, 4)]
    assert draws[0] == draws[1] != draws[2]


def test_test_clips_start_at_even_distances_and_start_over():
    found = clips.test_indices(295, frames=3, stride=30, num_clips=10)
    assert [indices[0] for indices in found] == [0, 29, 59, 88, 118, 147, 177, 206, 236, 265]
    assert found[8:] == [[236, 266, 1], [265, 0, 30]]
    assert clips.test_indices(7, frames=2, stride=3, num_clips=1) == [[0, 3]]
    assert clips.test_indices(2, frames=2, stride=3, num_clips=4) == [[0, 1], [0, 1], [1, 0], [1, 0]]


def test_the_centre_clip_is_in_the_middle():
    assert clips.centre_indices(100, frames=4, stride=8) == [34, 42, 50, 58]


@pytest.mark.parametrize("value", [0, -3, 2.0, True])
@pytest.mark.parametrize("name", ["num_frames", "frames", "stride", "num_clips"])
def test_numbers_below_one(name, value):
    numbers = {"num_frames": 10, "frames": 2, "stride": 2, "num_clips": 2, name: value}
    num_frames, num_clips = numbers.pop("num_frames"), numbers.pop("num_clips")
    with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 1; got {value}"):
        clips.test_indices(num_frames, num_clips=num_clips, **numbers)
    if name != "num_clips":
        with pytest.raises(ValueError, match=name):
            clips.train_indices(num_frames, generator=generator(), **numbers)
        with pytest.raises(ValueError, match=name):
            clips.centre_indices(num_frames, **numbers)


def test_short_sides_reach_both_ends():
    drawn = [clips.random_short_side((256, 259), generator=generator(seed)) for seed in range(60)]
    assert set(drawn) == {256, 257, 258, 259}


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((48, 64), 24, (24, 32)),
        ((64, 48), 96, (128, 96)),
        ((50, 71), 33, (33, 46)),
        ((30, 30), 17, (17, 17)),
        ((48, 64), 48, (48, 64)),
    ],
)
def test_the_short_side_is_scaled_and_the_aspect_kept(size, short_side, expected):
    frames = torch.randint(0, 256, (3, *size, 3), dtype=torch.uint8)
    scaled = clips.resize_short_side(frames, short_side)
    assert scaled.shape == (3, *expected, 3)
    assert scaled.dtype == torch.uint8
    exact = torch.nn.functional.interpolate(
        frames.permute(0, 3, 1, 2).double(), size=expected, mode="bilinear", antialias=True
    )
    # 8 bits are rounded after each of two axes.
    assert (scaled.permute(0, 3, 1, 2).double() - exact).abs().max() <= 1.5


def test_shrinking_averages_fine_patterns():
    stripes = (torch.arange(64) % 2 * 255).to(torch.uint8).expand(1, 64, 64)[..., None].repeat(1, 1, 1, 3)
    scaled = clips.resize_short_side(stripes, 16)
    assert (scaled.float() - 127.5).abs().max() < 10


def test_a_random_crop_is_the_same_in_all_frames():
    frames = ramp(5, 20, 30)
    tops, lefts, mirrored = set(), set(), 0
    for seed in range(400):
        cut = clips.random_crop(frames, 17, flip=True, generator=generator(seed))
        assert cut.shape == (5, 17, 17, 3)
        assert torch.equal(cut[..., 2], torch.arange(5).expand(17, 17, 5).permute(2, 0, 1))
        assert torch.equal(cut[:, :, :, :2], cut[:1, :, :, :2].expand(5, -1, -1, -1))
        columns = cut[0, 0, :, 1].int()
        mirrored += int(columns[0] > columns[1])
        assert (columns.diff().abs() == 1).all()
        tops.add(int(cut[0, 0, 0, 0]))
        lefts.add(int(columns.min()))
    assert tops == set(range(4))
    assert lefts == set(range(14))
    assert 150 < mirrored < 250


def test_without_flip_the_place_is_the_same():
    frames = ramp(1, 20, 30)
    for seed in range(20):
        straight = clips.random_crop(frames, 8, flip=False, generator=generator(seed))
        other = clips.random_crop(frames, 8, flip=True, generator=generator(seed))
        assert torch.equal(straight, other) or torch.equal(straight, other.flip(2))


@pytest.mark.parametrize("sides", [(16, 21), (21, 16), (16, 16)], ids=["wide", "tall", "square"])
def test_even_crops_stand_along_the_long_side(sides):
    frames = ramp(2, *sides)
    crops = clips.even_crops(frames, 16, num_crops=3)
    step = (max(sides) - 16) // 2
    for place, crop in enumerate(crops):
        assert crop.shape == (2, 16, 16, 3)
        corner = [0, place * step] if sides[1] > 16 else [place * step, 0]
        assert crop[0, 0, 0, :2].tolist() == corner
    (middle,) = clips.even_crops(frames, 16, num_crops=1)
    assert torch.equal(middle, crops[1])


def test_crops_smaller_than_the_short_side_are_in_its_middle():
    (crop,) = clips.even_crops(ramp(1, 10, 20), 6, num_crops=1)
    assert crop[0, 0, 0, :2].tolist() == [2, 7]


def test_crops_that_do_not_fit():
    with pytest.raises(ValueError, match=r"a square of 7 pixels does not fit into frames of 6 x 9 \(height"):
        clips.random_crop(ramp(), 7, flip=True, generator=generator())
    with pytest.raises(ValueError, match="a square of 7 pixels does not fit"):
        clips.even_crops(ramp(), 7, num_crops=3)
    with pytest.raises(ValueError, match="num_crops must be 1 or 3; got 2"):
        clips.even_crops(ramp(), 6, num_crops=2)


def test_normalised_clips():
    frames = ramp(5, 6, 9)
    clip = clips.normalize_clip(frames)
    assert clip.shape == (3, 5, 6, 9)
    assert clip.dtype == torch.float32
    assert clip.is_contiguous()
    assert_near(clip[1, 3, 4, 7], torch.tensor((7 - 114.75) / 57.375))
    assert_near(clip * 57.375 + 114.75, frames.permute(3, 0, 1, 2).float())
    other = clips.normalize_clip(frames, mean=3.0, standard_deviation=2.0)
    assert_near(other[1, 3, 4, 7], torch.tensor((7 - 3.0) / 2.0))
    # Views of frames, mirrored or cut, come out just so.
    assert_same(clips.normalize_clip(frames.flip(2)), clip.flip(3))


def test_several_clips_are_normalised_one_like_the_other():
    views = torch.stack([ramp(5, 6, 9), ramp(5, 6, 9).flip(3), ramp(5, 6, 9).roll(1, 0)])
    found = clips.normalize_clip(views)
    assert found.is_contiguous()
    assert_same(found, torch.stack([clips.normalize_clip(view) for view in views]))


def test_normalising_leaves_its_input_alone():
    frames = torch.ones(1, 1, 1, 3)
    clips.normalize_clip(frames)
    assert frames.tolist() == [[[[1, 1, 1]]]]


def test_each_channel_has_its_own_mean():
    frames = torch.randint(256, (2, 5, 4, 6, 3), dtype=torch.uint8)
    mean, deviation = (10.0, 20.0, 30.0), [2.0, 4.0, 8.0]
    found = clips.normalize_clip(frames, mean=mean, standard_deviation=deviation)
    assert found.dtype == torch.float32
    for channel in range(3):
        expected = clips.normalize_clip(frames, mean=mean[channel], standard_deviation=deviation[channel])
        assert_same(found[:, channel], expected[:, channel])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"mean": (1.0, 2.0)},
            r"mean must be one number, or one for each of the 3 channels; got \(1.0, 2.0\)",
        ),
        ({"standard_deviation": [1.0] * 4}, "standard_deviation must be one number"),
        ({"standard_deviation": (1.0, 0.0, 1.0)}, r"must be greater than 0; got \(1.0, 0.0, 1.0\)"),
        ({"standard_deviation": 0.0}, "must be greater than 0; got 0.0"),
    ],
    ids=str,
)
def test_wrong_means_and_deviations(settings, says):
    with pytest.raises(ValueError, match=says):
        clips.normalize_clip(torch.zeros(1, 2, 2, 3, dtype=torch.uint8), **settings)
