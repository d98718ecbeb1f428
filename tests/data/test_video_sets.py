import pickle
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from nonlocalnn.data.video import VideoDecodeError, open_video
from nonlocalnn.data.video.clips import MEAN, STANDARD_DEVIATION
from nonlocalnn.data.video.dataset import UNREADABLE, CentreClip, RandomClip, VideoClips, Views
from nonlocalnn.data.video.lists import VideoList
from nonlocalnn.data.video.sampling import choose_sampling
from nonlocalnn.train.order import SeededSamples
from tolerances import assert_near, assert_same
from videos import NUM_FRAMES, cut, level, numbers

SMALL = RandomClip(short_sides=(32, 40), crop_size=28)


def shown(clip):
    """Which frames a clip (3, T, H, W) shows."""
    return numbers((clip * STANDARD_DEVIATION + MEAN).permute(1, 2, 3, 0))


def some_videos(folder, names=("plain.mp4", "short.mp4", "vp9.webm", "portrait.mp4")):
    return VideoList(
        tuple(folder / name for name in names),
        tuple(index % 2 for index in range(len(names))),
        ("run", "walk"),
    )


@pytest.fixture
def with_broken(videos, tmp_path):
    """Return six videos, of which 1, 3 and 4 cannot be read, each for a reason of its own."""
    broken = cut(videos / "faststart.mp4", tmp_path / "cut.mp4")
    names = ("plain.mp4", broken, "short.mp4", "none.mp4", "text.mp4", "portrait.mp4")
    return some_videos(videos, names)


def test_training_clips(videos):
    torch.manual_seed(1)
    data = VideoClips(some_videos(videos), frames=5, stride=3, sampling=SMALL)
    assert (len(data), data.classes, data.multi_label) == (4, ("run", "walk"), False)
    assert (data.sample_shape, data.channels) == ((3, 5, 28, 28), 3)
    assert data.sample_id(2) == str(videos / "vp9.webm")
    starts = set()
    for _ in range(12):
        clip, target = data[0]
        assert (clip.shape, clip.dtype, target) == ((3, 5, 28, 28), torch.float32, 0)
        first, *others = shown(clip)
        assert others == [first + 3, first + 6, first + 9, first + 12]
        assert 0 <= first <= NUM_FRAMES - 15
        starts.add(first)
    assert len(starts) > 5
    assert [target for _, target in data] == [0, 1, 0, 1]


def test_a_video_shorter_than_the_clip_starts_over(videos):
    data = VideoClips(some_videos(videos), frames=4, stride=2, sampling=SMALL)
    assert shown(data[1][0]) == [0, 2, 4, 1]
    assert VideoClips(some_videos(videos), frames=4, stride=2, sampling=Views(2, 1, 32))[1][0].shape[0] == 2
    one = some_videos(videos, ("one.mp4",))
    assert shown(VideoClips(one, frames=4, stride=2, sampling=CentreClip(32))[0][0]) == [0] * 4


def test_the_centre_clip(videos):
    data = VideoClips(some_videos(videos), frames=4, stride=8, sampling=CentreClip(32))
    clip, target = data[0]
    assert (clip.shape, target) == ((3, 4, 32, 32), 0)
    assert shown(clip) == [4, 12, 20, 28]
    assert torch.equal(clip, data[0][0])


def test_views(videos):
    data = VideoClips(
        some_videos(videos), frames=3, stride=4, sampling=Views(num_clips=4, num_crops=3, size=32)
    )
    views, target = data[2]
    assert (views.shape, target) == ((12, 3, 3, 32, 32), 0)
    assert data.sample_shape == (3, 3, 32, 32)
    assert [shown(view) for view in views[::3]] == [[0, 4, 8], [10, 14, 18], [20, 24, 28], [30, 34, 38]]
    assert [shown(view) for view in views[1::3]] == [shown(view) for view in views[::3]]
    assert VideoClips(some_videos(videos), frames=3, stride=4, sampling=Views())[3][0].shape[0] == 30


def test_views_are_crops_along_the_long_side(videos):
    # upright.mp4 is dark on the left and bright on the right.
    data = VideoClips(
        some_videos(videos, ("upright.mp4",)), frames=2, stride=1, sampling=Views(num_clips=1, size=48)
    )
    left, middle, right = data[0][0].mean(dim=(1, 2, 3, 4)).tolist()
    assert left < middle < right


