"""A video as a folder of images, one a frame."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from nonlocalnn.data.images import read_image
from nonlocalnn.data.video.frame_names import FRAME_SUFFIXES, frame_paths
from nonlocalnn.data.video.reader import VideoReader, check_frame_size
from nonlocalnn.data.video.source import VideoPath, unreadable


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
