"""What is particular to one kind of input: its data sets, and how a file of it becomes a sample."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from nonlocalnn.affinity.pictures.planes import Planes
from nonlocalnn.data import LabelledSamples, load_dataset
from nonlocalnn.data.labelled import resize_image
from nonlocalnn.data.normalization import ChannelValues
from nonlocalnn.data.volumes.reading import Reading
from nonlocalnn.tasks.recipe import Recipe

# Height and width of one's own files, in pixels, where neither they nor the network are named.
_FILES_SIZE = 64
# Pixels of a picture, or of all frames of a clip, that people are shown: some 3 MB as JPEG.
MOST_SHOWN = 8_000_000


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a user of trained weights must know of the samples that they take, and of the classes.

    Args:
        classes: Names of the classes.
        sample_shape: Shape of one sample: (C, N), (C, H, W), (C, T, H, W), or of volumes (C, D, H, W).
        stride: Frames from one of a clip to the next.
        test_size: Short side of videos, and side of the squares cut out of them, in pixels; None for the side
            of the samples.
        mean: What becomes 0, of pixel values from 0 to 255; one number, or one for each channel.
        standard_deviation: What becomes a distance of 1, of the same. By default values are from 0 to 1.
        multi_label: Whether a sample may have several classes, or none.
        volume: How volumes are read; None of all other kinds.
        channel_names: Of tables of sequences in training: columns of others are brought into this order;
            empty where they had none.
    """

    classes: tuple[str, ...]
    sample_shape: tuple[int, ...]
    stride: int = 1
    test_size: int | None = None
    mean: ChannelValues = 0.0
    standard_deviation: ChannelValues = 255.0
    multi_label: bool = False
    volume: Reading | None = None
    channel_names: tuple[str, ...] = ()

    @property
    def is_scaled(self) -> bool:
        """Whether samples are normalised: by default their values are from 0 to 1."""
        return (self.mean, self.standard_deviation) != (0.0, 255.0)

    @property
    def channels(self) -> int:
        """Channels of a sample; of images, 1 for grey and 3 for colour."""
        return self.sample_shape[0]

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of images or of the frames of clips, in pixels."""
        assert len(self.sample_shape) > 2, "sequences have no image size"
        return self.sample_shape[-2], self.sample_shape[-1]

    @property
    def video_size(self) -> int:
        """Short side of videos, and side of the squares cut out of them, in pixels."""
        return self.image_size[0] if self.test_size is None else self.test_size


@dataclass(frozen=True, eq=False)
class ShownInput:
    r"""An input of a network, and what people see of it.

    Args:
        name: What it is called: a file's name, or a sample's.
        sample: What the network takes, (C, \*sides), float32.
        pixels: The same as it looks, (C, \*sides), in [0, 1]: not normalised. Of a sequence from a file, as
            the network takes it.
        picture: An image or a clip in its own resolution, (C, h, w) or (C, T, h, w), in [0, 1]: the part that
            the network sees, in its own shape; smaller only where it has more than 8 million pixels. None
            where there is nothing but ``pixels``.
        file_sides: Height and width of an image or video file, in pixels, sides that were cut off included.
        frame_numbers: Of a video, which of its frames these are.
        seconds: Of a video, when these are; None where nothing tells its rate.
        truth: Its class, where that is known.
        rate: Of a sequence, its steps a second, where these are known.
        channel_names: Of a sequence, where its files name its channels.
        planes: Of a volume, where its voxels lie; None of all other kinds.
    """

    name: str
    sample: Tensor
    pixels: Tensor
    picture: Tensor | None = None
    file_sides: tuple[int, int] | None = None
    frame_numbers: tuple[int, ...] | None = None
    seconds: tuple[float, ...] | None = None
    truth: str | None = None
    rate: float | None = None
    channel_names: tuple[str, ...] = ()
    planes: Planes | None = None


def shown_size(height: int, width: int, frames: int = 1) -> tuple[int, int]:
    """Return the size in which a picture is shown: its own, or less where the frames are too many for a page.

    Example:
        >>> shown_size(480, 640), shown_size(3000, 4000), shown_size(1080, 1920, 8)
        ((480, 640), (2449, 3265), (750, 1333))
    """
    shrink = math.sqrt(min(1.0, MOST_SHOWN / (height * width * frames)))
    # Never less than a pixel, however long and thin it is.
    return max(1, int(height * shrink)), max(1, int(width * shrink))


def shown_image(path: str | os.PathLike[str], own: Tensor, sample: Tensor, pixels: Tensor) -> ShownInput:
    """Return an image file as a network takes it, and as it looks.

    Args:
        path: The file.
        own: The image, (C, H, W) in [0, 1].
        sample: What the network takes.
        pixels: The same as it looks.
    """
    height, width = own.shape[1:]
    picture = resize_image(own, shown_size(height, width))
    return ShownInput(Path(path).name, sample, pixels, picture=picture, file_sides=(height, width))


class InputKind(ABC):
    """One kind of input, as training, evaluation, prediction and the explorer see it.

    Attributes:
        name: What one is called: "image".
        samples: What several samples are called: "images".
        num_sides: 1 of sequences, 2 of images, 3 of videos and volumes.
        datasets: Names of the data sets that have it.
        of_files: Those of them that are one's own files, of any size.
        batch_size: Files, or views of files, that are predicted in one forward pass.
        views_a_file: Whether a file is looked at by views, so that one alone may fill a batch.
        exceeds_training: See :class:`~nonlocalnn.data.labelled.LabelledSamples`.
    """

    name: ClassVar[str]
    samples: ClassVar[str]
    num_sides: ClassVar[int]
    datasets: ClassVar[tuple[str, ...]]
    of_files: ClassVar[tuple[str, ...]] = ()
    batch_size: ClassVar[int] = 64
    views_a_file: ClassVar[bool] = False
    exceeds_training: ClassVar[bool] = False

    def check(self, recipe: Recipe) -> None:  # noqa: B027 - most kinds have nothing to check
        """Check that a recipe's settings fit this kind of input.

        Raises:
            ValueError: One does not.
        """

    @abstractmethod
    def network_for(self, data: str) -> str:
        """Return the network that is trained on a data set where none is named."""

    def completed(self, recipe: Recipe) -> Recipe:
        """Return a recipe with a network, and where files are read a size, where it leaves them open.

        Small ones, which a CPU trains from nothing in minutes: who has more names it.
        """
        if recipe.model is not None:
            return recipe
        size = recipe.image_size
        if size is None and recipe.data in self.of_files:
            size = _FILES_SIZE
        return replace(recipe, model=self.network_for(recipe.data), image_size=size)

    def dataset(self, recipe: Recipe, split: str) -> LabelledSamples:
        """Return a split of a recipe's data set; only "train" is augmented."""
        return load_dataset(
            recipe.data,
            split,
            data_dir=recipe.data_dir,
            image_size=recipe.image_size,
            channels=recipe.channels,
            frames=recipe.frames,
            augment=recipe.augment and split == "train",
            max_broken=recipe.max_broken or None,
        )

    def metadata(self, recipe: Recipe, data: LabelledSamples) -> dict[str, Any]:
        """Return what a checkpoint must remember of this kind alone, as JSON values."""
        return {}

    def test_data(self, facts: Facts, name: str, split: str, settings: dict[str, Any]) -> LabelledSamples:
        """Return a split of a data set as a trained network takes it.

        Args:
            facts: What the network takes.
            name: Of the data set.
            split: "train", "validation" or "test".
            settings: Further arguments of :func:`~nonlocalnn.data.load_dataset`.
        """
        return load_dataset(name, split, **settings)

    def views(self, number: int | None) -> str | None:
        """Return what to call the views by which a file is looked at; None where it is its only view.

        Args:
            number: What was asked for; None is the default.

        Raises:
            ValueError: It is no such number, or this kind has no views.
        """
        if number is not None:
            raise ValueError(
                f"views is a setting of models of videos; this one takes {self.samples}: leave it out"
            )
        return None

    @abstractmethod
    def find(self, inputs: Iterable[str | os.PathLike[str]]) -> list[Path]:
        """Return the files of this kind among ``inputs`` and in the folders among them.

        What is not there, and a folder that holds none, are among them as they are named.
        """

    def exists(self, path: Path) -> bool:
        """Return whether there is anything at a path that :meth:`find` gave."""
        return path.exists()

    @abstractmethod
    def read(self, path: Path, facts: Facts, *, views: int | None = None) -> Tensor:
        """Return the views of a file, V of them, as small as they are; processes that read hand them over.

        Raises:
            OSError: There is no such file, or it cannot be opened.
            ValueError: It is damaged, or of another kind.
        """

    @abstractmethod
    def prepare(self, read: Tensor, facts: Facts) -> Tensor:
        r"""Return the views of files as a network takes them.

        Args:
            read: What :meth:`read` gave of each file, stacked, (B, V, ...).
            facts: What the network takes.

        Returns:
            float32 (B, V, C, \*sides).
        """

    def take(self, dataset: LabelledSamples, index: int, taken: ShownInput) -> ShownInput:
        """Return sample ``index`` of a data set with what this kind alone knows of it.

        Args:
            dataset: The data set.
            index: Place in it.
            taken: What all kinds know.
        """
        return taken

    @abstractmethod
    def show(self, path: Path, facts: Facts, *, whole: bool) -> ShownInput:
        """Return a file as a network takes it, and as it looks.

        Args:
            path: The file.
            facts: What the network takes.
            whole: Keep the aspect ratio and all of it. Networks that average over all places take that,
                others do not.
        """


def check_place(index: int, number: int) -> None:
    """Check that a split of so many samples has one at a place.

    Raises:
        ValueError: It has not.

    Example:
        >>> check_place(3, 3)
        Traceback (most recent call last):
        ...
        ValueError: samples are from 0 to 2 for this split; got 3
    """
    if not 0 <= index < number:
        raise ValueError(f"samples are from 0 to {number - 1} for this split; got {index}")


def take_sample(
    dataset: LabelledSamples, index: int, *, split: str, kind: InputKind | None = None
) -> ShownInput:
    """Return sample ``index`` of a split.

    Args:
        dataset: The split.
        index: Place in it.
        split: What it is called.
        kind: The kind of its samples, which may know more of them.

    Raises:
        ValueError: There is no such sample.
    """
    check_place(index, len(dataset))
    sample, target = dataset[index]
    targets = [target] if isinstance(target, int) else target.nonzero().flatten().tolist()
    truth = "+".join(dataset.classes[each] for each in targets) or "none"
    pixels = dataset.pixels(sample)
    taken = ShownInput(name=f"{split}-{index}-class-{truth}", sample=sample, pixels=pixels, truth=truth)
    return taken if kind is None else kind.take(dataset, index, taken)
