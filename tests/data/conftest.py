"""Videos that several test files read; nothing writes to them."""

import wave

import numpy as np
import pytest

from videos import grey_frames, remux, shorten, write_video

MPEG4 = {"qscale": "2", "bf": "2", "flags": "+qscale", "global_quality": "236"}
VPX = {"crf": "10", "b": "1M", "deadline": "realtime", "cpu-used": "8"}


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    """Return a folder of videos, each named after what is special about it."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "plain.mp4")
    write_video(folder / "faststart.mp4", movflags="faststart")
    write_video(folder / "fragments.mp4", movflags="frag_keyframe+empty_moov")
    write_video(folder / "plain.mkv")
    write_video(folder / "stream.ts")
    write_video(folder / "slow.flv", rate=5)
    write_video(folder / "h264.avi")
    write_video(folder / "mpeg4.avi", codec="mpeg4", options=MPEG4)
    write_video(folder / "vp9.webm", codec="libvpx-vp9", options=VPX)
    hidden = {**VPX, "deadline": "good", "auto-alt-ref": "1", "lag-in-frames": "16"}
    write_video(folder / "vp8.webm", codec="libvpx", options=hidden)
    write_video(folder / "uneven.mp4", times=[number * (number + 1) // 2 for number in range(40)])
    shorten(folder / "plain.mp4", folder / "early.mp4", num_frames=21)
    remux(folder / "plain.mp4", folder / "late.mp4", after=10, shift=17)
    remux(folder / "plain.mp4", folder / "headless.mkv", after=5)
    write_video(folder / "one.mp4", grey_frames(1))
    write_video(folder / "short.mp4", grey_frames(5))
    write_video(folder / "tiny.mp4", grey_frames(3, 2, 2))
    write_video(folder / "portrait.mp4", grey_frames(10, 64, 48))
    (folder / "text.mp4").write_text("this is not a video\n" * 50)
    (folder / "empty.mp4").touch()
    with wave.open(str(folder / "sound.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(8000))
    held = np.zeros((48, 64, 3), dtype=np.uint8)
    held[:, 32:] = 200
    write_video(folder / "upright.mp4", [held] * 3)
    content = bytearray((folder / "upright.mp4").read_bytes())
    # The matrix of a telephone held upright: a quarter turn clockwise, in 16.16 fixed point.
    matrix = [0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30]
    start = content.index(b"tkhd") + 44
    content[start : start + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    (folder / "turned.mp4").write_bytes(content)
    return folder
