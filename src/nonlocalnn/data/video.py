"""Reading frames of videos: files, by themselves or in archives, and folders of frame images.

:func:`open_video` gives a :class:`VideoReader`, whatever decodes. Frames are named by their place in order of
presentation, from 0. A video is read whole or not at all: a file that is cut, or a frame that does not
decode, is an error, never a shorter video or a repeated frame.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from nonlocalnn._errors import check_choice
from nonlocalnn.data.frame_names import FRAME_SUFFIXES, frame_paths
from nonlocalnn.data.images import read_image
from nonlocalnn.data.video_source import ArchivedVideo, VideoDecodeError, VideoPath, find_source, unreadable

__all__ = [
    "BACKENDS",
    "FRAME_SUFFIXES",
    "VIDEO_SUFFIXES",
    "ArchivedVideo",
    "FrameFolder",
    "VideoDecodeError",
    "VideoPath",
    "VideoReader",
    "check_frame_size",
    "check_no_image",
    "frame_paths",
    "open_video",
]

BACKENDS = ("pyav", "torchcodec")
# Of the files that FFmpeg decodes: those that cameras, editors and sites write. A GIF is one too.
VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".qt", ".mkv", ".webm", ".avi", ".divx", ".gif"),
    *(
        ".mpg",
        ".mpeg",
        ".mpe",
        ".m1v",
        ".m2v",
        ".mpv",
        ".vob",
        ".ts",
        ".mts",
        ".m2t",
        ".m2ts",
        ".tod",
        ".mod",
    ),
    *(".wmv", ".asf", ".flv", ".f4v", ".3gp", ".3g2", ".3gpp", ".ogv", ".ogm", ".mxf", ".dv", ".rm", ".rmvb"),
    *(".mjpg", ".mjpeg", ".h264", ".264", ".hevc", ".265", ".y4m"),
)


class VideoReader(ABC):
    """An open video.

    It is a context manager, and closes its file at the end. A subclass decodes (:meth:`decode`).

    Args:
        path: The file, folder or part of an archive.
        num_frames: How many frames it has.
        frames_per_second: Their mean rate; ``None`` where nothing says.
        size: (H, W) of its frames in pixels, upright.

    Attributes:
        path: As given.
        num_frames: As given.
        frames_per_second: As given.
        size: As given.
    """

    def __init__(
        self, path: VideoPath, *, num_frames: int, frames_per_second: float | None, size: tuple[int, int]
    ) -> None:
        self.path = path
        self.num_frames = num_frames
        self.frames_per_second = frames_per_second
        self.size = size

    @abstractmethod
    def decode(self, indices: Sequence[int]) -> list[Tensor]:
        """Return frames, each uint8 (H, W, 3), for indices that exist, ascend and do not repeat."""

    def close(self) -> None:  # noqa: B027 - a reader that holds nothing open has nothing to do
        """Let go of the file; nothing can be read afterwards."""

    def read(self, indices: Sequence[int]) -> Tensor:
        """Return frames by their indices, in any order and as often as they are named.

        Args:
            indices: At least one, from 0 to ``num_frames - 1``.

        Returns:
            uint8 (T, H, W, 3), RGB.

        Raises:
            VideoDecodeError: A frame does not decode.
            ValueError: There is no index, or one that the video does not have.

        Memory: T x H x W x 3 bytes, twice where an index repeats or they do not ascend.
        """
        wrong = [index for index in indices if not 0 <= index < self.num_frames]
        if wrong or not indices:
            raise ValueError(
                f"indices must be one or more from 0 to {self.num_frames - 1}, the frames of {self.path}; "
                f"got {wrong[0] if wrong else 'none'}"
            )
        wanted = sorted(set(indices))
        frames = torch.stack(self.decode(wanted))
        if wanted == list(indices):
            return frames
        places = {index: place for place, index in enumerate(wanted)}
        return frames[[places[index] for index in indices]]

    def __len__(self) -> int:
        return self.num_frames

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def open_video(path: str | os.PathLike[str] | ArchivedVideo, *, backend: str = "pyav") -> VideoReader:
    """Open a video file, by itself or in an archive, or a folder of frame images.

    ==============  =======================================================================================
    backend         what
    ==============  =======================================================================================
    ``pyav``        FFmpeg in a Python package (extra ``video``); needs nothing else
    ``torchcodec``  FFmpeg that is installed on the system; ``pip install torchcodec``, 0.11 or later
    ==============  =======================================================================================

    Frames are turned upright where the file says how it was held, and converted to RGB; pixels that are not
    square stay as they are. Colours are converted by the matrix (BT.601, BT.709, BT.2020) and range that the
    file names; where it names none, by BT.601 and limited range whatever its size, as FFmpeg does. High
    dynamic range is not tone-mapped.

    A folder is read with Pillow, whatever the backend: the images that lie in it, in the order of their
    numbers and all of one size; see :func:`~nonlocalnn.data.frame_names.frame_paths`. A file in an archive is
    read into memory, in one piece, and decoded from there.

    Args:
        path: The file or folder, or the part of an archive.
        backend: What decodes files.

    Returns:
        The open video; close it, or use ``with``.

    Raises:
        FileNotFoundError: There is nothing at ``path``.
        VideoDecodeError: The file is empty, is cut, is not a video or holds no video stream; its archive is
            not there or was cut; or the folder holds no frames, those of several videos, or not all of one.
        ValueError: ``backend`` is unknown.
        ImportError: The backend's library is missing.

    Example:
        >>> import pathlib, tempfile
        >>> from PIL import Image
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> for number in range(12):
        ...     Image.new("L", (7, 5), number).save(folder / f"{number}.png")
        >>> with open_video(folder) as video:
        ...     print(video.num_frames, video.size, video.read([11, 2])[:, 0, 0, 0])
        12 (5, 7) tensor([11,  2], dtype=torch.uint8)
    """
    check_choice("backend", backend, BACKENDS)
    if not isinstance(path, ArchivedVideo):
        path = Path(path)
        if path.is_dir():
            return FrameFolder(path)
    source = find_source(path)
    # The backends' modules build on this one.
    if backend == "torchcodec":
        from nonlocalnn.data.video_torchcodec import TorchCodecReader

        return TorchCodecReader(source)
    from nonlocalnn.data.video_pyav import PyAVReader

    return PyAVReader(source)


def check_no_image(path: str | os.PathLike[str] | ArchivedVideo) -> None:
    """Check that a path names no single image: a decoder would read it, as a video of one frame.

    Raises:
        VideoDecodeError: It does.
    """
    if str(path).lower().endswith(FRAME_SUFFIXES) and not os.path.isdir(str(path)):
        raise VideoDecodeError(f"{path} is an image, and the model takes videos, or folders of frame images")


class FrameFolder(VideoReader):
    """A video as a folder of images, one a frame; its rate is not known.

    Args:
        path: The folder.

    Raises:
        VideoDecodeError: It holds no image, or those of several videos, one is missing from their numbers
            (:func:`~nonlocalnn.data.frame_names.frame_paths`), or the first cannot be read.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._paths = frame_paths(path)
        except ValueError as error:
            raise unreadable(path, str(error)) from error
        if not self._paths:
            raise unreadable(path, f"the folder holds no video and no frame ({', '.join(FRAME_SUFFIXES)})")
        height, width, _ = self._frame(path, 0).shape
        super().__init__(path, num_frames=len(self._paths), frames_per_second=None, size=(height, width))

    def decode(self, indices: Sequence[int]) -> list[Tensor]:
        """See :meth:`VideoReader.decode`."""
        return [check_frame_size(self, self._frame(self.path, index), index) for index in indices]

    def _frame(self, path: VideoPath, index: int) -> Tensor:
        try:
            image = read_image(self._paths[index], image_size=None, channels=3)
        except (ValueError, FileNotFoundError) as error:
            raise unreadable(path, str(error), frame=index) from error
        return (image * 255).round().to(torch.uint8).permute(1, 2, 0)


def check_frame_size(video: VideoReader, frame: Tensor, index: int) -> Tensor:
    """Return a decoded frame, uint8 (H, W, 3), if it has the size of the video.

    Raises:
        VideoDecodeError: It has another.
    """
    size = (frame.shape[0], frame.shape[1])
    if size != video.size:
        raise unreadable(
            video.path,
            f"it is {size[0]} x {size[1]} pixels (height x width), the first frame "
            f"{video.size[0]} x {video.size[1]}; all must be of one size",
            frame=index,
        )
    return frame
