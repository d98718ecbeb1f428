"""A video in an archive gives the frames, and the errors, of the same file by itself."""

import os
import sys
import types
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from archives import pack
from nonlocalnn.data.video import ArchivedFile, ArchivedVideo, VideoDecodeError, open_video
from nonlocalnn.data.video.lists import VideoList
from nonlocalnn.data.video.named import archived_files
from nonlocalnn.data.video.source import VideoSource
from videos import NUM_FRAMES, cut, damaged, noise, write_video

OTHERS = ("plain.mkv", "vp9.webm", "slow.flv", "mpeg4.avi", "vp8.webm", "h264.avi", "fragments.mp4")
EDITED = ("early.mp4", "late.mp4", "turned.mp4", "uneven.mp4", "one.mp4", "faststart.mp4")


def test_what_it_was_called_when_only_videos_lay_in_archives():
    assert ArchivedVideo is ArchivedFile


def one_video(folder, path):
    """Return a video in an archive, between two others."""
    archive = pack(
        folder / "train-0.tar",
        [
            (f"{key}{suffix}", content)
            for key, file in (("a", b"before"), ("x/b", path.read_bytes()), ("c", b"after"))
            for suffix, content in ((path.suffix, file), (".cls", b"0"))
        ],
    )
    return archived_files(archive, kind="videos")[1]


