"""What one pass over volumes with masks found: overlap of each class, and how far its surfaces are apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from nonlocalnn._errors import needs
from nonlocalnn.tasks.figures import by_class, class_table, in_text, mean_of_defined
from nonlocalnn.tasks.mask_figures import SegmentationFigures


@dataclass(frozen=True, kw_only=True)
class VolumeFound:
    """What was found of one volume.

    Args:
        name: The path of its file.
        dice: Of each class 2 |A and B| / (|A| + |B|); NaN where neither has it.
        hausdorff: Of each class the 95th percentile of the distances between the two surfaces, in
            millimetres; NaN where one has none. None where it was not measured.
    """

    name: str
    dice: tuple[float, ...]
    hausdorff: tuple[float, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class VolumeFigures(SegmentationFigures):
    """What was found of volumes with masks: Dice and Hausdorff distance volume by volume, the rest over all.

    Where the first class is called "background" it is in no mean of Dice and of distances.

    Args:
        volumes: What was found of each.

    Example:
        >>> import torch
        >>> found = VolumeFigures(
        ...     loss=0.1, classes=("background", "a"), num_samples=1,
        ...     confusion=torch.tensor([[6, 2], [0, 4]]),
        ...     volumes=(VolumeFound(name="x.nii", dice=(0.9, 0.8), hausdorff=(1.0, 2.0)),),
        ... )
        >>> found.describe("some/test")
        'mean Dice 0.8000, Hausdorff 95 % 2.00 mm, mean IoU 0.7083, voxel accuracy 0.8333 on 1 sample of ...'
    """

    volumes: tuple[VolumeFound, ...]

    @property
    def dice(self) -> list[float]:
        """Of each class the mean over the volumes that have or are given it; NaN where none is."""
        return _means([each.dice for each in self.volumes], len(self.classes))

    @property
    def hausdorff(self) -> list[float] | None:
        """Of each class the mean over the volumes in which both have it, in mm; None if not measured."""
        found = [each.hausdorff for each in self.volumes if each.hausdorff is not None]
        return _means(found, len(self.classes)) if found else None

    @property
    def mean_dice(self) -> float:
        """The mean of ``dice`` over the classes that have one; 0 where there is nothing but background."""
        return self._mean(self.dice) or 0.0

    @property
    def mean_hausdorff(self) -> float | None:
        """The mean of ``hausdorff`` over the classes that have one; None where none has."""
        return None if self.hausdorff is None else self._mean(self.hausdorff)

    def _mean(self, values: Sequence[float]) -> float | None:
        first = 1 if self.classes[0].lower() == "background" and len(self.classes) > 1 else 0
        mean = mean_of_defined(values[first:])
        return None if math.isnan(mean) else mean

    @property
    def headline(self) -> str:
        """Dice, distance, IoU and the share of voxels that are right."""
        distance = "" if self.mean_hausdorff is None else f", Hausdorff 95 % {self.mean_hausdorff:.2f} mm"
        return (
            f"mean Dice {self.mean_dice:.4f}{distance}, mean IoU {self.mean_iou:.4f}, voxel accuracy "
            f"{self.accuracy:.4f}"
        )

    def per_class_table(self) -> str:
        """Return a plain-text table: class, its share of the voxels, Dice, Hausdorff distance and IoU."""
        columns = {
            "of voxels": self.shares,
            "Dice": in_text(self.dice, ".4g"),
            "HD 95 mm": in_text(self.hausdorff or [math.nan] * len(self.classes), ".4g"),
            "IoU": in_text(self.iou, ".4g"),
        }
        return class_table(self.classes, columns)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values; an undefined figure is None."""
        found = super().to_dict()
        accuracy = found.pop("pixel_accuracy")
        distances: dict[str, Any] = {}
        if self.hausdorff is not None:
            distances = {
                "mean_hausdorff_95_mm": self.mean_hausdorff,
                "hausdorff_95_mm": by_class(self.classes, self.hausdorff),
            }
        volumes = [
            {
                "path": each.name,
                "dice": by_class(self.classes, each.dice),
                **(
                    {}
                    if each.hausdorff is None
                    else {"hausdorff_95_mm": by_class(self.classes, each.hausdorff)}
                ),
            }
            for each in self.volumes
        ]
        return {
            "mean_dice": self.mean_dice,
            "voxel_accuracy": accuracy,
            **distances,
            **found,
            "dice": by_class(self.classes, self.dice),
            "volumes": volumes,
        }


def _means(rows: Sequence[Sequence[float]], num_classes: int) -> list[float]:
    """Return the mean of each column over the rows that have a number there; NaN where none has."""
    return [mean_of_defined([row[place] for row in rows]) for place in range(num_classes)]


def dice_of(confusion: Tensor) -> tuple[float, ...]:
    """Return the Dice coefficient of each class from counts of voxels, (K, K); NaN where there is none.

    Example:
        >>> import torch
        >>> dice_of(torch.tensor([[6, 2], [0, 4]]))
        (0.8571428571428571, 0.8)
    """
    counts = confusion.double()
    found: list[float] = (2 * counts.diagonal() / (counts.sum(0) + counts.sum(1))).tolist()
    return tuple(found)


def hausdorff_95(labels: np.ndarray, truth: np.ndarray, spacing: Sequence[float]) -> float:
    """Return how far two bodies' surfaces are apart: the larger of two 95th percentiles, in millimetres.

    Each is of the distances of all surface voxels of one body from the nearest of the other. A voxel is of
    the surface where one of its six neighbours is outside, or beyond the edge of the volume.

    Args:
        labels: bool (slices, rows, columns).
        truth: The same.
        spacing: Millimetres between slices, rows and columns.

    Returns:
        NaN where a body has no voxel.

    Raises:
        ImportError: SciPy is missing.

    Example:
        >>> one, other = np.zeros((2, 5, 5, 5), dtype=bool)
        >>> one[1, 1, 1], other[1, 1, 3] = True, True
        >>> hausdorff_95(one, other, (1.0, 1.0, 1.5))
        3.0
    """
    with needs("scipy", "data", "distances between surfaces"):
        from scipy.spatial import KDTree
    if not labels.any() or not truth.any():
        return math.nan
    surfaces = [_surface(body) * np.asarray(spacing) for body in (labels, truth)]
    trees = [KDTree(points) for points in surfaces]
    return max(
        float(np.percentile(trees[1 - number].query(points)[0], 95)) for number, points in enumerate(surfaces)
    )


def _surface(body: np.ndarray) -> np.ndarray:
    """Return the places of a body's surface voxels, (n, 3)."""
    places = np.argwhere(body)
    low, high = places.min(0), places.max(0) + 1
    # Beyond its own box a body has no voxel: of large volumes only that box is looked at.
    around = np.pad(body[tuple(slice(*pair) for pair in zip(low, high, strict=True))], 1)
    inner = around.copy()
    for axis in range(3):
        inner &= np.roll(around, 1, axis) & np.roll(around, -1, axis)
    return np.argwhere((around & ~inner)[1:-1, 1:-1, 1:-1]) + low
