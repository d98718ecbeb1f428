import os
import pickle
import subprocess
import sys
import types
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from nonlocalnn.data.video import ArchivedFile, VideoDecodeError, open_video
from nonlocalnn.data.video import source as video_source
from videos import HEIGHT, NUM_FRAMES, WIDTH, cut, damaged, grey_frames, level, numbers, write_video

WELL_KNOWN = ("plain.mp4", "faststart.mp4", "fragments.mp4", "plain.mkv", "vp9.webm", "uneven.mp4")
SEEKABLE = (*WELL_KNOWN, "slow.flv", "stream.ts")
COUNTED = ("h264.avi", "mpeg4.avi", "vp8.webm")
# In these the container declares how much there is.
DECLARED = ("plain.mp4", "faststart.mp4", "plain.mkv", "vp9.webm", "vp8.webm", "mpeg4.avi", "slow.flv")


def torchcodec_works():
    """Whether it is installed and finds FFmpeg, which some versions look for at the first use only."""
    try:
        from torchcodec.decoders import VideoDecoder

        VideoDecoder(b"not a video")
    except ImportError:
        return False
    except (RuntimeError, ValueError, OSError) as error:
        return "Could not load" not in str(error)
    return True


needs_torchcodec = pytest.mark.skipif(not torchcodec_works(), reason="torchcodec or FFmpeg is not installed")
both_backends = pytest.mark.parametrize(
    "backend", ["pyav", pytest.param("torchcodec", marks=needs_torchcodec)]
)


@pytest.mark.parametrize("name", [*SEEKABLE, *COUNTED])
def test_every_frame_of_every_container(videos, name):
    with open_video(videos / name) as video:
        assert (video.num_frames, video.size) == (NUM_FRAMES, (HEIGHT, WIDTH))
        frames = video.read(range(NUM_FRAMES))
    assert frames.shape == (NUM_FRAMES, HEIGHT, WIDTH, 3)
    assert frames.dtype == torch.uint8
    assert numbers(frames) == list(range(NUM_FRAMES))


@pytest.mark.parametrize(("name", "first"), [("late.mp4", 17), ("headless.mkv", 12)])
def test_parts_that_were_copied_out_of_a_file(videos, name, first):
    # An edit list hides the frames from the keyframe to the cut; without one they have no keyframe.
    with open_video(videos / name) as video:
        everything = video.read(range(video.num_frames))
        assert numbers(everything) == list(range(first, NUM_FRAMES))
        assert torch.equal(video.read([20, 0, 7]), everything[[20, 0, 7]])


@both_backends
def test_an_edit_list_that_ends_early_is_no_cut(videos, backend):
    with open_video(videos / "early.mp4", backend=backend) as video:
        assert video.num_frames == 21
        assert numbers(video.read(range(21))) == list(range(21))


def test_rate_in_frames_per_second(videos):
    for name, rate in (("plain.mp4", 25), ("plain.mkv", 25), ("slow.flv", 5)):
        with open_video(videos / name) as video:
            assert video.frames_per_second == pytest.approx(rate, rel=0.01)


@pytest.mark.parametrize(
    ("rate", "height", "pixels"),
    [(Fraction(25), 576, "yuv420p"), (Fraction(30000, 1001), 480, "yuv411p")],
    ids=["PAL", "NTSC"],
)
def test_rate_of_raw_dv_whose_clock_ticks_faster(tmp_path, rate, height, pixels):
    with av.open(str(tmp_path / "tape.dv"), "w") as container:
        stream = container.add_stream("dvvideo", rate=rate)
        stream.height, stream.width, stream.pix_fmt = height, 720, pixels
        for image in grey_frames(3, height, 720):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    with open_video(tmp_path / "tape.dv") as video:
        assert (len(video), video.frames_per_second) == (3, float(rate))


@pytest.mark.parametrize("rate", [25, 1000])
def test_rate_where_the_clock_ticks_once_a_frame(tmp_path, rate):
    for name in ("a.avi", "a.mkv"):
        path = write_video(tmp_path / name, grey_frames(8), rate=rate)
        with open_video(path) as video:
            assert video.frames_per_second == rate


@both_backends
@pytest.mark.parametrize("name", WELL_KNOWN)
def test_any_order_equals_decoding_everything(videos, name, backend):
    with open_video(videos / name, backend=backend) as video:
        everything = video.read(range(NUM_FRAMES))
    orders = [[39], [0], [12, 11], [13, 25, 38], [5, 6, 7], [37, 3, 3, 20, 0], list(range(39, -1, -3))]
    with open_video(videos / name, backend=backend) as video:
        for order in orders:
            assert torch.equal(video.read(order), everything[order]), order
    for order in orders:
        with open_video(videos / name, backend=backend) as video:
            assert torch.equal(video.read(order), everything[order]), order


