"""What every open video offers, whatever decodes it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from nonlocalnn.data.video.source import VideoPath, unreadable


class VideoReader(ABC):
    """An open video.

    It is a context manager, and closes its file at the end. A subclass decodes (:meth:`decode`).

    Args:
        path: The file, folder or part of an archive.
        num_frames: How many frames it has.
        frames_per_second: Their mean rate; ``None`` where nothing says.
        size: (H, W) of its frames in pixels, upright.

    Attributes:
        path, num_frames, frames_per_second, size: As given.
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

    def __exit__(self, *_: object) -> None:
        self.close()


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
