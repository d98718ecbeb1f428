"""Videos written: H.264 in mp4."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

from nonlocalnn.data.video.pyav import import_av


def write_h264(
    path: Path,
    frames: Iterable[tuple[int, Any]],
    *,
    size: tuple[int, int],
    rate: float | Fraction,
    quality: int,
    time_base: Fraction | None = None,
    keyframe_every: int = 250,
) -> None:
    """Write frames as H.264 in mp4, on one thread: processes share the cores, a video each.

    Args:
        path: The file to write.
        frames: The time of each frame, rising, in units of ``time_base``, and its pixels, uint8 (H, W, 3).
        size: (H, W) of the video in pixels, both even; frames of another size are scaled to it.
        rate: Frames a second.
        quality: From 0, lossless, to 51: x264's constant rate factor.
        time_base: Seconds; None is 1 / ``rate``.
        keyframe_every: The most frames from one keyframe to the next.

    Raises:
        ImportError: PyAV is missing.
    """
    av = import_av()
    rate = Fraction(rate).limit_denominator(1001)
    time_base = 1 / rate if time_base is None else time_base
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = time_base
        stream.codec_context.thread_count = 1
        stream.options = {"crf": str(quality), "g": str(keyframe_every)}
        for time, pixels in frames:
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if pixels.shape[:2] != size:
                frame = frame.reformat(width=size[1], height=size[0], format="yuv420p", interpolation="AREA")
            frame.pts, frame.time_base = time, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
