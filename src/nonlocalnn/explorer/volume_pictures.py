"""Pictures of a volume's labels: three planes beside one another, for the overlay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nonlocalnn.data.volumes.reading import seen
from nonlocalnn.data.volumes.volume import Volume
from nonlocalnn.tasks.inputs import ShownInput

# Pixels that a plane is high.
_HEIGHT = 256


def as_volume(shown: ShownInput) -> Volume:
    """Return what people see of an input as a volume, with its places."""
    assert shown.planes is not None, "of volumes only"
    return Volume(
        shown.pixels.numpy(),
        np.array([*shown.planes.affine, (0.0, 0.0, 0.0, 1.0)]),
        Path(shown.name),
        is_oriented=shown.planes.is_oriented,
        has_spacing=shown.planes.has_spacing,
    )


def labelled_planes(volume: Volume, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return three planes of a volume side by side, axial, coronal and sagittal, and their labels.

    They go through the middle of what is not of the first class. Each is as wide as its millimetres ask for.

    Args:
        volume: The volume.
        labels: The class of each voxel, uint8 (slices, rows, columns).

    Returns:
        (3, H, W) in [0, 1], and int64 (H, W).

    Example:
        >>> volume = Volume(np.random.rand(1, 4, 8, 8), np.eye(4)[[2, 1, 0, 3]], Path("a.npy"))
        >>> image, shown = labelled_planes(volume, torch.zeros(4, 8, 8, dtype=torch.uint8))
        >>> image.shape, shown.shape
        (torch.Size([3, 256, 1280]), torch.Size([256, 1280]))
    """
    found = labels.nonzero()
    middle = found.float().mean(0).long().tolist() if len(found) else [side // 2 for side in volume.sides]
    pictures, ids = [], []
    for across in range(3):
        start, stop = [0, 0, 0], list(volume.sides)
        start[across], stop[across] = middle[across], middle[across] + 1
        plane = seen(volume.box(start, stop)).mean(0).select(across, 0)
        shown = labels.select(across, middle[across])
        if across > 0 and volume.is_oriented:
            # The head is on top, where slices count upwards.
            plane, shown = plane.flip(0), shown.flip(0)
        down, along = (volume.spacing[axis] for axis in range(3) if axis != across)
        width = max(1, round(_HEIGHT * plane.shape[1] * along / (plane.shape[0] * down)))
        size = (_HEIGHT, min(width, 4 * _HEIGHT))
        pictures.append(F.interpolate(plane[None, None], size=size, mode="bilinear")[0])
        ids.append(F.interpolate(shown[None, None].float(), size=size, mode="nearest")[0, 0].long())
    return torch.cat(pictures, 2).expand(3, -1, -1).clamp(0, 1), torch.cat(ids, 1)
