"""A volume as it lies in its file: numbers that are read box by box, and where they lie in millimetres."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Numbers that are looked at together where a whole volume is gone through: 64 MiB in float32.
_AT_ONCE = 2**24
Triple = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Volume:
    """Numbers (C, slices, rows, columns), read when they are asked for, and their place in millimetres.

    Where the file tells how the body lies, slices go from the feet to the head, rows from front to back, and
    columns from the right of the body to its left: as DICOM has its axes (LPS), and as radiologists look at
    them. Places in millimetres count towards right, front and head (RAS), as in NIfTI. Other files keep the
    order that they have.

    Args:
        stored: The numbers as they lie in the file, a view of it where it is mapped into memory.
        affine: (4, 4), from (slice, row, column, 1) to (x, y, z, 1) in millimetres.
        path: The file, or the folder of a series.
        slope: A number that is stored is worth ``slope * number + inter``.
        inter: See there.
        is_oriented: Whether the file tells how the body lies.
        has_spacing: Whether it tells millimetres; else a voxel is taken for 1 mm along each axis.
        axes: Which axis of the file each of (slices, rows, columns) is.
        flipped: Which of these run against the file's own.
        header: Of a NIfTI file its header, from which a mask of its grid is written.
    """

    stored: Any
    affine: np.ndarray
    path: Path
    slope: float = 1.0
    inter: float = 0.0
    is_oriented: bool = False
    has_spacing: bool = False
    axes: Triple = (0, 1, 2)
    flipped: tuple[bool, bool, bool] = (False, False, False)
    header: Any = field(default=None, repr=False)

    @property
    def channels(self) -> int:
        """C."""
        return int(self.stored.shape[0])

    @property
    def sides(self) -> Triple:
        """Slices, rows and columns."""
        slices, rows, columns = self.stored.shape[1:]
        return int(slices), int(rows), int(columns)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres from one slice to the next, from row to row and from column to column."""
        slices, rows, columns = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return slices, rows, columns

    def box(self, start: Sequence[int], stop: Sequence[int]) -> Tensor:
        """Return the numbers from ``start`` up to ``stop``, float32 (C, slices, rows, columns).

        Raises:
            ValueError: A number is not finite, or the file is damaged there.
        """
        part = self.stored[(slice(None), *(slice(low, high) for low, high in zip(start, stop, strict=True)))]
        # A copy in the machine's own byte order: PyTorch takes no other, and the file stays as it is.
        numbers = torch.from_numpy(np.array(part, dtype=np.float32, order="C"))
        if (self.slope, self.inter) != (1.0, 0.0):
            numbers = numbers * self.slope + self.inter
        wrong = (~numbers.isfinite()).nonzero()
        if len(wrong):
            place = [at + first for at, first in zip(wrong[0, 1:].tolist(), start, strict=True)]
            raise ValueError(
                f"{self.path} has voxels that are no finite numbers (NaN or infinity), the first in slice "
                f"{place[0]}, row {place[1]}, column {place[2]}: fill them first"
            )
        return numbers

    @cached_property
    def scale(self) -> tuple[float, float]:
        """Mean and standard deviation of the voxels above the mean of all; 1 where nothing varies.

        The unit of MR differs from scan to scan, so that each is normalised by itself: by what is mostly the
        body, so that it does not matter how much air a scan has around it.
        """
        mean, _ = self._moments(-math.inf)
        body, deviation = self._moments(mean)
        return body, deviation

    def _moments(self, floor: float) -> tuple[float, float]:
        """Return mean and standard deviation of the voxels above a value, slab by slab."""
        slices, rows, columns = self.sides
        step = max(1, _AT_ONCE // (rows * columns * self.channels))
        number, total, squares = 0, 0.0, 0.0
        for first in range(0, slices, step):
            values = self.box((first, 0, 0), (min(first + step, slices), rows, columns))
            inside = values[values > floor].double()
            number += len(inside)
            total += float(inside.sum())
            squares += float(inside.square().sum())
        # Of a volume in which all voxels are alike none is above the mean.
        mean = total / number if number else floor
        deviation = math.sqrt(max(0.0, squares / max(1, number) - mean**2))
        # What float32 cannot tell from no change is none.
        return mean, deviation if deviation > 1e-6 * abs(mean) else 1.0


def canonical(stored: Any, affine: np.ndarray, path: Path, **facts: Any) -> Volume:
    """Return a volume of an array with three axes in the file's order, brought to the order of `Volume`.

    Nothing is resampled: axes are exchanged and turned round, to the nearest of the body's.

    Args:
        stored: The three axes of the file.
        affine: (4, 4), from an index of the file to millimetres, RAS.
        path: The file.
        facts: Further arguments of :class:`Volume`.

    Raises:
        ValueError: The affine is singular or not finite: it gives no place.

    Example:
        >>> volume = canonical(np.zeros((2, 3, 5)), np.diag([1.0, 2.0, 4.0, 1.0]), Path("a.nii"))
        >>> volume.sides, volume.spacing, volume.flipped
        ((5, 3, 2), (4.0, 2.0, 1.0), (False, True, True))
    """
    turned = np.asarray(affine, dtype=np.float64)[:3, :3]
    lengths = np.linalg.norm(turned, axis=0)
    singular = not np.isfinite(affine).all() or lengths.min() == 0
    if singular or abs(np.linalg.det(turned / lengths)) < 1e-3:
        raise ValueError(
            f"{path} has an affine that gives its voxels no place (it is singular or not finite): mend the "
            "header's sform or qform"
        )
    # Which axis of the body each axis of the file is nearest to, each taken once: the clearest one first.
    shares, of_body = np.abs(turned / lengths), [0, 0, 0]
    for _ in range(3):
        body, own = np.unravel_index(shares.argmax(), shares.shape)
        of_body[int(own)] = int(body)
        shares[body, :], shares[:, own] = -1, -1
    axes = tuple(of_body.index(body) for body in (2, 1, 0))
    # Towards the head as the file counts, but from front to back and from right to left.
    flipped = tuple(
        bool(turned[body, own] < 0) if body == 2 else bool(turned[body, own] > 0)
        for body, own in zip((2, 1, 0), axes, strict=True)
    )
    view = stored.transpose(axes)
    view = view[tuple(slice(None, None, -1) if back else slice(None) for back in flipped)]
    to_file = np.zeros((4, 4))
    to_file[3, 3] = 1
    for place, (own, back) in enumerate(zip(axes, flipped, strict=True)):
        to_file[own, place] = -1 if back else 1
        to_file[own, 3] = stored.shape[own] - 1 if back else 0
    return Volume(
        view[None],
        np.asarray(affine, dtype=np.float64) @ to_file,
        path,
        is_oriented=True,
        has_spacing=True,
        axes=(axes[0], axes[1], axes[2]),
        flipped=(flipped[0], flipped[1], flipped[2]),
        **facts,
    )


def in_order_of_file(labels: Tensor, volume: Volume) -> np.ndarray:
    """Return numbers of each voxel of a volume in the order of its file: what :func:`canonical` did, undone.

    Args:
        labels: (slices, rows, columns).
        volume: Whose voxels they are of.

    Example:
        >>> volume = canonical(np.arange(6).reshape(1, 2, 3), np.diag([1.0, 1.0, 1.0, 1.0]), Path("a.nii"))
        >>> in_order_of_file(volume.box((0, 0, 0), volume.sides)[0], volume).astype(int).tolist()
        [[[0, 1, 2], [3, 4, 5]]]
    """
    view = labels.numpy()[tuple(slice(None, None, -1) if back else slice(None) for back in volume.flipped)]
    return np.ascontiguousarray(view.transpose(np.argsort(volume.axes)))
