"""Looking after video files: which are there, which are broken, and making them small."""

import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nonlocalnn._errors import check_positive
from nonlocalnn._files import atomic_path
from nonlocalnn.data.archives.index import ArchivedFile
from nonlocalnn.data.folder_files import find_files
from nonlocalnn.data.video.lists import is_video
from nonlocalnn.data.video.opening import open_video
from nonlocalnn.data.video.pyav import PyAVReader
from nonlocalnn.data.video.reader import VideoReader
from nonlocalnn.data.video.source import VideoDecodeError
from nonlocalnn.data.video.writing import write_h264

# Frames that are held at a time, at their full size.
_CHUNK = 8
# A clip starts at a keyframe's distance at most from where decoding has to start.
_KEYFRAME_EVERY = 32


def find_videos(inputs: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return the videos, or folders of frames, that are named or lie in named folders; see ``find_files``.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("b.mp4", "a.webm", "Thumbs.db"):
        ...     (folder / name).touch()
        >>> [path.name for path in find_videos([folder])]
        ['a.webm', 'b.mp4']
    """
    return find_files(inputs, is_video, kind="videos or folders of frames")


def check_video(path: str | os.PathLike[str] | ArchivedFile, *, backend: str = "pyav") -> str | None:
    """Decode every frame of a video and return why that fails; ``None`` when it does not.

    Raises:
        ValueError: ``backend`` is unknown.
        ImportError: The backend's library is missing.

    Memory: 8 frames.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.mp4"
        >>> path.touch()
        >>> check_video(path).endswith("a.mp4: the file is empty")
        True
    """
    try:
        with open_video(path, backend=backend) as video:
            for _ in _chunks(video):
                pass
    except (VideoDecodeError, FileNotFoundError) as error:
        return str(error)
    return None


def _chunks(video: VideoReader) -> Iterator[Any]:
    for start in range(0, video.num_frames, _CHUNK):
        yield from video.read(range(start, min(start + _CHUNK, video.num_frames)))


def shrunk_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Return (H, W) scaled down to a short side, both even, as H.264 needs them; smaller ones are kept.

    Example:
        >>> shrunk_size((720, 1281), 256), shrunk_size((101, 64), 256)
        ((256, 454), (100, 64))
    """
    height, width = size
    scale = min(Fraction(1), Fraction(short_side, min(size)))
    return max(2, int(height * scale) // 2 * 2), max(2, int(width * scale) // 2 * 2)


def shrink_video(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    short_side: int = 256,
) -> bool:
    """Encode a video anew so that reading clips of it is fast: small frames, many keyframes, no sound.

    The result is H.264 in mp4, of constant quality (CRF 18, hardly told from the original), with a keyframe
    every 32 frames, upright, with every frame of the source at the time it had there. It is written beside
    its place and renamed, so that a file at ``target`` is a whole one; if there is one it is kept.

    Args:
        source: The file.
        target: The file to make, with the ending .mp4; missing folders are made.
        short_side: Pixels. Smaller videos keep their size, but for an odd row or column.

    Returns:
        Whether it was made; ``False`` if it was there.

    Raises:
        FileNotFoundError: There is no ``source``.
        VideoDecodeError: It cannot be read whole; nothing is left at ``target``.
        ValueError: ``short_side`` is below 1, or ``source`` is a folder.
        ImportError: PyAV is missing.

    Memory: 8 frames of the source.
    """
    check_positive(short_side=short_side)
    if Path(target).exists():
        return False
    with open_video(source) as video:
        if not isinstance(video, PyAVReader):
            raise ValueError(f"{source} must be a video file; folders of frames are not shrunk")
        with atomic_path(target) as temporary:
            _encode(video, temporary, shrunk_size(video.size, short_side))
            with open_video(temporary) as written:
                if written.num_frames != video.num_frames:
                    raise OSError(
                        f"{target} came out with {written.num_frames} frames and not {video.num_frames}: "
                        "is the disk full?"
                    )
    return True


def _encode(video: PyAVReader, path: Path, size: tuple[int, int]) -> None:
    times = range(video.num_frames) if video.times is None else video.times
    write_h264(
        path,
        zip(times, (pixels.numpy() for pixels in _chunks(video)), strict=True),
        size=size,
        rate=video.frames_per_second or 25,
        quality=18,
        time_base=None if video.times is None else video.time_base,
        keyframe_every=_KEYFRAME_EVERY,
    )


def write_clip(clip: Tensor, target: str | os.PathLike[str], *, enlarge: int = 4, rate: int = 8) -> bool:
    """Write a small clip as a video: H.264 in mp4, its pixels enlarged so that their colours survive.

    Args:
        clip: float32 (3, T, H, W) in [0, 1].
        target: The file to make, with the ending .mp4; missing folders are made. If it is there it is kept.
        enlarge: Side of the square that each pixel becomes, even: H.264 halves the resolution of colours.
        rate: Frames a second.

    Returns:
        Whether it was made; ``False`` if it was there.

    Raises:
        ImportError: PyAV is missing.
    """
    if Path(target).exists():
        return False
    pixels = (clip * 255).round().to(torch.uint8).permute(1, 2, 3, 0)
    pixels = pixels.repeat_interleave(enlarge, 1).repeat_interleave(enlarge, 2)
    height, width = pixels.shape[1:3]
    with atomic_path(target) as temporary:
        write_h264(temporary, enumerate(pixels.numpy()), size=(height, width), rate=rate, quality=12)
    return True
