import av
import pytest

from nonlocalnn.data.file_check import files_to_check
from nonlocalnn.data.video import VideoDecodeError, open_video
from nonlocalnn.data.video.files import check_video, find_videos, shrink_video, shrunk_size
from nonlocalnn.data.video.frame_names import frame_paths
from nonlocalnn.data.video.lists import is_video, load_video_folder
from videos import NUM_FRAMES, cut, grey_frames, numbers, write_video


def test_videos_are_found_at_any_depth(videos, tmp_path):
    for name in ("b/2.mp4", "b/c/1.WEBM", "a.avi", ".hidden.mp4", "b/notes.txt", "b/cover.jpg", "d/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.warns(UserWarning, match=r"2 entries of .*\.(jpg|txt) \(1\), \.(jpg|txt) \(1\)"):
        found = find_videos([tmp_path, videos / "text.mp4"])
    assert [path.name for path in found] == ["a.avi", "2.mp4", "1.WEBM", "d", "text.mp4"]
    # They say themselves what is wrong, and the others are read.
    (tmp_path / "empty").mkdir()
    assert find_videos([tmp_path / "none", tmp_path / "empty"]) == [tmp_path / "none", tmp_path / "empty"]
    assert "no such video" in check_video(tmp_path / "none")
    assert "holds no video and no frame" in check_video(tmp_path / "empty")


def test_an_apng_is_a_video_wherever_a_gif_is(tmp_path):
    from PIL import Image

    first, *others = [Image.new("RGB", (16, 12), (40 * number, 0, 0)) for number in range(5)]
    for name in ("wave/a.apng", "clap/b.APNG"):
        (tmp_path / name).parent.mkdir()
        first.save(tmp_path / name, "PNG", save_all=True, append_images=others, duration=40)
    found = find_videos([tmp_path])
    assert [path.name for path in found] == ["b.APNG", "a.apng"]
    assert [check_video(path) for path in found] == [None, None]
    assert load_video_folder(tmp_path).targets == (0, 1)
    assert files_to_check(found[0]) == [("videos", found[0])]
    assert files_to_check(tmp_path) == [("videos", path) for path in found]
    # Beside frames it is a preview of them.
    for number in range(3):
        first.save(tmp_path / "wave" / f"{number}.png")
    assert is_video(tmp_path / "wave")
    assert [path.name for path in frame_paths(tmp_path / "wave")] == ["0.png", "1.png", "2.png"]


def test_checking_a_video(videos, tmp_path):
    assert check_video(videos / "plain.mp4") is None
    assert check_video(videos / "mpeg4.avi") is None
    assert "no such video" in check_video(videos / "none.mp4")
    assert "it is cut" in check_video(cut(videos / "faststart.mp4", tmp_path / "cut.mp4"))
    with pytest.raises(ValueError, match="backend must be one of"):
        check_video(videos / "plain.mp4", backend="cv2")


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((480, 640), 256, (256, 340)),
        ((640, 480), 256, (340, 256)),
        ((101, 77), 256, (100, 76)),
        ((3, 3), 2, (2, 2)),
        ((1000, 4), 2, (500, 2)),
        ((1, 5), 256, (2, 4)),
    ],
)
def test_shrunk_sizes_are_even(size, short_side, expected):
    assert shrunk_size(size, short_side) == expected


@pytest.mark.parametrize("name", ["plain.mp4", "mpeg4.avi", "vp8.webm", "uneven.mp4"])
def test_shrinking_keeps_every_frame_and_its_time(videos, tmp_path, name):
    target = tmp_path / "small" / "video.mp4"
    assert shrink_video(videos / name, target, short_side=24) is True
    with open_video(videos / name) as source, open_video(target) as small:
        assert small.size == (24, 32)
        assert numbers(small.read(range(NUM_FRAMES))) == list(range(NUM_FRAMES))
        assert small.frames_per_second == pytest.approx(source.frames_per_second, rel=0.1)
        if source.times is not None:
            times = [
                [float((time - video.times[0]) * video.time_base) for time in video.times]
                for video in (source, small)
            ]
            assert times[1] == pytest.approx(times[0], abs=2e-3)
    with av.open(str(target)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
    assert [path.name for path in target.parent.iterdir()] == ["video.mp4"]


def test_shrinking_goes_on_where_it_was_stopped(videos, tmp_path):
    target = tmp_path / "video.mp4"
    target.write_text("made before")
    assert shrink_video(videos / "plain.mp4", target) is False
    assert target.read_text() == "made before"


def test_small_videos_keep_their_size_and_turned_ones_are_set_upright(videos, tmp_path):
    shrink_video(videos / "turned.mp4", tmp_path / "turned.mp4", short_side=1000)
    with open_video(tmp_path / "turned.mp4") as video:
        assert video.size == (64, 48)
        assert video.read([0])[0, 40:].float().mean() > 180
    with av.open(str(tmp_path / "turned.mp4")) as container:
        assert next(container.decode(video=0)).rotation == 0


def test_a_keyframe_every_32_frames(tmp_path):
    source = write_video(tmp_path / "long.mp4", [*grey_frames(), *grey_frames()], options={"g": "500"})
    shrink_video(source, tmp_path / "small.mp4", short_side=24)
    with open_video(tmp_path / "small.mp4") as video:
        places = video._keyframes
    assert max(b - a for a, b in zip(places, [*places[1:], 80], strict=True)) <= 32


def test_what_cannot_be_shrunk_leaves_nothing(videos, tmp_path):
    target = tmp_path / "small" / "video.mp4"
    with pytest.raises(VideoDecodeError, match="is not a video"):
        shrink_video(videos / "text.mp4", target)
    with pytest.raises(FileNotFoundError, match="no such video"):
        shrink_video(videos / "none.mp4", target)
    with pytest.raises(ValueError, match="short_side must be a whole number"):
        shrink_video(videos / "plain.mp4", target, short_side=0)
    from PIL import Image

    Image.new("L", (8, 8)).save(tmp_path / "1.png")
    with pytest.raises(ValueError, match="must be a video file; folders of frames are not shrunk"):
        shrink_video(tmp_path, target)
    assert not target.exists()
    assert not list((tmp_path / "small").glob("*")) if target.parent.exists() else True
