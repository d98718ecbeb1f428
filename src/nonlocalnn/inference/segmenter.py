"""A trained segmentation network together with what it expects, ready to be asked about images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nonlocalnn._device import Precision
from nonlocalnn._errors import check_whole
from nonlocalnn._names import GENERATED_MASK_SETS, MASK_SETS
from nonlocalnn.data import read_image
from nonlocalnn.data.masks import MaskedImages, load_masks, resize_short
from nonlocalnn.data.normalization import ChannelValues, normalize_image, pixels_of
from nonlocalnn.data.volumes.volume import Volume
from nonlocalnn.inference.trained import Trained
from nonlocalnn.tasks.inputs import ShownInput, check_place, shown_image
from nonlocalnn.tasks.masks import image_scores, labels_of


@dataclass(frozen=True, eq=False)
class Segmented:
    """What was found of one image, volume or sequence, or why it could not be read.

    Args:
        path: The file.
        image: As it looks, float32 (3, H, W) in [0, 1]; of a sequence (C, L), as the network takes it; None
            where it cannot be read.
        labels: The class of each pixel, int64 (H, W), of each voxel, uint8 (slices, rows, columns), or
            of each step, int64 (L,).
        error: Why it cannot be read; None where it can.
        volume: Of a volume, it, in place of ``image``.
    """

    path: Path
    image: Tensor | None = None
    labels: Tensor | None = None
    error: str | None = None
    volume: Volume | None = None


@dataclass(frozen=True, kw_only=True)
class Segmenter(Trained):
    """A segmentation network and what it was trained on; see :class:`Trained` for the rest.

    Args:
        mean: What becomes 0, of pixel values from 0 to 255; one number, or one for each channel.
        standard_deviation: What becomes a distance of 1, of the same.
        resize: Short side to which images are brought, in pixels; None keeps their own.
        window: Side of the windows by which images are looked at, in pixels; None is the whole image.

    Example:
        >>> from nonlocalnn.models import create_model
        >>> model = create_model("fcn_tiny").eval()
        >>> segmenter = Segmenter(model=model, classes=("a", "b", "c"), sample_shape=(3, 96, 128))
        >>> segmenter.labels(torch.rand(3, 20, 30)).shape
        torch.Size([20, 30])
    """

    mean: ChannelValues = 0.0
    standard_deviation: ChannelValues = 255.0
    resize: int | None = None
    window: int | None = None

    def facts(self) -> dict[str, Any]:
        """Return what a user of its weights must know, JSON-ready: classes and pixels."""
        return {
            "task": "segmentation",
            "classes": list(self.classes),
            "sample_shape": list(self.sample_shape),
            "mean": self.mean,
            "standard_deviation": self.standard_deviation,
            "resize": self.resize,
        }

    def load_dataset(
        self, name: str, split: str, *, data_dir: str | os.PathLike[str] | None = None
    ) -> MaskedImages:
        """Return a split of a data set of images with masks: whole images, as the network takes them.

        Args:
            name: See :func:`nonlocalnn.data.masks.load_masks`, and so the others.
            split: "train", "validation" or "test".
            data_dir: Where the files are; None is where those of the training were, for the same data set.

        Raises:
            ValueError: The data set has no masks.
        """
        if name not in MASK_SETS:
            raise ValueError(
                f"the model was trained for segmentation, and {name!r} has no masks: choose one of "
                f"{', '.join(MASK_SETS)}"
            )
        resize = self.resize if name not in GENERATED_MASK_SETS else None
        data = load_masks(name, split, data_dir=self.folder(name, data_dir), resize=resize)
        data.mean, data.standard_deviation = self.mean, self.standard_deviation
        return data

    def sample(self, image: Tensor) -> Tensor:
        """Return an image, (3, H, W) in [0, 1], as the network takes it."""
        resized = resize_short(image, self.resize)
        return normalize_image(resized, mean=self.mean, standard_deviation=self.standard_deviation)

    def show(self, path: str | os.PathLike[str]) -> ShownInput:
        """Return one file as the network takes it, and as it looks; both are the whole image.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It cannot be read.
        """
        own = read_image(path, image_size=None, channels=3)
        return shown_image(path, own, self.sample(own), resize_short(own, self.resize))

    def take(self, dataset: MaskedImages, index: int, *, split: str) -> ShownInput:
        """Return image ``index`` of a split of :meth:`load_dataset`, as :meth:`show` does a file.

        Raises:
            ValueError: There is no such image.
        """
        check_place(index, len(dataset))
        sample, _ = dataset[index]
        pixels = pixels_of(sample, mean=self.mean, standard_deviation=self.standard_deviation)
        own, _ = dataset.read(index)
        return ShownInput(name=f"{split}-{index}", sample=sample, pixels=pixels, picture=own)

    def labels(self, image: Tensor, *, window: int | None = None, precision: Precision = "fp32") -> Tensor:
        """Return the class of each pixel of an image, int64 (H, W), on the CPU.

        Args:
            image: (3, H, W) in [0, 1].
            window: Side of the windows by which it is looked at, in pixels; None is the model's own setting.
            precision: "fp32", "bf16" or "fp16".

        Raises:
            ValueError: The answer is not finite, or the window no size.
        """
        x = self.sample(image).unsqueeze(0).to(self.device)
        window = self.window if window is None else window
        with torch.no_grad():
            scores = image_scores(self.model, x, window=window, precision=precision)
            return labels_of(scores, image.shape[1:]).cpu()

    def predict_many(
        self,
        inputs: Iterable[str | os.PathLike[str]],
        *,
        window: int | None = None,
        precision: Precision = "fp32",
    ) -> Iterator[Segmented]:
        """Yield what is found of files, and of those in folders, one after another.

        Args:
            inputs: Files, and folders of them.
            window: See :meth:`labels`.
            precision: "fp32", "bf16" or "fp16".

        Raises:
            ValueError: The window is no size.
        """
        if window is not None:
            check_whole("window", window)
        yield from self.answers(
            inputs,
            lambda path: self._segmented(path, window=window, precision=precision),
            lambda path, error: Segmented(path, error=error),
        )

    def _segmented(self, path: Path, *, window: int | None, precision: Precision) -> Segmented:
        image = read_image(path, image_size=None, channels=3)
        return Segmented(path, image, self.labels(image, window=window, precision=precision))