@pytest.mark.parametrize("name", ["slow.flv", "stream.ts"])
def test_any_order_in_other_containers(videos, name):
    with open_video(videos / name) as video:
        everything = video.read(range(NUM_FRAMES))
        for order in ([39], [0], [37, 3, 20], [12, 11]):
            assert torch.equal(video.read(order), everything[order])


@pytest.mark.parametrize("name", COUNTED)
def test_files_without_times_are_read_in_any_order_too(videos, name):
    with open_video(videos / name) as video:
        assert video.times is None
        everything = video.read(range(NUM_FRAMES))
        for order in ([30], [39, 2], [2, 2], [10, 11, 20]):
            assert torch.equal(video.read(order), everything[order])


@pytest.mark.parametrize("name", [*WELL_KNOWN, "slow.flv"])
def test_decoding_starts_at_the_last_keyframe(videos, name):
    with open_video(videos / name) as video:
        keyframes = video._keyframes
        assert keyframes[0] == 0
        assert len(keyframes) > 2
        assert video._go_before(keyframes[-1] + 1)
        assert video._place_of[next(video._decoded).pts] == keyframes[-1]


def test_reading_on_does_not_seek(videos):
    with open_video(videos / "plain.mp4") as video:
        video.read([3])
        assert [video._go_before(index) for index in (4, 5, 11)] == [False] * 3
        assert video._go_before(39) is True
        assert numbers(video.read([39])) == [39]


@both_backends
@pytest.mark.parametrize("share", [0.5, 0.95])
@pytest.mark.parametrize("name", DECLARED)
def test_a_cut_file_is_an_error_and_no_shorter_video(videos, tmp_path, name, share, backend):
    if share == 0.95 and name in ("slow.flv", "mpeg4.avi"):
        pytest.skip("of the first less than a second is missing, of the second the index but no frame")
    path = cut(videos / name, tmp_path / name, share)
    reason = "it is cut, "
    if (name, backend) == ("slow.flv", "torchcodec"):
        reason = "torchcodec cannot tell whether it is whole: use the decoder 'pyav'"
    with pytest.raises(VideoDecodeError, match=f"cannot read video {path}: {reason}") as caught:
        open_video(path, backend=backend)
    assert caught.value.path == path
    assert caught.value.frame is None


@both_backends
def test_what_is_not_a_video(videos, backend):
    for name, reason in (
        ("text.mp4", ""),
        ("empty.mp4", "the file is empty"),
        ("sound.wav", ""),
    ):
        with pytest.raises(VideoDecodeError, match=f"cannot read video {videos / name}: {reason}") as caught:
            open_video(videos / name, backend=backend)
        assert caught.value.path == videos / name
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match=f"no such video: {videos / 'none.mp4'}"):
        open_video(videos / "none.mp4", backend=backend)


def test_pyav_says_what_is_wrong(videos):
    with pytest.raises(VideoDecodeError, match="is not a video, is damaged, or is of a kind"):
        open_video(videos / "text.mp4")
    with pytest.raises(VideoDecodeError, match="holds no video stream"):
        open_video(videos / "sound.wav")


@both_backends
@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (
            "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 7\n",
            "a pointer of Git LFS, .* pull",
        ),
        ("\n<!DOCTYPE html>\n<title>Log in</title>\n", "a web page"),
    ],
    ids=["Git LFS", "web page"],
)
def test_what_was_fetched_in_place_of_a_video(tmp_path, text, kind, backend):
    (tmp_path / "a.mp4").write_text(text)
    with pytest.raises(VideoDecodeError, match=rf"a\.mp4: it is not a video: it begins like {kind}$"):
        open_video(tmp_path / "a.mp4", backend=backend)


def test_a_file_that_may_not_be_read(videos, monkeypatch):
    def refuse(file):
        raise PermissionError(13, "Permission denied", file.name)

    monkeypatch.setattr(video_source, "is_cut", refuse)
    with pytest.raises(VideoDecodeError, match=r"plain\.mp4: Permission denied"):
        open_video(videos / "plain.mp4")


def error_of(video, index):
    try:
        video.read([index])
    except VideoDecodeError as error:
        return error
    return None


