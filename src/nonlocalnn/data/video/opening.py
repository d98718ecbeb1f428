"""A path becomes an open video: a file, by the backend that is asked for, or a folder of images."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from nonlocalnn._errors import check_choice
from nonlocalnn._names import BACKENDS
from nonlocalnn.data.archives.index import ArchivedFile
from nonlocalnn.data.images import read_image
from nonlocalnn.data.video.frame_names import FRAME_SUFFIXES, frame_paths
from nonlocalnn.data.video.pyav import PyAVReader
from nonlocalnn.data.video.reader import VideoReader, check_frame_size
from nonlocalnn.data.video.source import VideoDecodeError, VideoPath, find_source, unreadable
from nonlocalnn.data.video.torchcodec import TorchCodecReader


def open_video(path: str | os.PathLike[str] | ArchivedFile, *, backend: str = "pyav") -> VideoReader:
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
    numbers and all of one size; see :func:`~nonlocalnn.data.video.frame_names.frame_paths`. A file in an
    archive is read into memory, in one piece, and decoded from there.

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
    if not isinstance(path, ArchivedFile):
        path = Path(path)
        if path.is_dir():
            return FrameFolder(path)
    source = find_source(path)
    return (TorchCodecReader if backend == "torchcodec" else PyAVReader)(source)


def check_no_image(path: str | os.PathLike[str] | ArchivedFile) -> None:
    """Check that a path names no single image: a decoder would read it, as a video of one frame.

    Raises:
        VideoDecodeError: It does.
        FileNotFoundError: It ends in .webp, and is not there.
    """
    name = str(path).lower()
    if not name.endswith(FRAME_SUFFIXES) or os.path.isdir(str(path)):
        return
    if name.endswith(".webp"):
        # An animated one is refused as what it is.
        find_source(path if isinstance(path, ArchivedFile) else Path(path))
    raise VideoDecodeError(f"{path} is an image, and the model takes videos, or folders of frame images")


class FrameFolder(VideoReader):
    """A video as a folder of images, one a frame; its rate is not known.

    Args:
        path: The folder.

    Raises:
        VideoDecodeError: It holds no image, or those of several videos, one is missing from their numbers
            (:func:`~nonlocalnn.data.video.frame_names.frame_paths`), or the first cannot be read.
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
