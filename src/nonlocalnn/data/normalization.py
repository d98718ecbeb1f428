"""Pixel values as a network takes them: less a mean, by a standard deviation."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nonlocalnn._errors import is_finite

# One number for all channels, or one for each of red, green and blue.
ChannelValues = float | Sequence[float]


def normalize_image(image: Tensor, *, mean: ChannelValues, standard_deviation: ChannelValues) -> Tensor:
    r"""Return an image as a network takes it: (255 x image - mean) / standard_deviation.

    Args:
        image: float32 (C, H, W) in [0, 1], or several, (B, C, H, W); or other samples, (C, \*sides), where
            there is one number for all channels.
        mean: What becomes 0, of values from 0 to 255; one number, or one for each channel.
        standard_deviation: What becomes a distance of 1, of the same.

    Raises:
        ValueError: There is another number of numbers, or a deviation is not greater than 0.

    Example:
        >>> normalize_image(torch.ones(3, 1, 1), mean=127.5, standard_deviation=127.5).flatten().tolist()
        [1.0, 1.0, 1.0]
    """
    if (mean, standard_deviation) == (0.0, 255.0):
        return image
    check_normalization(mean, standard_deviation, channels=image.shape[-3])
    shift, factor = (
        torch.tensor(value, dtype=image.dtype, device=image.device).div(255).view(-1, 1, 1)
        for value in (mean, standard_deviation)
    )
    return (image - shift) / factor


def pixels_of(sample: Tensor, *, mean: ChannelValues, standard_deviation: ChannelValues) -> Tensor:
    r"""Return a sample as it looks, in [0, 1]: the opposite of :func:`normalize_image`, of clips too.

    Args:
        sample: (C, \*sides).
        mean: What became 0.
        standard_deviation: What became a distance of 1.

    Example:
        >>> pixels_of(torch.ones(3, 1, 1), mean=127.5, standard_deviation=127.5).flatten().tolist()
        [1.0, 1.0, 1.0]
    """
    if (mean, standard_deviation) == (0.0, 255.0):
        return sample
    sides = [1] * (sample.dim() - 1)
    shift, factor = (torch.tensor(value).div(255).view(-1, *sides) for value in (mean, standard_deviation))
    return (sample * factor + shift).clamp(0, 1)


def check_normalization(
    mean: ChannelValues, standard_deviation: ChannelValues, *, channels: int = 3, of_pixels: bool = False
) -> None:
    """Check that each is one finite number or one a channel, and that deviations are greater than 0.

    Args:
        mean: What becomes 0.
        standard_deviation: What becomes a distance of 1.
        channels: Of the samples.
        of_pixels: Whether these are pixels, so that the unit is known; sequences have units of their own.

    Raises:
        ValueError: They are not, or are of pixels and count from 0 to 1.
    """
    for name, value in (("mean", mean), ("standard_deviation", standard_deviation)):
        numbers = value if isinstance(value, list | tuple) else [value]
        if len(numbers) not in (1, channels) or not all(is_finite(number) for number in numbers):
            raise ValueError(
                f"{name} must be one number, or one for each of the {channels} channels; got {value!r:.100}"
            )
        if name == "standard_deviation" and min(numbers) <= 0:
            raise ValueError(f"standard_deviation must be greater than 0; got {standard_deviation}")
        if of_pixels and (problem := wrong_unit(name, value)):
            raise ValueError(problem)


def wrong_unit(name: str, value: Any) -> str | None:
    """Return that a mean or a deviation is of values from 0 to 1, in words; None where it is not, or none.

    Args:
        name: "mean" or "standard_deviation".
        value: One number, or one for each channel; anything else is no matter of units.

    Example:
        >>> wrong_unit("mean", 0.45)
        'mean must be of pixel values from 0 to 255; 0.45 is of values from 0 to 1: write 114.75'
        >>> wrong_unit("standard_deviation", 57.375) is None
        True
    """
    numbers = value if isinstance(value, list | tuple) else [value]
    if not numbers or not all(is_finite(number) for number in numbers):
        return None
    # Other libraries count from 0 to 1, and a network that is given such a scale answers, wrongly, all the
    # same. A deviation below one grey level of 255 is of no images, and neither is a mean that is nearly
    # black but not 0. A mean of 0 and a deviation of 1 leave values from 0 to 255, which some networks take.
    largest = max(abs(number) for number in numbers)
    if not 0 < largest <= (1 if name == "mean" else 0.999):
        return None
    scaled = [float(f"{255 * number:.6g}") for number in numbers]
    return (
        f"{name} must be of pixel values from 0 to 255; {value} is of values from 0 to 1: write "
        f"{scaled if isinstance(value, list | tuple) else scaled[0]}"
    )
