"""What training does to an image and its mask together: scale, cut, mirror."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nonlocalnn._errors import needs


@dataclass(frozen=True)
class RandomCrops:
    """A random square of an image at a random scale, mirrored half of the time; its mask likewise.

    Numbers are drawn from torch's global generator and from nothing else, so seeding it fixes the result.
    What lies outside the image is ``fill`` there and ``ignored`` in the mask.

    Args:
        size: Side of the squares, in pixels.
        scales: Between which two factors of its size an image is scaled.
        resize: Short side that an image has before that, in pixels; None is its own.
        random: False takes the middle, and mirrors nothing.
        fill: Value outside the image, of each channel, 0 to 1.
        ignored: Id outside the mask.

    Example:
        >>> crops = RandomCrops(8, scales=(0.5, 2.0))
        >>> image, mask = crops(torch.rand(3, 20, 30), torch.zeros(20, 30, dtype=torch.uint8))
        >>> image.shape, mask.shape
        (torch.Size([3, 8, 8]), torch.Size([8, 8]))
    """

    size: int
    scales: tuple[float, float] = (1.0, 1.0)
    resize: int | None = None
    random: bool = True
    fill: Sequence[float] = (0.0, 0.0, 0.0)
    ignored: int = 255

    def __call__(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the square of an image, float32 (3, size, size), and of its mask, uint8 (size, size)."""
        with needs("torchvision", "data", "training on images with masks"):
            from torchvision import tv_tensors
            from torchvision.transforms import v2
        # Transforms of torchvision know by these types that masks are scaled by the nearest id: a mean of
        # two ids would be a third class.
        pair = (tv_tensors.Image(image), tv_tensors.Mask(mask))
        low, high = self.scales
        factor = float(torch.empty(()).uniform_(low, high)) if self.random and low < high else low
        own = min(image.shape[-2:])
        short = max(1, round((own if self.resize is None else self.resize) * factor))
        if short != own:
            pair = v2.Resize(short)(*pair)
        fill = {tv_tensors.Image: list(self.fill), tv_tensors.Mask: self.ignored}
        if self.random:
            cut = v2.RandomCrop(self.size, pad_if_needed=True, fill=fill)
            pair = v2.RandomHorizontalFlip()(*cut(*pair))
        else:
            height, width = pair[0].shape[-2:]
            around = [max(0, self.size - width), max(0, self.size - height)]
            padded = v2.Pad([(each + 1) // 2 for each in around], fill=fill)(*pair)
            pair = v2.CenterCrop(self.size)(*padded)
        # Plain tensors: later steps know nothing of torchvision's types. Interpolation may overshoot.
        return pair[0].as_subclass(Tensor).clamp(0, 1), pair[1].as_subclass(Tensor).contiguous()