@pytest.mark.parametrize("name", ["plain.mp4", *OTHERS, *EDITED])
def test_frames_of_every_container(videos, tmp_path, name):
    part = one_video(tmp_path, videos / name)
    with open_video(videos / name) as file, open_video(part) as video:
        about = (file.num_frames, file.size, file.frames_per_second)
        assert (video.num_frames, video.size, video.frames_per_second) == about
        for order in (range(file.num_frames), [file.num_frames - 1, 0], [file.num_frames // 2]):
            assert torch.equal(video.read(order), file.read(order))
    assert video.path == part


@pytest.mark.parametrize("name", ["plain.mp4", "plain.mkv", "mpeg4.avi", "slow.flv"])
def test_a_cut_video_in_a_whole_archive(videos, tmp_path, name):
    part = one_video(tmp_path, cut(videos / name, tmp_path / name))
    message = rf"cannot read video {tmp_path}/train-0\.tar/x/b\.\w+: it is cut, "
    with pytest.raises(VideoDecodeError, match=message) as caught:
        open_video(part)
    assert caught.value.path == part


@pytest.mark.parametrize(
    ("name", "reason"),
    [("empty.mp4", "the file is empty"), ("text.mp4", "it is not a video, is damaged, or is of a kind")],
)
def test_what_is_no_video(videos, tmp_path, name, reason):
    with pytest.raises(VideoDecodeError, match=rf"train-0\.tar/x/b\.mp4: {reason}"):
        open_video(one_video(tmp_path, videos / name))


def test_frames_that_damage_has_swallowed(videos, tmp_path):
    path = damaged(videos / "mpeg4.avi", tmp_path / "damaged.avi", 0.5, length=400)
    with pytest.raises(VideoDecodeError, match=r"x/b\.avi: it is cut or damaged, its container declares 40"):
        open_video(one_video(tmp_path, path))


def test_a_damaged_frame_is_named(tmp_path):
    whole = write_video(
        tmp_path / "whole.mp4", noise(0, NUM_FRAMES), options={"bf": "0", "sc_threshold": "0"}
    )
    errors = []
    # The decoder does not notice all damage.
    for place in (0.1, 0.2, 0.4, 0.6, 0.8, 0.9):
        part = one_video(tmp_path, damaged(whole, tmp_path / "damaged.mp4", place))
        try:
            with open_video(part) as video:
                video.read(range(video.num_frames))
        except VideoDecodeError as error:
            errors.append(error)
    assert errors
    assert all(f"of video {tmp_path}/train-0.tar/x/b.mp4: " in str(error) for error in errors)
    assert all(error.path == part and error.frame is not None for error in errors)


@pytest.mark.parametrize("known_whole", [True, False], ids=["whole", "perhaps cut"])
@pytest.mark.parametrize("edited", [True, False], ids=["edit list", "no edit list"])
def test_what_a_container_declares_counts_unless_its_bytes_do(known_whole, edited):
    source = VideoSource(Path("a.mp4"), b"no avi", known_whole=known_whole, may_leave_frames_out=edited)
    source.check_count(found=2, declared=2, stream=0)
    source.check_seconds(found=1.0, declared=2.0)
    checks = (
        (
            known_whole and edited,
            lambda: source.check_count(found=1, declared=2, stream=0),
            "declares 2 frames and holds 1",
        ),
        (
            known_whole,
            lambda: source.check_seconds(found=1.0, declared=2.1),
            r"declares 2\.1 seconds and holds 1",
        ),
    )
    for is_trusted, check, message in checks:
        with (
            nullcontext()
            if is_trusted
            else pytest.raises(VideoDecodeError, match=f"video a.mp4: .*{message}")
        ):
            check()


def test_an_archive_that_was_cut_while_in_use(videos, tmp_path):
    part = one_video(tmp_path, videos / "plain.mp4")
    end = part.start + part.size
    os.truncate(part.archive, end)
    with open_video(part) as video:
        assert video.num_frames == NUM_FRAMES
    os.truncate(part.archive, end - 1)
    message = (
        rf"x/b\.mp4: it should end at byte {end} of its archive, which has {end - 1}: the archive is cut"
    )
    with pytest.raises(VideoDecodeError, match=message):
        open_video(part)
    # Nothing so large may be reserved before it is known to be there.
    with pytest.raises(VideoDecodeError, match="it should end at byte"):
        open_video(ArchivedFile(part.archive, "a.mp4", start=0, size=1 << 60))


def test_an_archive_that_is_gone_or_may_not_be_read(videos, tmp_path, monkeypatch):
    part = one_video(tmp_path, videos / "plain.mp4")
    assert part.exists()
    with monkeypatch.context() as patch:

        def refuse(path, mode):
            raise PermissionError(13, "Permission denied", str(path))

        patch.setattr(type(part.archive), "open", refuse)
        with pytest.raises(VideoDecodeError, match=r"x/b\.mp4: Permission denied"):
            open_video(part)
    part.archive.unlink()
    assert not part.exists()
    with pytest.raises(VideoDecodeError, match=r"train-0\.tar/x/b\.mp4: its archive is not there"):
        open_video(part)
    with pytest.raises(ValueError, match="none of the 1 videos is there"):
        VideoList((part,), targets=(0,), classes=("run",)).existing()


def test_torchcodec_is_given_the_bytes(videos, tmp_path, monkeypatch):
    given = []

    def refuse(source, **settings):
        given.append(source)
        raise RuntimeError("no decoder here")

    module = types.ModuleType("torchcodec.decoders")
    module.VideoDecoder = refuse
    monkeypatch.setitem(sys.modules, "torchcodec", types.ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", module)
    for path in (one_video(tmp_path, videos / "one.mp4"), videos / "one.mp4"):
        with pytest.raises(VideoDecodeError, match="torchcodec says: no decoder here"):
            open_video(path, backend="torchcodec")
    assert given == [(videos / "one.mp4").read_bytes(), str(videos / "one.mp4")]


@pytest.mark.parametrize(
    ("found", "dropped", "is_whole"), [(5, 0, True), (3, 2, True), (3, 1, False), (2, 2, False)]
)
def test_frames_that_a_camera_lost_are_counted(monkeypatch, found, dropped, is_whole):
    source = VideoSource(Path("a.avi"), b"", known_whole=False, may_leave_frames_out=False)
    monkeypatch.setattr(VideoSource, "_dropped", lambda self, stream: dropped)
    with nullcontext() if is_whole else pytest.raises(VideoDecodeError, match="declares 5 frames and holds"):
        source.check_count(found=found, declared=5, stream=0)