def test_damage_spreads_to_the_next_keyframe(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    images = [np.roll(noise, 2 * number, axis=1) for number in range(NUM_FRAMES)]
    whole = write_video(tmp_path / "whole.mp4", images, options={"bf": "0", "sc_threshold": "0"})
    counts = []
    for place in (0.1, 0.2, 0.4, 0.6, 0.8, 0.9):
        path = damaged(whole, tmp_path / "damaged.mp4", place)
        with open_video(path) as video:
            assert video.num_frames == NUM_FRAMES
            errors = [error_of(video, index) for index in range(NUM_FRAMES)]
        lost = [index for index, error in enumerate(errors) if error is not None]
        counts.append(len(lost))
        # The decoder does not notice all damage.
        if lost:
            assert lost == list(range(lost[0], lost[-1] + 1))
            assert lost[-1] + 1 in (12, 24, 36, 40)
            error = errors[lost[0]]
            assert (error.path, error.frame) == (path, lost[0])
            assert "damaged" in str(error)
            with open_video(path) as video, pytest.raises(VideoDecodeError, match=f"read frame {lost[0]} of"):
                video.read(range(NUM_FRAMES))
            with open_video(path) as video:
                assert error_of(video, lost[-1]) is not None
    assert max(counts) > 3


@both_backends
def test_frames_that_damage_has_swallowed(videos, tmp_path, backend):
    path = damaged(videos / "mpeg4.avi", tmp_path / "damaged.avi", 0.5, length=400)
    with pytest.raises(
        VideoDecodeError, match=r"is cut or damaged, its container declares 40 frames and holds \d"
    ):
        open_video(path, backend=backend)


@both_backends
def test_one_frame_few_pixels_and_other_sides(videos, backend):
    for name, num_frames, size in (
        ("one.mp4", 1, (48, 64)),
        ("tiny.mp4", 3, (2, 2)),
        ("portrait.mp4", 10, (64, 48)),
    ):
        with open_video(videos / name, backend=backend) as video:
            assert (video.num_frames, video.size) == (num_frames, size)
            frames = video.read(range(num_frames))
        assert frames.shape == (num_frames, *size, 3)
        assert numbers(frames) == list(range(num_frames))


@both_backends
def test_a_video_held_upright_is_turned(videos, backend):
    with open_video(videos / "upright.mp4", backend=backend) as video:
        as_stored = video.read([0, 2])
    with open_video(videos / "turned.mp4", backend=backend) as video:
        assert video.size == (64, 48)
        turned = video.read([0, 2])
    # A quarter clockwise: what was left is above.
    assert turned[0, :28].float().mean() < 20
    assert turned[0, 36:].float().mean() > 180
    assert torch.equal(turned, as_stored.rot90(-1, (1, 2)))


@both_backends
@pytest.mark.parametrize("indices", [[40], [0, -1], []])
def test_indices_that_are_not_there(videos, indices, backend):
    said = f"got {indices[-1] if indices else 'none'}"
    with (
        open_video(videos / "plain.mp4", backend=backend) as video,
        pytest.raises(ValueError, match=f"indices must be one or more from 0 to 39, .*{said}"),
    ):
        video.read(indices)


def test_a_closed_video(videos):
    with open_video(videos / "plain.mp4") as video:
        pass
    with pytest.raises(ValueError, match=r"plain\.mp4 is closed: open it again"):
        video.read([0])


def test_unknown_backend_and_missing_libraries(videos, monkeypatch):
    with pytest.raises(ValueError, match=r"backend must be one of .*did you mean 'pyav'"):
        open_video(videos / "plain.mp4", backend="pyva")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"reading videos needs the library 'av'.*nonlocalnn\[video\]"):
        open_video(videos / "plain.mp4")
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(ImportError, match="'torchcodec', which is not installed: run pip install torchcodec"):
        open_video(videos / "plain.mp4", backend="torchcodec")


