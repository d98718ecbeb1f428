"""Images with the class of each of their pixels: what every such data set offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset

from nonlocalnn.data.class_names import warn_of_alike
from nonlocalnn.data.labelled import resize_image
from nonlocalnn.data.masks.crops import RandomCrops
from nonlocalnn.data.normalization import ChannelValues, normalize_image

# The id of pixels that belong to no class, as VOC, Cityscapes and most others write it. Such pixels are in no
# loss and in no figure.
IGNORED = 255
# Of the photographs of ImageNet, on which bodies of segmentation networks are trained first.
MEAN, STANDARD_DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class MaskedImages(Dataset[tuple[Tensor, Tensor]], ABC):
    r"""Images, each with a mask: the class of each of its pixels.

    ``dataset[i]`` is ``(image, mask)``: float32 (3, H, W), normalised, and uint8 (h, w), an index into
    ``classes`` a pixel, or :data:`IGNORED`. With ``crops`` both are cut to one size, so that they make
    batches. Without, the image is whole, in the size in which a network takes it, and the mask in its own:
    answers are brought to the size of the mask and compared there.

    Args:
        classes: Names of the classes, in the order of the ids; 255 at most.
        sample_shape: (3, H, W) of the samples of training.
        crops: What training varies and cuts; None gives whole images.
        resize: Short side to which whole images are brought, in pixels; None keeps their own.

    Raises:
        ValueError: There are no classes, or more than ids.
    """

    mean: ChannelValues = MEAN
    standard_deviation: ChannelValues = STANDARD_DEVIATION

    def __init__(
        self,
        *,
        classes: Sequence[str],
        sample_shape: Sequence[int],
        crops: RandomCrops | None = None,
        resize: int | None = None,
    ) -> None:
        self.classes = checked_classes(classes)
        self.sample_shape = tuple(sample_shape)
        self.resize = resize
        self._crops = crops

    @property
    def channels(self) -> int:
        """C of the images."""
        return self.sample_shape[0]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Return image ``index``, float32 (3, h, w) in [0, 1], and its mask, uint8 (h, w)."""

    @abstractmethod
    def sample_id(self, index: int) -> str:
        """Return a name for image ``index`` that does not depend on the split or on its order."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = self.read(range(len(self))[index])  # its IndexError is what ends iteration
        if self._crops is None:
            image = resize_short(image, self.resize)
        else:
            image, mask = self._crops(image, mask)
        return normalize_image(image, mean=self.mean, standard_deviation=self.standard_deviation), mask


def checked_classes(classes: Sequence[str]) -> tuple[str, ...]:
    """Return the names of classes, where they are as many as ids can tell apart.

    Raises:
        ValueError: There are none, or more than ids.
    """
    if not 1 <= len(classes) <= IGNORED:
        raise ValueError(f"there must be 1 to {IGNORED} classes; got {len(classes)}")
    warn_of_alike(classes)
    return tuple(classes)


def wrong_ids(path: Path, wrong: Tensor, num_classes: int) -> ValueError:
    """Return the error for a mask that has ids, any tensor of them, which are no class."""
    values = sorted(set(wrong.tolist()))
    listed = ", ".join(f"{value:g}" for value in values[:8]) + (", ..." if len(values) > 8 else "")
    return ValueError(
        f"{path} has the ids {listed}, and there are {num_classes} classes, 0 to {num_classes - 1}; "
        f"{IGNORED} is ignored: name more classes, or mend the mask"
    )


def resize_short(image: Tensor, resize: int | None) -> Tensor:
    """Return an image (C, H, W) with a short side of ``resize`` pixels, in its own shape; None keeps it.

    Example:
        >>> import torch
        >>> resize_short(torch.zeros(3, 40, 60), 20).shape
        torch.Size([3, 20, 30])
    """
    if resize is None:
        return image
    height, width = image.shape[-2:]
    factor = resize / min(height, width)
    return resize_image(image, (max(1, round(height * factor)), max(1, round(width * factor))))


def palette(num_classes: int) -> list[tuple[int, int, int]]:
    """Return a colour for each class, from 0 to 255: VOC's, whose bits are spread over the three channels.

    Example:
        >>> palette(4)
        [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)]
    """
    return [
        tuple(  # type: ignore[misc]
            sum((number >> (3 * place + channel) & 1) << (7 - place) for place in range(8))
            for channel in range(3)
        )
        for number in range(num_classes)
    ]
