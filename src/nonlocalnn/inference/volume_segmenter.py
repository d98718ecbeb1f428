"""A trained network that labels volumes, together with what it expects."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nonlocalnn._device import Precision
from nonlocalnn._errors import counted
from nonlocalnn._names import VOLUME_MASK_SETS
from nonlocalnn.data.volumes.items import is_item, volume_of
from nonlocalnn.data.volumes.masked import MaskedVolumes, load_volume_masks
from nonlocalnn.data.volumes.reading import Reading, Sampled, seen
from nonlocalnn.data.volumes.volume import Volume, in_order_of_file
from nonlocalnn.inference.segmenter import Segmented, Segmenter
from nonlocalnn.tasks.inputs import InputKind, ShownInput, check_place
from nonlocalnn.tasks.volume_windows import Held, volume_labels
from nonlocalnn.tasks.volumes import Volumes, planes_of, volume_for

# Voxels that are looked at together for maps: of a network with 8 channels a map of so many takes 64 MiB.
_MOST_TOGETHER = 2**21


@dataclass(frozen=True, kw_only=True)
class VolumeSegmenter(Segmenter):
    """A network that labels volumes, and what it was trained on; see :class:`Segmenter` for the rest.

    Args:
        sample_shape: (C, S, S, S) of the patches of training; it takes volumes of any size.
        window: Side of the windows by which a volume is looked at, in voxels; None is S.
        volume: How volumes are read.

    Example:
        >>> import torch
        >>> from nonlocalnn.models import create_model
        >>> model = create_model("nl_unet3d_tiny").eval()
        >>> segmenter = VolumeSegmenter(model=model, classes=("a", "b"), sample_shape=(1, 16, 16, 16))
        >>> segmenter.labels(torch.rand(1, 20, 30, 10)).shape
        torch.Size([20, 30, 10])
    """

    volume: Reading = field(default_factory=Reading)

    @property
    def kind(self) -> InputKind:
        """What it takes: volumes."""
        return Volumes()

    def facts(self) -> dict[str, Any]:
        """Return what a user of its weights must know, JSON-ready."""
        return {
            "task": "segmentation",
            "classes": list(self.classes),
            "sample_shape": list(self.sample_shape),
            "volume": self.volume.to_dict(),
            "window": self.window,
        }

    def window_of(self, window: int | None = None) -> int:
        """Return the side of the windows: the one that is asked for, that of its run, or its patches'."""
        return next(each for each in (window, self.window, self.sample_shape[-1]) if each is not None)

    def load_dataset(  # type: ignore[override]  # of volumes in place of images
        self, name: str, split: str, *, data_dir: str | os.PathLike[str] | None = None
    ) -> MaskedVolumes:
        """Return a split of a data set of volumes with masks, read as in training.

        Args:
            name: "volume-masks".
            split: "train", "validation" or "test".
            data_dir: Where the files are; None is where those of the training were.

        Raises:
            ValueError: The data set is of something else, or its volumes have other channels.
        """
        if name not in VOLUME_MASK_SETS:
            raise ValueError(
                f"the model was trained to label volumes, and {name!r} has none with masks: choose "
                f"{', '.join(VOLUME_MASK_SETS)}"
            )
        data = load_volume_masks(
            self.folder(name, data_dir), split, image_size=self.sample_shape[-1], reading=self.volume
        )
        self.check_channels(name, data.channels)
        return data

    def sample(self, image: Tensor) -> Tensor:
        """Return the numbers of a volume with voxels of 1 mm, (C, D, H, W), as the network takes it."""
        return Sampled(_of_tensor(image), self.volume).whole()

    def show(self, path: str | os.PathLike[str]) -> ShownInput:
        """Return a file as the network takes it, and as it looks: whole, or of a large one the middle.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It cannot be read.
        """
        found = volume_for(Path(path), self.sample_shape[0])
        return self._shown(Sampled(found, self.volume), found.path.name)

    def take(self, dataset: Any, index: int, *, split: str) -> ShownInput:
        """Return volume ``index`` of a split of :meth:`load_dataset`, as :meth:`show` does a file.

        Raises:
            ValueError: There is no such volume.
        """
        check_place(index, dataset.num_volumes)
        sampled, _ = dataset.open(index)
        return self._shown(sampled, f"{split}-{index}")

    def _shown(self, sampled: Sampled, name: str) -> ShownInput:
        start, stop = _middle(sampled.sides)
        if stop != list(sampled.sides) or any(start):
            listed = " x ".join(f"{low} to {high - 1}" for low, high in zip(start, stop, strict=True))
            warnings.warn(
                f"{name} has {' x '.join(map(str, sampled.sides))} voxels, too many for maps: its middle is "
                f"shown, slices x rows x columns {listed}, which are counted from 0 there",
                UserWarning,
                stacklevel=2,
            )
        sample = sampled.box(start, stop)
        return ShownInput(name=name, sample=sample, pixels=seen(sample), planes=planes_of(sampled, start))

    def shown_labels(self, sample: Tensor, *, precision: Precision = "fp32") -> tuple[Tensor, int] | None:
        """Return the classes of what :meth:`show` gave, by windows, and their side; None where one is enough.

        Args:
            sample: (C, slices, rows, columns), as the network takes it.
            precision: "fp32", "bf16" or "fp16".

        Raises:
            ValueError: A score is not finite.
        """
        window = self.window_of()
        if max(sample.shape[1:]) <= window:
            return None
        labels = volume_labels(
            self.model, Held(sample), window=window, device=self.device, precision=precision
        )
        return labels.long(), window

    def labels(
        self,
        image: Tensor | Mapping[str, Any],
        *,
        window: int | None = None,
        precision: Precision = "fp32",
    ) -> Tensor:
        """Return the class of each voxel, uint8, on the CPU.

        Args:
            image: The numbers of a volume with voxels of 1 mm, (C, slices, rows, columns), in the units of
                the training's files. Or what MONAI's transforms give, in its order, (C, X, Y, Z): a tensor
                with an affine, or a dictionary with one under "image".
            window: See :meth:`label`.
            precision: "fp32", "bf16" or "fp16".

        Returns:
            (slices, rows, columns), or (X, Y, Z).

        Raises:
            ValueError: It is no volume, or has other channels than the model takes.
        """
        volume = volume_of(image) if is_item(image) else _of_tensor(image)
        if volume.channels != self.sample_shape[0]:
            raise ValueError(
                f"the model takes {counted(self.sample_shape[0], 'channel')}; got {volume.channels}"
            )
        labels = self.label(volume, window=window, precision=precision)
        return torch.from_numpy(in_order_of_file(labels, volume)) if is_item(image) else labels

    def label(self, volume: Volume, *, window: int | None = None, precision: Precision = "fp32") -> Tensor:
        """Return the class of each voxel of a volume, uint8 (slices, rows, columns), on the CPU.

        Args:
            volume: As :func:`~nonlocalnn.data.volumes.files.read_volume` gives it.
            window: Side of the windows by which it is looked at, in voxels; None is the model's own setting.
            precision: "fp32", "bf16" or "fp16".

        Raises:
            ValueError: The answer or a voxel is not finite, or the window no size.

        Memory: a byte a voxel, and scores of ``window`` slices.
        """
        return volume_labels(
            self.model,
            Sampled(volume, self.volume),
            window=self.window_of(window),
            device=self.device,
            precision=precision,
        )

    def _segmented(self, path: Path, *, window: int | None, precision: Precision) -> Segmented:
        volume = volume_for(path, self.sample_shape[0])
        labels = self.label(volume, window=window, precision=precision)
        return Segmented(path, labels=labels, volume=volume)


def _of_tensor(image: Any) -> Volume:
    return Volume(image.numpy(), np.eye(4)[[2, 1, 0, 3]], Path("a tensor"))


def _middle(sides: tuple[int, int, int]) -> tuple[list[int], list[int]]:
    """Return the largest part about the middle that is looked at together, in the shape of the whole."""
    factor = min(1.0, (_MOST_TOGETHER / math.prod(sides)) ** (1 / 3))
    own = [max(1, int(side * factor)) for side in sides]
    start = [(side - part) // 2 for side, part in zip(sides, own, strict=True)]
    return start, [low + part for low, part in zip(start, own, strict=True)]
