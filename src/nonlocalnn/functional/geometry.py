"""Where the positions of a map lie, which of them see each other, and how they are sub-sampled."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from nonlocalnn.functional.positions import FLOATS, flatten, is_channels_last

Extent = Literal["spacetime", "space", "time"] | int
Sides = torch.Size | tuple[int, ...]


def geometry_of(x: Tensor, in_channels: int, num_sides: int, extent: Extent) -> Geometry:
    """Return where the positions of ``x`` lie when it is a map of this rank and width.

    Raises:
        ValueError: The rank, the number of channels or the type does not fit, or a side is 0.
    """
    sides = {1: "N", 2: "H, W", 3: "T, H, W"}[num_sides]
    if x.dim() != num_sides + 2:
        raise ValueError(
            f"NonLocal{num_sides}d takes (B, C, {sides}), {num_sides + 2} dimensions; "
            f"got {x.dim()}: shape {tuple(x.shape)}"
        )
    if x.shape[1] != in_channels:
        raise ValueError(f"the block was made for {in_channels} channels; got {x.shape[1]}: {tuple(x.shape)}")
    if x.dtype not in FLOATS:
        raise ValueError(f"x must be floating point; got {x.dtype}, not one of 16, 32 or 64 bits")
    if 0 in x.shape[2:]:
        raise ValueError(f"every side of x must be at least 1; got shape {tuple(x.shape)}")
    return Geometry(x.shape[2:], extent)


@dataclass(frozen=True)
class Geometry:
    """The sides of a map, and which of its positions form a group, that is, see each other.

    Args:
        sides: (N,), (H, W) or (T, H, W).
        extent: "spacetime" is one group of all; "space" makes each frame a group, "time" each location, and
            a number that many consecutive frames.

    Example:
        >>> video = Geometry((4, 7, 6), "space")
        >>> video.pooled().sides, video.group_sides
        ((4, 3, 3), (7, 6))
        >>> video.group(torch.zeros(2, 4 * 7 * 6, 5)).shape
        torch.Size([8, 42, 5])
    """

    sides: Sides
    extent: Extent

    @property
    def group_sides(self) -> Sides:
        """The sides of one group: (N,), (H, W) or (T, H, W), T in frames."""
        if self.extent == "time":
            return self.sides[:1]
        if self.extent == "space":
            return self.sides[1:]
        return self.sides if self.extent == "spacetime" else (self.extent, *self.sides[1:])

    def pooled(self) -> Geometry:
        """Return the geometry of the map after :meth:`pool`."""
        # Each location is a sequence of its own with extent "time", as NonLocal1d sees it. Pooling H and W
        # would leave a location without keys of its own.
        within = slice(0, 1) if self.extent == "time" else slice(-2, None)
        sides = list(self.sides)
        sides[within] = [max(1, side // 2) for side in sides[within]]
        return Geometry(tuple(sides), self.extent)

    def pool(self, positions: Tensor) -> Tensor:
        """Max-pool positions (B, P, C) by 2 along each side that lies within the extent.

        Those are the one side of a sequence, both of an image and H and W of a video (the paper's (1, 2, 2));
        with extent "time", where each location is a sequence of its own, it is T. Odd sides floor. A side of
        1 is not pooled.

        Returns:
            Shape (B, P', C), contiguous.
        """
        batch, _, num_channels = positions.shape
        outer, height, width = self._as_images()
        # A channels-last image is a free view of positions, and the pooled one flattens back for free.
        images = positions.reshape(batch * outer, height, width, num_channels).permute(0, 3, 1, 2)
        pooled = F.max_pool2d(images, self._kernel(height, width))
        num_pooled = outer * pooled.shape[2] * pooled.shape[3]
        return pooled.permute(0, 2, 3, 1).reshape(batch, num_pooled, num_channels)

    def pool_map(self, x: Tensor) -> Tensor:
        r"""Max-pool a map (B, C, \*sides) as :meth:`pool` does; the result is a map laid out as x."""
        batch, num_channels = x.shape[:2]
        sides = self.pooled().sides
        if is_channels_last(x):
            return self.pool(flatten(x)).transpose(1, 2).unflatten(2, sides)
        outer, height, width = self._as_images()
        kernel = self._kernel(height, width)
        images = x.reshape(batch, num_channels * outer, height, width)
        # PyTorch's pooling of rows is many times faster than that of images, without gradients; but a program
        # that is exported with it is one for the length of its example.
        is_row = height == 1 and not torch.compiler.is_exporting()
        maxima = F.max_pool1d(images.flatten(2), kernel[1]) if is_row else F.max_pool2d(images, kernel)
        return maxima.reshape(batch, num_channels, *sides)

    def group(self, positions: Tensor) -> Tensor:
        """Split positions into groups: (B, P, ...) to (B * groups, P / groups, ...).

        Raises:
            ValueError: The number of frames is no multiple of the group's.
        """
        sides, extent = self.sides, self.extent
        if extent == "spacetime":
            return positions
        batch, rest = positions.shape[0], positions.shape[2:]
        if extent == "time":
            frames, locations = sides[0], math.prod(sides[1:])
            by_location = positions.reshape(batch, frames, locations, *rest).transpose(1, 2)
            return by_location.reshape(batch * locations, frames, *rest)
        frames_a_group = 1 if extent == "space" else extent
        # A smaller last group would mean something else for its frames, without a word.
        if sides[0] % frames_a_group:
            raise ValueError(
                f"extent={extent} needs a number of frames that is a multiple of {extent}; got T = "
                f"{sides[0]}: cut or pad the clip, or choose another extent"
            )
        groups = batch * (sides[0] // frames_a_group)
        return positions.reshape(groups, frames_a_group * math.prod(sides[1:]), *rest)

    def ungroup(self, grouped: Tensor, batch: int) -> Tensor:
        """Undo :meth:`group`: (B * groups, P / groups, E) to (B, P, E)."""
        sides, num_values = self.sides, grouped.shape[2]
        if self.extent == "spacetime":
            return grouped
        if self.extent == "time":
            by_location = grouped.reshape(batch, math.prod(sides[1:]), sides[0], num_values)
            return by_location.transpose(1, 2).reshape(batch, math.prod(sides), num_values)
        return grouped.reshape(batch, math.prod(sides), num_values)

    def _as_images(self) -> tuple[int, int, int]:
        """Return (images, height, width) whose heights, and widths, are what is pooled."""
        sides = self.sides
        if len(sides) == 1:
            return 1, 1, sides[0]
        if len(sides) == 2:
            return 1, sides[0], sides[1]
        if self.extent == "time":
            return 1, sides[0], sides[1] * sides[2]
        return sides[0], sides[1], sides[2]

    def _kernel(self, height: int, width: int) -> list[int]:
        sides = ((height, True), (width, self.extent != "time"))
        return [1 if side == 1 or not pooled else 2 for side, pooled in sides]
