"""Videos as they are written, read by PyAV itself."""

from fractions import Fraction

import av
import numpy as np
import pytest

from nonlocalnn.data.video.writing import write_h264


def written(path, frames, **settings):
    """Write frames; return the open stream's facts, the times of keyframes, and the pictures."""
    write_h264(path, enumerate(frames), **{"rate": 25, "quality": 0, **settings})
    with av.open(str(path)) as container:
        (stream,) = container.streams
        read = list(container.decode(stream))
        facts = (stream.codec_context.name, stream.pix_fmt, stream.average_rate)
    keys = [number for number, frame in enumerate(read) if frame.key_frame]
    return facts, keys, [frame.to_ndarray(format="rgb24") for frame in read], read


def plain(colour, height=32, width=48):
    return np.full((height, width, 3), colour, dtype=np.uint8)


def test_it_is_h264_of_the_rate_that_was_asked_for(tmp_path):
    facts, keys, _, read = written(tmp_path / "a.mp4", [plain(90)] * 4, size=(32, 48), rate=30000 / 1001)
    assert facts == ("h264", "yuv420p", Fraction(30000, 1001))
    assert keys == [0]
    assert [frame.time for frame in read] == pytest.approx([n * 1001 / 30000 for n in range(4)], abs=1e-4)


def test_keyframes_come_every_250_frames_or_as_often_as_is_asked(tmp_path):
    _, keys, _, _ = written(tmp_path / "a.mp4", [plain(90, 16, 16)] * 252, size=(16, 16))
    assert keys == [0, 250]
    _, keys, _, _ = written(tmp_path / "b.mp4", [plain(90, 16, 16)] * 9, size=(16, 16), keyframe_every=3)
    assert keys == [0, 3, 6]


def test_frames_of_another_size_are_scaled_as_a_whole(tmp_path):
    wide = plain(20, 96, 144)
    # Three colours beside each other, and bars of one pixel in three, whose mean is what remains of them.
    wide[:48, :48], wide[:48, 48:96], wide[:48, 96:] = (200, 30, 30), (30, 200, 30), (30, 30, 200)
    wide[48:, :72:3], wide[48::3, 72:] = 220, 220
    _, _, shown, _ = written(tmp_path / "a.mp4", [plain(60), wide, plain(60)], size=(32, 48))
    assert [picture.shape for picture in shown] == [(32, 48, 3)] * 3
    assert np.abs(shown[0].astype(int) - 60).max() <= 3
    for column, colour in ((8, (200, 30, 30)), (24, (30, 200, 30)), (40, (30, 30, 200))):
        assert np.abs(shown[1][8, column].astype(int) - colour).max() <= 6
    for columns in (slice(3, 21), slice(27, 45)):
        assert np.abs(shown[1][20:28, columns].astype(int) - 87).max() <= 6
