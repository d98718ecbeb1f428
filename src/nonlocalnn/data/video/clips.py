"""Clips out of videos: which frames, which part of each, and which numbers the network sees.

This is the recipe of "Non-local Neural Networks" for Kinetics: a clip is ``frames`` frames, one in
``stride``, and a video that is too short starts over.

Training takes a clip anywhere, scales its short side to a random length, and cuts a random square, mirrored
half of the time: one draw for the whole clip. Testing takes clips at even distances and squares at even
places along the long side, without mirroring.

Frames are uint8 (T, H, W, 3) until :func:`normalize_clip` makes them what a network takes.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nonlocalnn._errors import check_positive
from nonlocalnn.data.normalization import ChannelValues, check_normalization

# Of 8-bit values: 0.45 x 255 and 0.225 x 255, the same for red, green and blue.
MEAN, STANDARD_DEVIATION = 114.75, 57.375
# The paper trains on squares of 224 pixels, out of short sides of 256 to 320, and tests on squares of 256.
_TRAINED, _SHORTEST, _LONGEST, _TESTED = 224, 256, 320, 256


def training_sides(size: int) -> tuple[int, int]:
    """Return between which lengths the paper scales short sides for training squares of a size, in pixels.

    Example:
        >>> training_sides(224), training_sides(112)
        ((256, 320), (128, 160))
    """
    return round(size * _SHORTEST / _TRAINED), round(size * _LONGEST / _TRAINED)


def test_side(size: int) -> int:
    """Return the side of the paper's test squares for training squares of a size, in pixels.

    Example:
        >>> test_side(224), test_side(32)
        (256, 37)
    """
    return round(size * _TESTED / _TRAINED)


def _clip(start: int, num_frames: int, frames: int, stride: int) -> list[int]:
    return [(start + step * stride) % num_frames for step in range(frames)]


def train_indices(num_frames: int, *, frames: int, stride: int, generator: torch.Generator) -> list[int]:
    """Return the frames of a clip at a random place.

    The start is uniform in 0 to ``num_frames - frames * stride``; in a shorter video it is 0, and indices
    start over at its end.

    Args:
        num_frames: Frames in the video.
        frames: Frames in the clip.
        stride: Frames from one to the next.
        generator: Where the random number comes from.

    Returns:
        ``frames`` indices, each from 0 to ``num_frames - 1``.

    Raises:
        ValueError: A number is below 1.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> train_indices(32, frames=4, stride=8, generator=generator)
        [0, 8, 16, 24]
        >>> train_indices(3, frames=4, stride=2, generator=generator)
        [0, 2, 1, 0]
    """
    check_positive(num_frames=num_frames, frames=frames, stride=stride)
    latest = max(0, num_frames - frames * stride)
    start = int(torch.randint(latest + 1, (), generator=generator))
    return _clip(start, num_frames, frames, stride)


def test_indices(num_frames: int, *, frames: int, stride: int, num_clips: int) -> list[list[int]]:
    """Return the frames of clips at even distances: clip j starts at floor(j x num_frames / num_clips).

    Indices start over at the end of the video, in the last clips of any video.

    Args:
        num_frames: Frames in the video.
        frames: Frames in a clip.
        stride: Frames from one to the next.
        num_clips: How many clips.

    Returns:
        ``num_clips`` lists of ``frames`` indices.

    Raises:
        ValueError: A number is below 1.

    Example:
        >>> test_indices(25, frames=3, stride=4, num_clips=3)
        [[0, 4, 8], [8, 12, 16], [16, 20, 24]]
    """
    check_positive(num_frames=num_frames, frames=frames, stride=stride, num_clips=num_clips)
    starts = [clip * num_frames // num_clips for clip in range(num_clips)]
    return [_clip(start, num_frames, frames, stride) for start in starts]


# pytest would take these for tests where this file is named to it.
test_side.__test__ = False  # type: ignore[attr-defined]
test_indices.__test__ = False  # type: ignore[attr-defined]


def centre_indices(num_frames: int, *, frames: int, stride: int) -> list[int]:
    """Return the frames of the clip in the middle, half-way among the starts of :func:`train_indices`.

    Example:
        >>> centre_indices(20, frames=3, stride=4)
        [4, 8, 12]
    """
    check_positive(num_frames=num_frames, frames=frames, stride=stride)
    start = max(0, num_frames - frames * stride) // 2
    return _clip(start, num_frames, frames, stride)


def random_short_side(short_sides: tuple[int, int], *, generator: torch.Generator) -> int:
    """Return a whole number of pixels, uniform between two, both included.

    Example:
        >>> random_short_side((256, 320), generator=torch.Generator()) in range(256, 321)
        True
    """
    shortest, longest = short_sides
    return int(torch.randint(shortest, longest + 1, (), generator=generator))


def resize_short_side(frames: Tensor, short_side: int) -> Tensor:
    """Scale frames so that their short side has a length; the aspect ratio is kept.

    Bilinear, and smoothed first where frames shrink (``antialias=True``), as images are in this library: fine
    patterns would flicker from frame to frame otherwise. Where frames grow the smoothing changes nothing.

    Args:
        frames: uint8 (T, H, W, 3).
        short_side: Pixels. The long side is rounded down.

    Returns:
        uint8 (T, h, w, 3).

    Example:
        >>> resize_short_side(torch.zeros(2, 48, 65, 3, dtype=torch.uint8), 24).shape
        torch.Size([2, 24, 32, 3])
    """
    height, width = frames.shape[1:3]
    shorter = min(height, width)
    if shorter == short_side:
        return frames
    size = (height * short_side // shorter, width * short_side // shorter)
    # Seen as (T, 3, H, W) this is channels-last, for which torch has a fast path in 8 bits.
    resized = F.interpolate(frames.permute(0, 3, 1, 2), size=size, mode="bilinear", antialias=True)
    return resized.permute(0, 2, 3, 1)


def random_crop(frames: Tensor, size: int, *, flip: bool, generator: torch.Generator) -> Tensor:
    """Cut a square out of frames at a random place, the same in all of them.

    Args:
        frames: (T, H, W, 3), no side shorter than ``size``.
        size: Side of the square in pixels.
        flip: Whether to mirror it left to right half of the time.
        generator: Where the random numbers come from.

    Returns:
        (T, size, size, 3).

    Raises:
        ValueError: A side is shorter than ``size``.

    Example:
        >>> frames = torch.zeros(2, 48, 64, 3, dtype=torch.uint8)
        >>> random_crop(frames, 32, flip=True, generator=torch.Generator()).shape
        torch.Size([2, 32, 32, 3])
    """
    _check_fits(frames, size)
    height, width = frames.shape[1:3]
    top = int(torch.randint(height - size + 1, (), generator=generator))
    left = int(torch.randint(width - size + 1, (), generator=generator))
    # Drawn even where it is not wanted, so that the setting changes nothing else.
    mirrored = bool(torch.rand((), generator=generator) < 0.5) and flip
    cut = frames[:, top : top + size, left : left + size]
    return cut.flip(2) if mirrored else cut


def even_crops(frames: Tensor, size: int, *, num_crops: int) -> list[Tensor]:
    """Cut squares out of frames at even places along the long side, in the middle of the short side.

    With three, square number p of 0, 1 and 2 is p x floor((L - size) / 2) pixels from the start of the long
    side, whose length is L; with one, it is the middle one of these.

    Args:
        frames: (T, H, W, 3), no side shorter than ``size``.
        size: Side of the squares in pixels.
        num_crops: 1 or 3.

    Returns:
        ``num_crops`` tensors (T, size, size, 3).

    Raises:
        ValueError: A side is shorter than ``size``, or ``num_crops`` is neither 1 nor 3.

    Example:
        >>> frames = torch.arange(7).repeat(4, 1)[None, :, :, None].expand(2, 4, 7, 3)
        >>> [crop[0, 0, :, 0].tolist() for crop in even_crops(frames, 4, num_crops=3)]
        [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5]]
    """
    if num_crops not in (1, 3):
        raise ValueError(f"num_crops must be 1 or 3; got {num_crops}")
    _check_fits(frames, size)
    height, width = frames.shape[1:3]
    top, left = (height - size) // 2, (width - size) // 2
    places = (1,) if num_crops == 1 else (0, 1, 2)
    if width >= height:
        return [frames[:, top : top + size, place * left : place * left + size] for place in places]
    return [frames[:, place * top : place * top + size, left : left + size] for place in places]


def _check_fits(frames: Tensor, size: int) -> None:
    height, width = frames.shape[1:3]
    if min(height, width) < size:
        raise ValueError(
            f"a square of {size} pixels does not fit into frames of {height} x {width} (height x width): "
            "scale their short side to at least that first"
        )


def normalize_clip(
    frames: Tensor, *, mean: ChannelValues = MEAN, standard_deviation: ChannelValues = STANDARD_DEVIATION
) -> Tensor:
    """Return frames as a network takes them: (x - mean) / standard_deviation, channels first.

    Args:
        frames: uint8 (T, H, W, 3), or several clips, (V, T, H, W, 3).
        mean: What becomes 0, of values from 0 to 255; one number, or one for each of the three channels.
        standard_deviation: What becomes a distance of 1, of the same.

    Returns:
        float32 (3, T, H, W) or (V, 3, T, H, W), contiguous.

    Raises:
        ValueError: There is another number of numbers, or a deviation is not greater than 0.

    Memory: the result, and nothing besides.

    Example:
        >>> clip = normalize_clip(torch.full((2, 5, 7, 3), 255, dtype=torch.uint8))
        >>> clip.shape, round(float(clip[0, 0, 0, 0]), 4)
        (torch.Size([3, 2, 5, 7]), 2.4444)
    """
    check_normalization(mean, standard_deviation, of_pixels=True)
    clip = frames.movedim(-1, -4).to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    return clip.sub_(_by_channel(mean)).div_(_by_channel(standard_deviation))


def _by_channel(value: ChannelValues) -> float | Tensor:
    return torch.tensor(value).view(3, 1, 1, 1) if isinstance(value, Sequence) else value