def test_what_is_taken_of_a_video_is_8_bit_frames(videos):
    with open_video(videos / "plain.mp4") as video:
        one = CentreClip(32).take(video, frames=4, stride=8)
        many = Views(num_clips=2, size=32).take(video, frames=4, stride=8)
        some = SMALL.take(video, frames=4, stride=8, generator=torch.Generator())
    assert (one.shape, one.dtype, numbers(one)) == ((4, 32, 32, 3), torch.uint8, [4, 12, 20, 28])
    assert (many.shape, many.dtype) == ((6, 4, 32, 32, 3), torch.uint8)
    assert [numbers(view) for view in many] == [[0, 8, 16, 24]] * 3 + [[20, 28, 36, 4]] * 3
    assert (some.shape, some.dtype) == ((4, 28, 28, 3), torch.uint8)


@pytest.mark.parametrize(
    "sampling", [SMALL, CentreClip(32), Views(2, 3, 32)], ids=["random", "clip", "views"]
)
def test_values_are_normalised_as_asked(videos, sampling):
    settings = {"frames": 3, "stride": 2, "sampling": sampling}
    torch.manual_seed(3)
    usual = VideoClips(some_videos(videos), **settings)[0][0]
    torch.manual_seed(3)
    other = VideoClips(some_videos(videos), mean=0.0, standard_deviation=255.0, **settings)[0][0]
    assert 0 < other.min() < other.max() < 1
    assert_near(usual * STANDARD_DEVIATION + MEAN, other * 255)


def test_samplings_have_names():
    assert (CentreClip().name, CentreClip().num_views) == ("1 clip", 1)
    assert Views().name == "30 views (10 clips x 3 crops)"
    assert Views(1, 1).name == "1 view (1 clip x 1 crop)"
    assert choose_sampling(1, size=32) == CentreClip(32)
    assert choose_sampling(30, size=32) == Views(10, 3, 32)
    with pytest.raises(ValueError, match="views must be one of 1, 30; got 10"):
        choose_sampling(10)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_samples_follow_seed_epoch_and_index_only(videos, num_workers):
    def read(epoch, seed=0):
        data = VideoClips(some_videos(videos), frames=3, stride=2, sampling=SMALL)
        samples = SeededSamples(data, seed=seed, epoch=epoch)
        return [clip for (clip, _), _ in DataLoader(samples, batch_size=None, num_workers=num_workers)]

    torch.manual_seed(5)
    first = read(epoch=1)
    torch.manual_seed(6)
    assert_same(read(epoch=1), first)
    for other in (read(epoch=2), read(epoch=1, seed=1)):
        assert any(not torch.equal(left, right) for left, right in zip(first, other, strict=True))


def test_batches_and_pickles(videos):
    data = VideoClips(some_videos(videos), frames=3, stride=2, sampling=CentreClip(32))
    clips, targets = next(iter(DataLoader(pickle.loads(pickle.dumps(data)), batch_size=4)))
    assert clips.shape == (4, 3, 3, 32, 32)
    assert targets.tolist() == [0, 1, 0, 1]
    with pytest.raises(IndexError):
        data[4]
    assert torch.equal(data[-1][0], data[3][0])


def test_several_labels(videos):
    names = ("plain.mp4", "short.mp4", "one.mp4")
    listed = VideoList(
        tuple(videos / name for name in names), ((0, 2), (), (1,)), ("a", "b", "c"), multi_label=True
    )
    data = VideoClips(listed, frames=2, stride=1, sampling=CentreClip(32))
    _, targets = next(iter(DataLoader(data, batch_size=3)))
    assert targets.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert targets.dtype == torch.float32


def test_broken_videos_are_an_error_unless_allowed(with_broken):
    data = VideoClips(with_broken, frames=2, stride=2, sampling=SMALL)
    for index, says in ((1, "it is cut"), (3, "no such video"), (4, "is not a video")):
        for _ in range(2):
            with pytest.raises(
                VideoDecodeError, match=rf"{says}.*6 videos could not be read so far"
            ) as caught:
                data[index]
            assert caught.value.path == with_broken.paths[index]
    assert data[0][1] == 0
    assert data.broken == [with_broken.paths[index] for index in (1, 3, 4)]


