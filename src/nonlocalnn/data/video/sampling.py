"""Which frames of a video, and which part of them, a network is shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor

from nonlocalnn._errors import check_choice, check_positive
from nonlocalnn.data.video import clips
from nonlocalnn.data.video.reader import VideoReader

# Frames that are held at their full size at a time.
_CHUNK = 16


@dataclass(frozen=True)
class RandomClip:
    """For training: a clip from a random place, a random square of it, mirrored half of the time.

    Args:
        short_sides: The short side is scaled to a whole number of pixels between these, both included.
        crop_size: Side of the square in pixels.
        flip: Whether to mirror; not for classes that left and right tell apart.

    Raises:
        ValueError: The square does not fit into the shorter of ``short_sides``, or these are in wrong order.
    """

    short_sides: tuple[int, int] = (256, 320)
    crop_size: int = 224
    flip: bool = True

    def __post_init__(self) -> None:
        check_positive(crop_size=self.crop_size)
        if not self.crop_size <= self.short_sides[0] <= self.short_sides[1]:
            raise ValueError(
                f"short_sides must be two lengths in ascending order, at least the crop_size of "
                f"{self.crop_size}; got {self.short_sides}"
            )

    @property
    def size(self) -> int:
        """Side of the clips in pixels."""
        return self.crop_size

    def take(self, video: VideoReader, *, frames: int, stride: int, generator: torch.Generator) -> Tensor:
        """Return a clip, uint8 (T, H, W, 3)."""
        indices = clips.train_indices(video.num_frames, frames=frames, stride=stride, generator=generator)
        short_side = clips.random_short_side(self.short_sides, generator=generator)
        scaled = _read_scaled(video, indices, short_side)
        return clips.random_crop(scaled, self.crop_size, flip=self.flip, generator=generator)


@dataclass(frozen=True)
class CentreClip:
    """For validation: the clip in the middle, and the square in the middle of it.

    Args:
        size: The short side is scaled to it, and the square is as long, in pixels.
    """

    size: int = 256
    # As of :class:`Views`: views of a video, and what to call them beside a figure.
    num_views: ClassVar[int] = 1
    name: ClassVar[str] = "1 clip"

    def __post_init__(self) -> None:
        check_positive(size=self.size)

    def take(self, video: VideoReader, *, frames: int, stride: int) -> Tensor:
        """Return a clip, uint8 (T, H, W, 3)."""
        indices = clips.centre_indices(video.num_frames, frames=frames, stride=stride)
        scaled = _read_scaled(video, indices, self.size)
        (square,) = clips.even_crops(scaled, self.size, num_crops=1)
        return square


@dataclass(frozen=True)
class WholeFrames:
    """For looking at: the clip in the middle, with frames as wide or as high as they are.

    Networks that average over all places take them.

    Args:
        size: The short side is scaled to it, in pixels.
    """

    size: int = 256

    def __post_init__(self) -> None:
        check_positive(size=self.size)

    def take(self, video: VideoReader, *, frames: int, stride: int) -> Tensor:
        """Return a clip, uint8 (T, H, W, 3)."""
        indices = clips.centre_indices(video.num_frames, frames=frames, stride=stride)
        return _read_scaled(video, indices, self.size)


@dataclass(frozen=True)
class Views:
    """For the test: clips at even distances, and squares at even places of each; average what comes out.

    Args:
        num_clips: Clips of a video.
        num_crops: Squares of a clip, 3 or 1.
        size: The short side is scaled to it, and the squares are as long, in pixels.
    """

    num_clips: int = 10
    num_crops: int = 3
    size: int = 256

    def __post_init__(self) -> None:
        check_positive(num_clips=self.num_clips, size=self.size)
        check_choice("num_crops", self.num_crops, (1, 3))

    @property
    def num_views(self) -> int:
        """V, views of a video."""
        return self.num_clips * self.num_crops

    @property
    def name(self) -> str:
        """What to call it beside a figure.

        Example:
            >>> Views().name
            '30 views (10 clips x 3 crops)'
        """
        # Figures from 1 clip and from 30 views differ by points: the name stands beside every figure.
        views, clips_each = _counted(self.num_views, "view"), _counted(self.num_clips, "clip")
        return f"{views} ({clips_each} x {_counted(self.num_crops, 'crop')})"

    def take(self, video: VideoReader, *, frames: int, stride: int) -> Tensor:
        """Return the views, uint8 (V, T, H, W, 3); those of a clip stand together."""
        starts = clips.test_indices(video.num_frames, frames=frames, stride=stride, num_clips=self.num_clips)
        # Clips overlap: every frame that any of them has is decoded once.
        wanted = sorted({index for indices in starts for index in indices})
        places = {index: place for place, index in enumerate(wanted)}
        scaled = _read_scaled(video, wanted, self.size)
        squares = clips.even_crops(scaled, self.size, num_crops=self.num_crops)
        # Copied one by one into their place: there is never a second set of them.
        views = torch.empty(self.num_views, frames, self.size, self.size, 3, dtype=torch.uint8)
        for view, (indices, square) in zip(views, product(starts, squares), strict=True):
            view.copy_(square[[places[index] for index in indices]])
        return views


def choose_sampling(views: int, *, size: int = 256) -> CentreClip | Views:
    """Return one of the two ways to look at a video in the test, by its number of views.

    Args:
        views: 1, the clip in the middle, or 30, 10 clips x 3 crops.
        size: The short side and the squares, in pixels.

    Raises:
        ValueError: ``views`` is neither.

    Example:
        >>> choose_sampling(1).name, choose_sampling(30).name
        ('1 clip', '30 views (10 clips x 3 crops)')
    """
    check_choice("views", views, (1, 30))
    return CentreClip(size) if views == 1 else Views(size=size)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _read_scaled(video: VideoReader, indices: Sequence[int], short_side: int) -> Tensor:
    """Return frames with their short side scaled, uint8 (T, h, w, 3), few at a time at their full size."""
    wanted = sorted(set(indices))
    scaled = torch.cat(
        [
            clips.resize_short_side(video.read(wanted[start : start + _CHUNK]), short_side)
            for start in range(0, len(wanted), _CHUNK)
        ]
    )
    places = {index: place for place, index in enumerate(wanted)}
    return scaled if wanted == list(indices) else scaled[[places[index] for index in indices]]
