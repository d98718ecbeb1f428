"""Where the positions of a map lie, which of them see each other, and how they are sub-sampled."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from nonlocalnn._errors import check_tensor
from nonlocalnn.functional.positions import FLOATS, as_turned_map, flatten, is_channels_last

Extent = Literal["spacetime", "space", "time"] | int
Sides = torch.Size | tuple[int, ...]


def geometry_of(
    x: Tensor, in_channels: int, num_sides: int, extent: Extent, pool_size: tuple[int, ...] | None = None
) -> Geometry:
    """Return where the positions of ``x`` lie when it is a map of this rank and width.

    Raises:
        TypeError: It is no tensor.
        ValueError: It is not dense; the rank, the channels or the type do not fit; or a side is 0.
    """
    _check_dense("x", x)
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
    return Geometry(x.shape[2:], extent, pool_size)


def _check_dense(name: str, value: Tensor) -> None:
    """Check that ``value`` is a tensor that holds each of its numbers, in rows of one length."""
    check_tensor(name, value)
    if value.is_nested:
        raise ValueError(
            f"{name} is a nested tensor: pad its samples to one size, and say by key_mask what is real"
        )
    if value.layout is not torch.strided:
        raise ValueError(f"{name} must be dense; got {value.layout}: give {name}.to_dense()")


def key_geometry(
    places: Geometry, x: Tensor, context: Tensor | None, context_channels: int | None
) -> Geometry:
    """Return where the positions of the map lie that keys are read from: those of x without a context.

    Raises:
        TypeError: The context is no tensor.
        ValueError: A context is missing, or its rank, channels, type, batch or groups do not fit.
    """
    if context is None:
        if context_channels is not None:
            raise ValueError(
                "the block was made with context_channels, so that its keys come from another map: call it "
                "as block(x, context)"
            )
        return places
    _check_dense("context", context)
    num_sides, sides, extent = len(places.sides), tuple(context.shape[2:]), places.extent
    width = x.shape[1] if context_channels is None else context_channels
    if context.dim() != num_sides + 2 or context.shape[0] != x.shape[0] or context.shape[1] != width:
        raise ValueError(
            f"context must be a map (B, C, *sides) of {x.shape[0]} samples, {width} channels and {num_sides} "
            f"sides; got shape {tuple(context.shape)}"
        )
    if context.dtype != x.dtype or context.device != x.device:
        raise ValueError(
            f"context must have the type and device of x, {x.dtype} on {x.device}; got {context.dtype} on "
            f"{context.device}"
        )
    if 0 in sides:
        raise ValueError(f"every side of context must be at least 1; got shape {tuple(context.shape)}")
    # Groups of x see groups of the context: there must be as many.
    shared = {"spacetime": slice(0), "time": slice(1, None)}.get(str(extent), slice(1))
    if tuple(places.sides[shared]) != sides[shared]:
        what = "rows and columns" if extent == "time" else "frames"
        raise ValueError(
            f"with extent={extent!r} a context must have the {what} of x, {tuple(places.sides[shared])}; got "
            f"{sides[shared]}"
        )
    return Geometry(context.shape[2:], extent, places.pool_size)


def source_of(x: Tensor, context: Tensor | None) -> Tensor:
    """Return the map that keys are read from."""
    return x if context is None else context


@dataclass(frozen=True)
class Geometry:
    """The sides of a map, and which of its positions form a group, that is, see each other.

    Args:
        sides: (N,), (H, W) or (T, H, W).
        extent: "spacetime" is one group of all; "space" makes each frame a group, "time" each location, and
            a number that many consecutive frames.
        pool_size: The window of sub-sampling along each side; None is 2 along each side that lies within the
            extent.

    Example:
        >>> video = Geometry((4, 7, 6), "space")
        >>> video.pooled().sides, video.group_sides
        ((4, 3, 3), (7, 6))
        >>> video.group(torch.zeros(2, 4 * 7 * 6, 5)).shape
        torch.Size([8, 42, 5])
    """

    sides: Sides
    extent: Extent
    pool_size: tuple[int, ...] | None = None

    @property
    def group_sides(self) -> Sides:
        """The sides of one group: (N,), (H, W) or (T, H, W), T in frames."""
        if self.extent == "time":
            return self.sides[:1]
        if self.extent == "space":
            return self.sides[1:]
        return self.sides if self.extent == "spacetime" else (self.extent, *self.sides[1:])

    @property
    def kernel(self) -> tuple[int, ...]:
        """The window of sub-sampling along each side: a side that is shorter is pooled whole."""
        return tuple(
            # Not min(): a program that is exported for any size decides here once.
            size if side >= size else side
            for size, side in zip(self.window, self.sides, strict=True)
        )

    @property
    def group_kernel(self) -> tuple[int, ...]:
        """The part of :attr:`kernel` that lies along :attr:`group_sides`."""
        within = {"time": slice(1), "space": slice(1, None)}.get(str(self.extent), slice(None))
        return self.kernel[within]

    @property
    def window(self) -> tuple[int, ...]:
        """The window of sub-sampling along each side, whatever the sides are."""
        if self.pool_size is not None:
            return self.pool_size
        # Each location is a sequence of its own with extent "time", as NonLocal1d sees it. Pooling H and W
        # would leave a location without keys of its own.
        if self.extent == "time":
            return 2, 1, 1
        return ((2,), (2, 2), (1, 2, 2))[len(self.sides) - 1]

    def pooled(self) -> Geometry:
        """Return the geometry of the map after :meth:`pool`."""
        sides = [side // size for side, size in zip(self.sides, self.kernel, strict=True)]
        return Geometry(tuple(sides), self.extent, self.pool_size)

    def pool(self, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        r"""Max-pool positions (B, P, C) by the window along each side.

        By default that is 2 along each side that lies within the extent: the one side of a sequence, both of
        an image and H and W of a video (the paper's (1, 2, 2)); with extent "time", where each location is a
        sequence of its own, it is T. Odd sides floor. A side of 1 is not pooled.

        Args:
            positions: Of the whole map.
            mask: Which are real, (B, \*sides); the largest of those alone is taken, 0 where there is none.

        Returns:
            Shape (B, P', C), contiguous.
        """
        if mask is not None:
            positions = positions.masked_fill(~mask.flatten(1).unsqueeze(2), -torch.inf)
        batch, _, num_channels = positions.shape
        outer, sides, kernel = self._windows()
        # A channels-last image is a free view of positions, and the pooled one flattens back for free. No -1:
        # PyTorch's older export to ONNX writes it down as it is.
        images = positions.reshape(batch * outer, *sides, num_channels).movedim(len(sides) + 1, 1)
        pooled = F.max_pool3d(images, kernel) if len(sides) == 3 else F.max_pool2d(images, kernel)
        num_pooled = outer * math.prod(pooled.shape[2:])
        if len(self.sides) == 1:
            # A reshape of the single row would make exported programs ask whether its length divides it.
            pooled = pooled.squeeze(2)
        result = pooled.movedim(1, -1).reshape(batch, num_pooled, num_channels)
        return result if mask is None else _without_infinity(result)

    def pool_map(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        r"""Max-pool a map (B, C, \*sides) as :meth:`pool` does; the result is a map laid out as x."""
        if is_channels_last(x):
            return as_turned_map(self.pool(flatten(x), mask), self.pooled().sides)
        if mask is not None:
            x = x.masked_fill(~mask.unsqueeze(1), -torch.inf)
        batch, num_channels = x.shape[:2]
        outer, sides, kernel = self._windows()
        images = x.reshape(batch, num_channels * outer, *sides)
        # PyTorch's pooling of rows is many times faster than that of images, without gradients; but a program
        # that is exported with it is one for the length of its example.
        if len(sides) == 2 and sides[0] == 1 and not torch.compiler.is_exporting():
            maxima = F.max_pool1d(images.flatten(2), kernel[1])
        else:
            maxima = F.max_pool3d(images, kernel) if len(sides) == 3 else F.max_pool2d(images, kernel)
        if len(self.sides) == 1:
            pooled = maxima if maxima.dim() == 3 else maxima.squeeze(2)
        else:
            pooled = maxima.reshape(batch, num_channels, *self.pooled().sides)
        return pooled if mask is None else _without_infinity(pooled)

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

    def _windows(self) -> tuple[int, Sides, list[int]]:
        """Return (maps, sides, window) of the smaller maps that are pooled: images if they can be."""
        sides, kernel = self.sides, self.kernel
        if len(sides) == 1:
            return 1, (1, sides[0]), [1, kernel[0]]
        if len(sides) == 2:
            return 1, sides, list(kernel)
        if kernel[0] == 1:
            return sides[0], sides[1:], list(kernel[1:])
        # Images of time and places: PyTorch pools them faster than videos.
        if kernel[1] == kernel[2] == 1:
            return 1, (sides[0], sides[1] * sides[2]), [kernel[0], 1]
        return 1, sides, list(kernel)


def _without_infinity(pooled: Tensor) -> Tensor:
    """Return zeros where a window had no real position; infinities times zero weights would be NaN."""
    return pooled.masked_fill(pooled.isneginf(), 0.0)