def test_in_training_another_video_stands_in(with_broken):
    def read():
        data = VideoClips(with_broken, frames=2, stride=2, sampling=SMALL, max_broken=3)
        samples = SeededSamples(data, seed=0, epoch=0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = [samples[index][0] for index in (1, 4, 1, 3, 1)]
        assert len(caught) == 3
        assert all(str(warning.message).startswith("left out: ") for warning in caught)
        return found, data.broken

    found, broken = read()
    assert broken == [with_broken.paths[index] for index in (1, 3, 4)]
    # Whether a video is known to be broken already changes nothing.
    assert torch.equal(found[0][0], found[2][0])
    assert torch.equal(found[0][0], found[4][0])
    again, _ = read()
    for (clip, target), (other_clip, other_target) in zip(found, again, strict=True):
        assert torch.equal(clip, other_clip)
        assert target == other_target


def test_more_broken_videos_than_allowed(with_broken):
    data = VideoClips(with_broken, frames=2, stride=2, sampling=CentreClip(32), max_broken=1)
    with pytest.warns(UserWarning, match="left out: cannot read video"):
        data[1]
    assert data[1][1] == UNREADABLE
    with pytest.raises(
        VideoDecodeError, match=r"2 of 6 videos could not be read so far, and max_broken is 1"
    ):
        data[3]


def test_in_the_test_broken_videos_are_listed(with_broken):
    data = VideoClips(with_broken, frames=2, stride=2, sampling=Views(2, 1, 32), max_broken=3)
    with pytest.warns(UserWarning, match="left out"):
        views, targets = next(iter(DataLoader(data, batch_size=6)))
    assert views.shape == (6, 2, 3, 2, 32, 32)
    assert targets.tolist() == [0, UNREADABLE, 0, UNREADABLE, UNREADABLE, 1]
    assert views[1].abs().max() == 0
    assert data.broken == [with_broken.paths[index] for index in (1, 3, 4)]


@pytest.mark.filterwarnings("ignore:left out")
@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_reading_processes_count_together(with_broken, context):
    if context == "spawn":
        pytest.importorskip("torch.multiprocessing")
    data = VideoClips(with_broken, frames=2, stride=2, sampling=CentreClip(32), max_broken=3)
    loader = DataLoader(data, num_workers=2, multiprocessing_context=context)
    targets = [int(target) for _, target in loader]
    assert targets == [0, UNREADABLE, 0, UNREADABLE, UNREADABLE, 1]
    assert len(data.broken) == 3


def test_a_list_of_which_nothing_can_be_read(videos):
    listed = some_videos(videos, ("empty.mp4", "text.mp4"))
    data = VideoClips(listed, frames=2, stride=2, sampling=SMALL, max_broken=10)
    with pytest.warns(UserWarning, match="left out"), pytest.raises(VideoDecodeError, match="2 of 2 videos"):
        data[0]


@pytest.mark.filterwarnings("ignore:left out")
def test_several_labels_that_cannot_be_read(videos):
    listed = VideoList(
        (videos / "empty.mp4", videos / "plain.mp4"), ((0,), (1,)), ("a", "b"), multi_label=True
    )
    data = VideoClips(listed, frames=2, stride=2, sampling=CentreClip(32), max_broken=1)
    assert data[0][1].tolist() == [UNREADABLE] * 2


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda videos: VideoClips(videos, frames=0, stride=1, sampling=SMALL),
            "frames must be a whole number",
        ),
        (
            lambda videos: VideoClips(videos, frames=1, stride=0, sampling=SMALL),
            "stride must be a whole number",
        ),
        (
            lambda videos: VideoClips(videos, frames=1, stride=1, sampling=SMALL, backend="cv2"),
            "backend must be one of 'pyav', 'torchcodec'",
        ),
        (
            lambda videos: VideoClips(videos, frames=1, stride=1, sampling=SMALL, max_broken=-1),
            "max_broken must be at least 0; got -1",
        ),
        (
            lambda videos: VideoClips(videos, frames=1, stride=1, sampling=SMALL, standard_deviation=0),
            "standard_deviation must be greater than 0; got 0",
        ),
        (lambda _: RandomClip(short_sides=(200, 320)), "short_sides must be two lengths .* crop_size of 224"),
        (lambda _: RandomClip(short_sides=(320, 256)), r"in ascending order, .*got \(320, 256\)"),
        (lambda _: RandomClip(crop_size=0), "crop_size must be a whole number"),
        (lambda _: CentreClip(size=0), "size must be a whole number"),
        (lambda _: Views(num_clips=0), "num_clips must be a whole number"),
        (lambda _: Views(num_crops=2), "num_crops must be one of 1, 3; got 2"),
    ],
)
def test_wrong_settings(videos, make, says):
    with pytest.raises(ValueError, match=says):
        make(some_videos(videos))


def test_a_missing_library_is_not_a_broken_video(videos, monkeypatch):
    data = VideoClips(some_videos(videos), frames=2, stride=2, sampling=SMALL, max_broken=3)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"nonlocalnn\[video\]"):
        data[0]
    assert data.broken == []


def test_frames_of_a_folder(tmp_path):
    from PIL import Image

    for number in range(9):
        Image.new("L", (40, 30), level(number)).save(tmp_path / f"{number}.png")
    listed = VideoList((Path(tmp_path),), (0,), ("dark",))
    data = VideoClips(listed, frames=3, stride=2, sampling=CentreClip(24))
    assert shown(data[0][0]) == [1, 3, 5]
