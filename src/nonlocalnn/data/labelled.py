"""What every data set of labelled samples offers, whatever its files look like."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from nonlocalnn._errors import check_choice, needs
from nonlocalnn.data.class_names import warn_of_alike
from nonlocalnn.data.normalization import ChannelValues, check_normalization, normalize_image, pixels_of

# Samples and targets, as a training step or an evaluation takes them; of samples of different lengths the
# lengths, too, as nonlocalnn.real_positions takes sizes.
Batch = list[Tensor]


def check_image_size(image_size: object) -> tuple[int, int]:
    """Return ``image_size``, a side or a pair in pixels, as (height, width).

    Raises:
        TypeError: It is neither an integer nor a pair of integers.
        ValueError: A side is below 1 pixel.

    Example:
        >>> check_image_size(28), check_image_size((20, 24))
        ((28, 28), (20, 24))
    """
    sides = image_size if isinstance(image_size, tuple | list) else (image_size, image_size)
    # A bool is an int to Python, but never a size.
    if len(sides) != 2 or any(isinstance(side, bool) or not isinstance(side, int) for side in sides):
        raise TypeError(f"image_size must be an integer or a pair (height, width); got {image_size!r}")
    height, width = sides
    if height < 1 or width < 1:
        raise ValueError(f"image_size must be at least 1 pixel a side; got {image_size!r}")
    return height, width


def resize_image(image: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Stretch an image to a size, bilinearly, smoothed first where it shrinks.

    Args:
        image: float32 (C, H, W) in [0, 1].
        image_size: (height, width) in pixels.

    Returns:
        float32 (C, height, width) in [0, 1].

    Example:
        >>> resize_image(torch.zeros(3, 5, 7), (11, 13)).shape
        torch.Size([3, 11, 13])
    """
    if tuple(image.shape[-2:]) == image_size:
        return image
    resized = F.interpolate(image[None], size=image_size, mode="bilinear", antialias=True)[0]
    return resized.clamp(0, 1)  # the weights sum to 1 only up to rounding


