"""How a volume becomes what a network takes: on which grid, and by which normalisation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nonlocalnn._errors import check_intensity, check_spacing
from nonlocalnn.data.volumes.volume import Triple, Volume


@dataclass(frozen=True)
class Reading:
    """What training decided of the reading of volumes, and a checkpoint remembers.

    Args:
        spacing: Millimetres between slices, rows and columns, to which volumes are resampled; None keeps
            their own.
        intensity: Lowest and highest value that is told apart, such as -160 and 240 of CT in Hounsfield
            units; they become -1 and 1. None normalises each volume by the mean and standard deviation of its
            voxels above its mean.

    Raises:
        ValueError: They are no such numbers.

    Example:
        >>> Reading.from_dict(Reading(spacing=(2.0, 1.0, 1.0)).to_dict())
        Reading(spacing=(2.0, 1.0, 1.0), intensity=None)
    """

    spacing: tuple[float, float, float] | None = None
    intensity: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        check_spacing(self.spacing)
        check_intensity(self.intensity)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "spacing": None if self.spacing is None else list(self.spacing),
            "intensity": None if self.intensity is None else list(self.intensity),
        }

    @classmethod
    def from_dict(cls, values: Any) -> Reading:
        """Return what :meth:`to_dict` gave.

        Raises:
            ValueError: It is something else.
        """
        if not isinstance(values, Mapping) or set(values) != {"spacing", "intensity"}:
            raise ValueError(f"volume must hold spacing and intensity; got {values!r:.100}")
        given = {name: value for name, value in values.items() if value is not None}
        if not all(isinstance(value, list) for value in given.values()):
            raise ValueError(f"spacing and intensity of volume must be lists of numbers; got {values!r:.100}")
        return cls(**{name: tuple(value) for name, value in given.items()})


class Sampled:
    """A volume on the grid of a reading, normalised: boxes of it are computed when they are asked for.

    A box is resampled from what lies around it in the file and from nothing else, so that a volume larger
    than memory is worked on by boxes. Each is exactly that part of the whole. Where voxels become larger they
    are smoothed first, as wide as they get.

    Args:
        volume: The volume.
        reading: How it is read.
        sides: Slices, rows and columns to which it is stretched, in place of a spacing; None goes by that.

    Attributes:
        sides: (slices, rows, columns) of the grid.
        affine: (4, 4), from these to millimetres.

    Example:
        >>> from pathlib import Path
        >>> volume = Volume(np.arange(8.0).reshape(1, 1, 1, 8), np.eye(4), Path("a.npy"))
        >>> Sampled(volume, Reading(intensity=(0.0, 8.0)), sides=(1, 1, 4)).whole().flatten().tolist()
        [-0.8214285969734192, -0.375, 0.125, 0.5714285969734192]
    """

    def __init__(self, volume: Volume, reading: Reading, *, sides: Triple | None = None) -> None:
        self.volume, self.reading = volume, reading
        if sides is None:
            wanted = volume.spacing if reading.spacing is None else reading.spacing
            sides = tuple(  # type: ignore[assignment]
                max(1, round(side * own / new))
                for side, own, new in zip(volume.sides, volume.spacing, wanted, strict=True)
            )
        assert sides is not None
        self.sides = sides
        # Voxels of the file that one of the grid covers: the grid covers just what the file does.
        self._ratios = [own / side for own, side in zip(volume.sides, sides, strict=True)]
        to_volume = np.diag([*self._ratios, 1.0])
        to_volume[:3, 3] = [ratio / 2 - 0.5 for ratio in self._ratios]
        self.affine = volume.affine @ to_volume

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres from one slice of the grid to the next, from row to row and from column to column."""
        slices, rows, columns = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return slices, rows, columns

    def whole(self) -> Tensor:
        """Return all of it, float32 (C, slices, rows, columns)."""
        return self.box((0, 0, 0), self.sides)

    def box(self, start: Sequence[int], stop: Sequence[int]) -> Tensor:
        """Return a part of it, float32 (C, slices, rows, columns).

        Raises:
            ValueError: A voxel in the file is no finite number.
        """
        weights = []
        low, high = [], []
        for axis in range(3):
            first, last, along = _weights(
                start[axis], stop[axis], self._ratios[axis], self.volume.sides[axis]
            )
            low.append(first)
            high.append(last)
            weights.append(along)
        values = self.normalised(self.volume.box(low, high))
        for axis, along in enumerate(weights, 1):
            if along is not None:
                values = torch.movedim(torch.tensordot(values, along, dims=([axis], [1])), -1, axis)
        return values.contiguous()

    def normalised(self, values: Tensor) -> Tensor:
        """Return the file's numbers as a network takes them."""
        if self.reading.intensity is None:
            mean, deviation = self.volume.scale
            return (values - mean) / deviation
        low, high = self.reading.intensity
        return (values.clamp(low, high) - (low + high) / 2) / ((high - low) / 2)

    def nearest(self, axis: int, *, to_file: bool) -> Tensor:
        """Return along an axis the nearest voxel of the file for each of the grid, or the other way round."""
        ratio, own, side = self._ratios[axis], self.volume.sides[axis], self.sides[axis]
        if to_file:
            return ((torch.arange(side) + 0.5) * ratio).floor().long().clamp(0, own - 1)
        return ((torch.arange(own) + 0.5) / ratio).floor().long().clamp(0, side - 1)

    def on_file(self, labels: Tensor) -> Tensor:
        """Return labels of the grid for the voxels of the file, (slices, rows, columns): the nearest's."""
        for axis in range(3):
            if self.sides[axis] != self.volume.sides[axis]:
                labels = labels.index_select(axis, self.nearest(axis, to_file=False))
        return labels


def _weights(start: int, stop: int, ratio: float, side: int) -> tuple[int, int, Tensor | None]:
    """Return which voxels of a file a part of an axis is made of, and by which weights, (parts, voxels).

    They are triangles, as wide as a voxel of the grid where that is the larger one; None where the grid is
    the file's own.
    """
    if ratio == 1:
        return start, stop, None
    reach = max(1.0, ratio)
    centres = (torch.arange(start, stop, dtype=torch.float64) + 0.5) * ratio - 0.5
    first = max(0, min(math.floor(float(centres[0]) - reach) + 1, side - 1))
    last = min(side, max(math.ceil(float(centres[-1]) + reach), first + 1))
    distances = (centres[:, None] - torch.arange(first, last)).abs()
    weights = (1 - distances / reach).clamp(min=0)
    # Beyond the edge there is nothing: what is there shares the weight.
    return first, last, (weights / weights.sum(1, keepdim=True)).float()


def seen(sample: Tensor) -> Tensor:
    """Return a normalised volume as people see it, in [0, 1]: from nearly its lowest to its highest value.

    The few voxels that are far above all others, such as metal, would leave the rest dark.

    Example:
        >>> [round(value, 2) for value in seen(torch.tensor([[[[0.0, 1.0, 2.0]]]])).flatten().tolist()]
        [0.0, 0.5, 1.0]
    """
    # Quantiles of a part that says the same: sorting all of a large volume takes seconds.
    some = sample.flatten()[:: max(1, sample.numel() // 2**18)].double()
    low, high = (float(torch.quantile(some, share)) for share in (0.005, 0.995))
    if high <= low:
        low, high = float(sample.min()), float(sample.max())
    return ((sample - low) / max(high - low, 1e-12)).clamp(0, 1)