@pytest.mark.slow
def test_importing_needs_no_optional_library():
    modules = ("video_sets", "video_benchmarks", "video_files", "video_torchcodec")
    code = (
        f"import sys, {', '.join(f'nonlocalnn.data.{name}' for name in modules)}\n"
        "print([name for name in ('av', 'torchcodec', 'torchvision', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_torchcodec_without_ffmpeg_is_not_a_broken_video(videos, monkeypatch):
    def refuse(*arguments, **settings):
        raise RuntimeError(
            "Could not load libtorchcodec. Likely causes:\n 1. FFmpeg is not properly installed"
        )

    module = types.ModuleType("torchcodec.decoders")
    module.VideoDecoder = refuse
    monkeypatch.setitem(sys.modules, "torchcodec", types.ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", module)
    with pytest.raises(ImportError, match="'torchcodec' finds no FFmpeg, or was built for another torch"):
        open_video(videos / "plain.mp4", backend="torchcodec")


@needs_torchcodec
@pytest.mark.parametrize("name", WELL_KNOWN)
def test_both_backends_agree(videos, name):
    order = [31, 0, 17]
    with open_video(videos / name) as ours, open_video(videos / name, backend="torchcodec") as theirs:
        assert (ours.num_frames, ours.size) == (theirs.num_frames, theirs.size)
        # How long the last frame lasts is a matter of taste where they come unevenly.
        rate = pytest.approx(theirs.frames_per_second, rel=0.2 if name == "uneven.mp4" else 0.01)
        assert ours.frames_per_second == rate
        difference = (ours.read(order).int() - theirs.read(order).int()).abs().max()
    assert difference <= 2


def save_frames(folder, names, size=(8, 6)):
    folder.mkdir()
    for number, name in enumerate(names):
        Image.new("RGB", size, (level(number),) * 3).save(folder / name)


def test_a_folder_of_frames(tmp_path):
    folder = tmp_path / "frames"
    save_frames(folder, [f"image_{number}.png" for number in range(1, 13)])
    (folder / "notes.txt").write_text("twelve frames")
    (folder / ".hidden.png").write_bytes(b"")
    with open_video(folder) as video:
        assert (video.num_frames, video.size, video.frames_per_second) == (12, (6, 8), None)
        assert numbers(video.read([11, 0, 9, 9])) == [11, 0, 9, 9]
        assert video.read([3]).dtype == torch.uint8
        assert video.read([3])[0, 0, 0].tolist() == [level(3)] * 3


def test_folders_that_are_no_video(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(VideoDecodeError, match=r"the folder holds no video and no frame \(\.jpg"):
        open_video(tmp_path / "empty")
    save_frames(tmp_path / "damaged", ["0.png", "1.png", "2.png"])
    (tmp_path / "damaged" / "1.png").write_bytes(b"no picture")
    with open_video(tmp_path / "damaged") as video:
        assert numbers(video.read([0, 2])) == [0, 2]
        with pytest.raises(VideoDecodeError, match="cannot read frame 1 of video") as caught:
            video.read([0, 1])
    assert caught.value.frame == 1
    save_frames(tmp_path / "mixed", ["0.png", "1.png"])
    Image.new("RGB", (7, 6)).save(tmp_path / "mixed" / "1.png")
    with (
        open_video(tmp_path / "mixed") as video,
        pytest.raises(VideoDecodeError, match=r"it is 6 x 7 pixels .*the first frame 6 x 8"),
    ):
        video.read([1])


def test_the_error_travels_between_processes(videos):
    with pytest.raises(VideoDecodeError) as caught:
        open_video(videos / "empty.mp4")
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (str(copied), copied.path, copied.frame) == (str(caught.value), videos / "empty.mp4", None)


@pytest.mark.parametrize("in_archive", [False, True], ids=["a file", "in an archive"])
@pytest.mark.parametrize("known", [True, False], ids=["known by its start", "not known"])
@pytest.mark.parametrize(
    "text",
    ["ffconcat version 1.0\nfile {}\n", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"],
    ids=["list of files", "playlist"],
)
def test_a_list_of_files_opens_none_of_them(tmp_path, monkeypatch, text, known, in_archive):
    if not known:
        monkeypatch.setattr(video_source, "_LIST_STARTS", (b"another kind",))
    other = write_video(tmp_path / "other.ts")
    path = tmp_path / "a.m3u8"
    path.write_text(text.format(other if in_archive else other.name))
    size = path.stat().st_size
    video = ArchivedFile(path, "a.m3u8", start=0, size=size) if in_archive else path
    says = "it is a list of other files" if known else "cannot read video"
    with pytest.raises(VideoDecodeError, match=says):
        open_video(video)


@pytest.mark.timeout(30)
def test_a_pipe_is_no_video_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(VideoDecodeError, match="it is a pipe or a device"):
        open_video(tmp_path / "a.mp4")


def pictures(folder, names):
    folder.mkdir()
    for name in names:
        Image.new("RGB", (6, 4)).save(folder / name)


@pytest.mark.parametrize("names", [["cover.png"], ["1.png", "2.png"]], ids=["a cover", "as many"])
def test_pictures_beside_videos_are_no_frames(tmp_path, names):
    pictures(tmp_path / "clips", names)
    for number in range(2):
        (tmp_path / "clips" / f"{number}.mp4").touch()
    with pytest.raises(VideoDecodeError, match=r"videos \(2\), such as 0\.mp4: name the videos one by one"):
        open_video(tmp_path / "clips")


def test_a_video_beside_its_frames_is_named(tmp_path):
    pictures(tmp_path / "frames", [f"{number}.png" for number in range(5)])
    (tmp_path / "frames" / "preview.gif").touch()
    with open_video(tmp_path / "frames") as video:
        assert video.num_frames == 5
    (tmp_path / "frames" / "source.mp4").touch()
    with (
        pytest.warns(UserWarning, match=r"source\.mp4 in .* is passed over: the 5 pictures"),
        open_video(tmp_path / "frames") as video,
    ):
        assert video.num_frames == 5


def test_a_folder_of_videos_alone_says_so(tmp_path):
    (tmp_path / "a.mp4").touch()
    with pytest.raises(VideoDecodeError, match=r"pictures \(0\) and videos \(1\), such as a\.mp4"):
        open_video(tmp_path)
