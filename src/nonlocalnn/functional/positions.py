"""Maps to positions and back: the 1x1 convolutions, the sub-sampling and the grouping of a non-local block.

A map is (B, C, *sides), with sides (N,), (H, W) or (T, H, W). Positions are (B, P, C), contiguous, in the
order of the map's sides, which is the layout the engines want; both memory formats of a map give it without
a copy of x.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Extent = Literal["spacetime", "space", "time"] | int
Sides = torch.Size | tuple[int, ...]
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def check_map(x: Tensor, in_channels: int, num_sides: int) -> Tensor:
    """Return ``x`` when it is a map of this rank and width.

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
    if not x.is_floating_point():
        raise ValueError(f"x must be floating point; got {x.dtype}")
    if 0 in x.shape[2:]:
        raise ValueError(f"every side of x must be at least 1; got shape {tuple(x.shape)}")
    return x


def flatten(x: Tensor) -> Tensor:
    """Return the positions of a map as a view, shape (B, P, C)."""
    return x.flatten(2).transpose(1, 2)


def project(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return a 1x1 convolution of a map as positions, shape (B, P, D).

    Args:
        x: A map, shape (B, C, *sides).
        weight: The convolution's weight, shape (D, C, 1, ...).
        bias: Its bias, shape (D,).
    """
    positions = flatten(x)
    # A batched product and not F.linear: it reads the transposed view in place and writes (B, P, D)
    # contiguously, where F.linear would first copy x.
    matrices = weight.flatten(1).t().expand(x.shape[0], -1, -1)
    if bias is None:
        return torch.bmm(positions, matrices)
    return torch.baddbmm(bias, positions, matrices)


def project_to_scalar(x: Tensor, weight: Tensor, bias: Tensor | None, w: Tensor) -> Tensor:
    """Return w . (1x1 convolution of x) for each position, shape (B, P, 1), without the D channels between.

    Args:
        x: A map, shape (B, C, *sides).
        weight: The convolution's weight, shape (D, C, 1, ...).
        bias: Its bias, shape (D,), or None.
        w: Shape (D,): the half of w_f that meets this convolution.
    """
    # Products and a sum, not a matrix product: autocast leaves these in float32.
    folded = (w.unsqueeze(1) * weight.flatten(1)).sum(0, keepdim=True)
    return project(x, folded, None if bias is None else (w * bias).sum(0, keepdim=True))


def project_back(y: Tensor, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """Return the 1x1 convolution W_z of positions y as a map in the sides and memory format of x.

    The product runs in the type of ``y``, whatever autocast says: the unnormalised forms hand over float32
    because their sums can pass what float16 holds.
    """
    offset = torch.zeros((), dtype=y.dtype, device=y.device) if bias is None else bias.to(y.dtype)
    with torch.autocast(x.device.type, enabled=False):
        if _is_channels_last(x):
            z = torch.baddbmm(offset, y, _matrices(weight, y).transpose(1, 2)).transpose(1, 2)
        else:
            offset = offset if bias is None else offset.unsqueeze(1)
            z = torch.baddbmm(offset, _matrices(weight, y), y.transpose(1, 2))
    return z.unflatten(2, x.shape[2:])


def add_projection(y: Tensor, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """Return x + :func:`project_back` of y, summed up in one tensor where the types allow it.

    A map is often as large as all else that a block makes, and fresh memory is what small products wait for.
    """
    if y.dtype != x.dtype:
        return x + project_back(y, weight, bias, x).to(x.dtype)
    with torch.autocast(x.device.type, enabled=False):
        if _is_channels_last(x):
            sums = flatten(x).clone() if bias is None else flatten(x) + bias.to(x.dtype)
            z = sums.baddbmm_(y, _matrices(weight, y).transpose(1, 2)).transpose(1, 2)
        else:
            flat = x.flatten(2)
            sums = flat.contiguous().clone() if bias is None else flat + bias.to(x.dtype).unsqueeze(1)
            z = sums.baddbmm_(_matrices(weight, y), y.transpose(1, 2))
    return z.unflatten(2, x.shape[2:])


def _matrices(weight: Tensor, y: Tensor) -> Tensor:
    """Return a 1x1 convolution's weight as one matrix a batch entry, (B, C, E)."""
    return weight.flatten(1).to(y.dtype).expand(y.shape[0], -1, -1)


def pool_map(x: Tensor, extent: Extent) -> Tensor:
    """Max-pool a map (B, C, *sides) as :func:`pool_positions` does; the result is a map too."""
    sides = x.shape[2:]
    pooled = pool_positions(flatten(x), sides, extent)
    return pooled.transpose(1, 2).unflatten(2, pooled_sides(sides, extent))


def pool_positions(positions: Tensor, sides: Sides, extent: Extent) -> Tensor:
    """Max-pool positions (B, P, C) by 2 along each side of the map that lies within the extent.

    Those are the one side of a sequence, both of an image and H and W of a video (the paper's (1, 2, 2));
    with extent "time", where each location is a sequence of its own, it is T. Odd sides floor. A side of 1
    is not pooled.

    Args:
        positions: Shape (B, P, C) with P the product of ``sides``.
        sides: The map's sides.
        extent: The block's extent.

    Returns:
        Shape (B, P', C), contiguous.
    """
    batch, _, num_channels = positions.shape
    outer, height, width = _as_images(sides, extent)
    kernel = [
        1 if side == 1 or not pooled else 2 for side, pooled in ((height, True), (width, extent != "time"))
    ]
    # A channels-last image is a free view of positions, and the pooled one flattens back for free.
    images = positions.reshape(batch * outer, height, width, num_channels).permute(0, 3, 1, 2)
    pooled = F.max_pool2d(images, kernel)
    return pooled.permute(0, 2, 3, 1).reshape(batch, math.prod(pooled_sides(sides, extent)), num_channels)


def pooled_sides(sides: Sides, extent: Extent) -> Sides:
    """Return the sides of a map after :func:`pool_positions`."""
    first_pooled = len(sides) - 2 if len(sides) == 3 else 0
    chosen = {0} if extent == "time" else set(range(first_pooled, len(sides)))
    return tuple(max(1, side // 2) if axis in chosen else side for axis, side in enumerate(sides))


def _as_images(sides: Sides, extent: Extent) -> tuple[int, int, int]:
    """Return (images, height, width) whose heights, and widths, are what is pooled."""
    if len(sides) == 1:
        return 1, 1, sides[0]
    if len(sides) == 2:
        return 1, sides[0], sides[1]
    if extent == "time":
        return 1, sides[0], sides[1] * sides[2]
    return sides[0], sides[1], sides[2]


def group_sides(sides: Sides, extent: Extent) -> Sides:
    """Return the sides of one group of :func:`group`: (N,), (H, W) or (T, H, W), T in frames."""
    if extent == "time":
        return sides[:1]
    if extent == "space":
        return sides[1:]
    return sides if extent == "spacetime" else (extent, *sides[1:])


def group(positions: Tensor, sides: Sides, extent: Extent) -> Tensor:
    """Split positions into groups that do not see each other: (B, P, ...) to (B * groups, P / groups, ...).

    "space" makes each frame a group, "time" each location, a number that many consecutive frames.

    Raises:
        ValueError: The number of frames is no multiple of the group's.
    """
    if extent == "spacetime":
        return positions
    batch, rest = positions.shape[0], positions.shape[2:]
    if extent == "time":
        frames, locations = sides[0], math.prod(sides[1:])
        by_location = positions.reshape(batch, frames, locations, *rest).transpose(1, 2)
        return by_location.reshape(batch * locations, frames, *rest)
    frames_a_group = 1 if extent == "space" else extent
    if sides[0] % frames_a_group:
        raise ValueError(
            f"extent={extent} needs a number of frames that is a multiple of {extent}; got T = {sides[0]}: "
            "cut or pad the clip, or choose another extent"
        )
    groups = batch * (sides[0] // frames_a_group)
    return positions.reshape(groups, frames_a_group * math.prod(sides[1:]), *rest)


def ungroup(grouped: Tensor, batch: int, sides: Sides, extent: Extent) -> Tensor:
    """Undo :func:`group`: (B * groups, P / groups, E) to (B, P, E)."""
    if extent == "spacetime":
        return grouped
    num_values = grouped.shape[2]
    if extent == "time":
        by_location = grouped.reshape(batch, math.prod(sides[1:]), sides[0], num_values)
        return by_location.transpose(1, 2).reshape(batch, math.prod(sides), num_values)
    return grouped.reshape(batch, math.prod(sides), num_values)


def widen(part: Tensor, weight: Tensor) -> Tensor:
    """Return ``part`` in float32 where autocast made it float16 although the block's weights are float32.

    The dot product and the concatenation form sum an unbounded f: their sums pass 65,504 long before those
    of a softmax average do.
    """
    narrowed = part.dtype == torch.float16 and weight.dtype == torch.float32
    return part.float() if narrowed else part


def _is_channels_last(x: Tensor) -> bool:
    """Return whether x is dense with channels innermost, and not plainly contiguous as well."""
    memory_format = _CHANNELS_LAST.get(x.dim())
    return (
        memory_format is not None and not x.is_contiguous() and x.is_contiguous(memory_format=memory_format)
    )
