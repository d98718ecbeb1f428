"""Your own volumes: a folder with a sub-folder per class, and a file, or a DICOM series, for each volume.

Folders are read as those of images (:mod:`nonlocalnn.data.image_folders`), splits and all. A volume is
brought to a cube. Without a spacing it is stretched to it, as images are; with one it is resampled to these
millimetres, and the cube is what is around its middle.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from nonlocalnn._errors import check_choice, check_whole, counted
from nonlocalnn._names import SPLITS
from nonlocalnn.data.image_folders import labelled_files
from nonlocalnn.data.labelled import LabelledSamples
from nonlocalnn.data.volumes.files import VOLUME_SUFFIXES, is_volume, read_volume
from nonlocalnn.data.volumes.reading import Reading, Sampled, seen
from nonlocalnn.data.volumes.volume import Volume

_LONGEST = 2**12
_SIDE = 64


class LabelledVolumes(LabelledSamples):
    """Volumes, each with its class; see :class:`~nonlocalnn.data.labelled.LabelledSamples`.

    A sample is float32 (C, side, side, side), normalised as the reading says.

    Args:
        paths: The file, or the folder of a series, of each.
        classes: Names of the classes, in the order of the targets.
        targets: The class index of each.
        side: Voxels along each axis of a sample.
        reading: How volumes are read.
        augment: Whether a volume is changed at random each time that it is read.

    Raises:
        ValueError: A file is no volume, or they have different channels.
    """

    kind = "volumes"
    evaluation_batch = 8

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        classes: Sequence[str],
        targets: Sequence[int],
        side: int,
        reading: Reading,
        augment: bool = False,
    ) -> None:
        self._paths, self.reading, self._side = list(paths), reading, side
        channels = check_headers(paths, reading)
        super().__init__(
            classes=classes,
            sample_shape=(channels, side, side, side),
            targets=targets,
            transform=vary if augment else None,
        )

    def read(self, index: int) -> Tensor:
        """See :meth:`LabelledSamples.read`: normalised already."""
        return as_cube(read_volume(self._paths[index]), self.reading, self._side)

    def volume(self, index: int) -> Volume:
        """Return volume ``index`` as it lies in its file."""
        return read_volume(self._paths[index])

    def sample_id(self, index: int) -> str:
        """See :meth:`LabelledSamples.sample_id`: the path of its file."""
        return str(self._paths[index])

    def pixels(self, sample: Tensor) -> Tensor:
        """Return a sample as people see it, in [0, 1]; see :func:`~nonlocalnn.data.volumes.reading.seen`."""
        return seen(sample)

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor]:
        target = self.targets[index]  # first, because its IndexError is what ends iteration
        sample = self.read(index)
        return sample if self._transform is None else self._transform(sample), target


def check_headers(paths: Sequence[Path], reading: Reading) -> int:
    """Check that all volumes of a set have as many channels as the first, and return how many.

    Volumes that are to be resampled and do not say their spacing are told: a voxel of them is taken for 1 mm.

    Raises:
        ValueError: One has others.
    """
    # Not the volumes themselves: compressed ones would be kept whole.
    found = [(volume.channels, volume.has_spacing) for volume in map(read_volume, paths)]
    channels = [number for number, _ in found]
    unknown = [path for path, (_, is_known) in zip(paths, found, strict=True) if not is_known]
    if unknown and reading.spacing is not None:
        warnings.warn(
            f"{len(unknown)} of {counted(len(paths), 'volume')} do not say their spacing, so that a voxel is "
            f"taken for 1 mm and resampled from that: first {unknown[0]}",
            UserWarning,
            stacklevel=3,
        )
    for path, number in zip(paths, channels, strict=True):
        if number != channels[0]:
            raise ValueError(
                f"all volumes must have as many channels; {paths[0]} has {channels[0]}, and {path} has "
                f"{number}"
            )
    return channels[0]


def cube_of(volume: Volume, reading: Reading, side: int) -> tuple[Sampled, list[int]]:
    """Return the grid of a volume of which a sample is cut, and where on it the cube begins.

    Along an axis that is shorter than the cube this is below 0: half of what lacks.
    """
    if reading.spacing is None:
        return Sampled(volume, reading, sides=(side, side, side)), [0, 0, 0]
    sampled = Sampled(volume, reading)
    return sampled, [(own - side) // 2 for own in sampled.sides]


def as_cube(volume: Volume, reading: Reading, side: int) -> Tensor:
    """Return a volume as a sample, (C, side, side, side); see the module."""
    sampled, start = cube_of(volume, reading, side)
    return padded_box(sampled, start, side)


def padded_box(sampled: Sampled, start: Sequence[int], side: int) -> Tensor:
    """Return a cube of a grid, with its lowest value where the cube goes beyond the volume."""
    low = [max(0, first) for first in start]
    high = [min(own, first + side) for own, first in zip(sampled.sides, start, strict=True)]
    found = sampled.box(low, high)
    around = [
        number for axis in (2, 1, 0) for number in (low[axis] - start[axis], start[axis] + side - high[axis])
    ]
    return F.pad(found, around, value=float(found.min())) if any(around) else found


def vary(sample: Tensor) -> Tensor:
    """Return a normalised volume changed at random; see :func:`vary_with_mask`."""
    return vary_with_mask(sample, sample[0])[0]


def vary_with_mask(sample: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return a normalised volume and its mask changed at random, by torch's global random numbers alone.

    Both are mirrored along the columns half of the time; values are scaled by 0.9 to 1.1 and shifted by up to
    0.1.
    """
    mirrored, factor, shift = torch.rand(3).tolist()
    if mirrored < 0.5:
        sample, mask = sample.flip(-1), mask.flip(-1)
    return sample * (0.9 + 0.2 * factor) + 0.2 * (shift - 0.5), mask


def load_volumes(
    data_dir: str | os.PathLike[str],
    split: str,
    *,
    image_size: int | None = None,
    reading: Reading | None = None,
    augment: bool = False,
) -> LabelledVolumes:
    """Load a split of a folder of volumes; the module describes the folder.

    Args:
        data_dir: The folder.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        image_size: Voxels along each axis of a sample; None is 64.
        reading: How volumes are read; None keeps their spacing and normalises each by itself.
        augment: See :class:`LabelledVolumes`.

    Raises:
        FileNotFoundError: ``data_dir`` is not a folder.
        ValueError: There is no such split or no class, or a file is no volume.
    """
    check_choice("split", split, SPLITS)
    side = _SIDE if image_size is None else image_size
    check_whole("image_size", side, most=_LONGEST)
    what = f"no volume ({', '.join(VOLUME_SUFFIXES)}, or a folder of DICOM slices)"
    paths, targets, classes = labelled_files(Path(data_dir), split, is_volume, kind="volumes", what=what)
    return LabelledVolumes(
        paths,
        classes=classes,
        targets=targets,
        side=side,
        reading=Reading() if reading is None else reading,
        augment=augment,
    )
