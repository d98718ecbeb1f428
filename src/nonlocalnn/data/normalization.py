"""Pixel values as a network takes them: less a mean, by a standard deviation."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

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


def check_normalization(mean: ChannelValues, standard_deviation: ChannelValues, *, channels: int = 3) -> None:
    """Check that each is one finite number or one a channel, and that deviations are greater than 0.

    Raises:
        ValueError: They are not.
    """
    for name, value in (("mean", mean), ("standard_deviation", standard_deviation)):
        numbers = value if isinstance(value, list | tuple) else [value]
        if len(numbers) not in (1, channels) or not all(_is_finite(number) for number in numbers):
            raise ValueError(
                f"{name} must be one number, or one for each of the {channels} channels; got {value!r:.100}"
            )
        if name == "standard_deviation" and min(numbers) <= 0:
            raise ValueError(f"standard_deviation must be greater than 0; got {standard_deviation}")


def _is_finite(number: object) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)
