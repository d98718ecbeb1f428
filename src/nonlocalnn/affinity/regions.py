"""Where the regions of a detector's heads lie in its photographs, and the maps of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from nonlocalnn.affinity.grids import PositionGrid, Sides


@dataclass(frozen=True, eq=False)
class Regions:
    """The regions of one run, in the order in which they are the samples of a head's map.

    Args:
        boxes: (R, 4) as left, top, right, bottom, in pixels of the photograph of each, as it was given.
        photographs: What the detector was given, (C, H, W) each, on the CPU.
        numbers: Of each region the number of its photograph.
        are_objects: Whether they are the boxes of what the detector found, in that order, and not proposals.
    """

    boxes: Tensor
    photographs: Sequence[Tensor]
    numbers: Sequence[int]
    are_objects: bool

    def __len__(self) -> int:
        return len(self.numbers)

    def photograph(self, number: int) -> Tensor:
        """Return the photograph of a region, (C, H, W)."""
        return self.photographs[self.numbers[number]]

    def placed(self, grid: PositionGrid, number: int) -> PositionGrid:
        """Return a grid over a region's own positions as one over its photograph.

        Args:
            grid: Its ``input_sides`` are the positions of the region, (rows, columns).
            number: Of the region.
        """
        left, top, right, bottom = self.boxes[number].tolist()
        sides: Sides = tuple(self.photograph(number).shape[-2:])
        firsts, lasts = (top, left), (bottom, right)
        # Pixels of the photograph that a position of the region has, along each axis.
        scales = [
            (last - first) / side for first, last, side in zip(firsts, lasts, grid.input_sides, strict=True)
        ]
        return PositionGrid(
            grid.sides,
            sides,
            steps=tuple(step * scale for step, scale in zip(grid.steps, scales, strict=True)),
            centres=tuple(
                first + centre * scale
                for first, centre, scale in zip(firsts, grid.centres, scales, strict=True)
            ),
        )