def augmentation(kind: str, image_size: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    """Return a random change of an image that keeps its class.

    It draws from torch's global random numbers and from nothing else, so seeding those before an image is
    read fixes the result.

    Args:
        kind: ``"characters"``: turned by up to 10 degrees, shifted by up to 2/28 of each side and scaled by
            0.9 to 1.1. ``"objects"``: mirrored left to right half of the time and shifted by up to 1/14 of
            each side. Both leave black behind.
        image_size: (height, width) in pixels.

    Returns:
        A picklable callable from and to (C, height, width).

    Raises:
        ValueError: ``kind`` is unknown.
        ImportError: torchvision is missing.

    Example:
        >>> change = augmentation("objects", (20, 24))
        >>> change(torch.rand(1, 20, 24)).shape
        torch.Size([1, 20, 24])
    """
    check_choice("kind", kind, ("characters", "objects"))
    with needs("torchvision", "data", "augmentation"):
        from torchvision.transforms import InterpolationMode, v2
    height, width = image_size
    if kind == "characters":
        return v2.RandomAffine(
            degrees=10,
            translate=(2 / 28, 2 / 28),
            scale=(0.9, 1.1),
            interpolation=InterpolationMode.BILINEAR,
            fill=0,
        )
    # torchvision's order: left and right first, then top and bottom.
    padding = [round(width / 14), round(height / 14)]
    return v2.Compose([v2.RandomHorizontalFlip(), v2.RandomCrop((height, width), padding=padding)])


class LabelledSamples(Dataset[tuple[Tensor, int | Tensor]], ABC):
    """Samples of one shape, each with its class: sequences, images or clips.

    ``dataset[i]`` is ``(sample, target)``: a float32 tensor of ``sample_shape`` in [0, 1], and an int that
    indexes ``classes``. Instances can be pickled, so worker processes may be started in any way. A subclass
    says how sample ``i`` is read (:meth:`read`) and what it is called (:meth:`sample_id`).

    A subclass may differ in what follows. Where samples may have several classes (``multi_label``), a target
    is float32 (K,) of zeros and ones. Where a sample is looked at by several views (``num_views``, None where
    they are random; ``views`` says which), it is (V, *sample_shape). Where samples may have any length
    (``any_length``), ``sample_shape`` has the longest. A sample that cannot be read has the target
    :data:`~nonlocalnn.data.left_out.UNREADABLE`.

    Args:
        classes: Names of the classes, in the order of the targets.
        sample_shape: Shape of one sample: (C, N), (C, H, W) or (C, T, H, W).
        targets: The class index of each sample.
        transform: Applied to each sample after it is read; ``None`` for none.

    Attributes:
        classes: As given.
        sample_shape: As given.
        targets: A list of ints, one per sample; reading it opens no file.
        mean, standard_deviation: See :meth:`normalize`.
        kind: What samples are called in messages.
        exceeds_training: Whether samples are larger than those of training, so that a network that can is
            to look at each of their places.
        evaluation_batch: Samples a forward pass, where nothing else is asked.
    """

    multi_label = False
    any_length: ClassVar[bool] = False
    num_views: int | None = 1
    views: str | None = None
    exceeds_training: ClassVar[bool] = False
    evaluation_batch: ClassVar[int] = 256
    kind: ClassVar[str] = "samples"
    mean: ChannelValues = 0.0
    standard_deviation: ChannelValues = 255.0

    def __init__(
        self,
        *,
        classes: Sequence[str],
        sample_shape: Sequence[int],
        targets: Sequence[Any],
        transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.classes = tuple(classes)
        warn_of_alike(classes)
        self.sample_shape = tuple(sample_shape)
        self.targets = list(targets)
        self._transform = transform

    @property
    def channels(self) -> int:
        """C of the samples."""
        return self.sample_shape[0]

    @abstractmethod
    def read(self, index: int) -> Tensor:
        """Return sample ``index`` without augmentation: float32, of ``sample_shape``, in [0, 1]."""

    @abstractmethod
    def sample_id(self, index: int) -> str:
        """Return a name for sample ``index`` that does not depend on the split or on its order."""

    def normalize(self, mean: ChannelValues, standard_deviation: ChannelValues) -> Self:
        """Give samples as a network takes them from now on: (255 x image - mean) / standard_deviation.

        Args:
            mean: What becomes 0, of pixel values from 0 to 255; one number, or one for each channel.
            standard_deviation: What becomes a distance of 1, of the same.

        Raises:
            ValueError: There is another number of numbers, or a deviation is not greater than 0.
        """
        is_of_pixels = len(self.sample_shape) > 2
        check_normalization(mean, standard_deviation, channels=self.channels, of_pixels=is_of_pixels)
        self.mean, self.standard_deviation = mean, standard_deviation
        return self

    def pixels(self, sample: Tensor) -> Tensor:
        """Return a sample as it looks, in [0, 1]: what :meth:`normalize` did to it is undone."""
        return pixels_of(sample, mean=self.mean, standard_deviation=self.standard_deviation)

    def collate(self, items: Sequence[tuple[Tensor, int | Tensor]]) -> Batch:
        """Return items as one batch: samples, (B, *sample_shape), and targets."""
        found: Batch = default_collate(list(items))
        return found

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor]:
        target = self.targets[index]  # first, because its IndexError is what ends iteration
        sample = self.read(index)
        if self._transform is not None:
            sample = self._transform(sample).clamp(0, 1)  # interpolation may overshoot by a rounding error
        return normalize_image(sample, mean=self.mean, standard_deviation=self.standard_deviation), target


class LabelledImages(LabelledSamples):
    """Labelled samples that are images of one size, (C, H, W); see :class:`LabelledSamples`.

    Args:
        classes: Names of the classes, in the order of the targets.
        channels: C of the images.
        image_size: (H, W) of the images, in pixels.
        targets: The class index of each image.
        transform: Applied to each image after it is read; ``None`` for none. See :func:`augmentation`.

    Attributes:
        image_size: As given.
    """

    def __init__(
        self,
        *,
        classes: Sequence[str],
        channels: int,
        image_size: tuple[int, int],
        targets: Sequence[int],
        transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(
            classes=classes, sample_shape=(channels, *image_size), targets=targets, transform=transform
        )
        self.image_size = image_size


class InMemoryImages(LabelledImages):
    """Labelled images that are small enough to be held in memory as integers.

    Args:
        images: uint8 (N, C, h, w).
        white: The value in ``images`` that becomes 1.0.
        ids: The name of each image.
        classes: See :class:`LabelledImages`.
        image_size: (H, W) to which each image is resized when it is read, in pixels.
        targets: See :class:`LabelledImages`.
        transform: See :class:`LabelledImages`.

    Memory: N x C x h x w bytes.
    """

    def __init__(
        self,
        images: Tensor,
        *,
        white: int,
        ids: Sequence[str],
        classes: Sequence[str],
        image_size: tuple[int, int],
        targets: Sequence[int],
        transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(
            classes=classes,
            channels=images.shape[1],
            image_size=image_size,
            targets=targets,
            transform=transform,
        )
        self._images = images
        self._white = white
        self._ids = list(ids)

    def read(self, index: int) -> Tensor:
        """See :meth:`LabelledImages.read`."""
        return resize_image(self._images[index].to(torch.float32) / self._white, self.image_size)

    def sample_id(self, index: int) -> str:
        """See :meth:`LabelledImages.sample_id`."""
        return self._ids[index]
