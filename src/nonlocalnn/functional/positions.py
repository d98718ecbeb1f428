"""Maps to positions and back: the 1x1 convolutions, the sub-sampling and the grouping of a non-local block.

A map is (B, C, *sides), with sides (N,), (H, W) or (T, H, W). Positions are (B, P, C), contiguous, in the
order of the map's sides, which is the layout the engines want; both memory formats of a map give it without
a copy of x.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from nonlocalnn.functional.modes import autocast_dtype, is_transformed, without_autocast

Layer = tuple[Tensor, Tensor | None]  # weight and bias of a convolution
Extent = Literal["spacetime", "space", "time"] | int
Sides = torch.Size | tuple[int, ...]
# What the engines and PyTorch's layers compute in; there are narrower types, for storing only.
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
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
    if x.dtype not in FLOATS:
        raise ValueError(f"x must be floating point; got {x.dtype}, not one of 16, 32 or 64 bits")
    if 0 in x.shape[2:]:
        raise ValueError(f"every side of x must be at least 1; got shape {tuple(x.shape)}")
    return x


def flatten(x: Tensor) -> Tensor:
    """Return the positions of a map as a view, shape (B, P, C)."""
    return x.flatten(2).transpose(1, 2)


def as_map(positions: Tensor, x: Tensor) -> Tensor:
    """Return positions (B, P, E) as a map with the sides of ``x``, laid out as it is."""
    y = positions.transpose(1, 2).unflatten(2, x.shape[2:])
    return y if _is_channels_last(x) else y.contiguous()


def project(x: Tensor, *layers: Layer) -> tuple[Tensor, ...]:
    """Return 1x1 convolutions of a map as positions, each of shape (B, P, D) with a D of its own.

    Args:
        x: A map, shape (B, C, *sides).
        layers: For each convolution its weight, shape (D, C, 1, ...), and its bias, shape (D,) or None.
    """
    # A function of our own casts for itself: its backward pass runs outside of autocast.
    dtype = _product_dtype(x)
    arguments: list[Tensor | None] = []
    for weight, bias in layers:
        arguments += (weight.flatten(1).to(dtype), None if bias is None else bias.to(dtype))
    run = _Projection.forward if is_transformed() else _Projection.apply
    with without_autocast(x.device.type):
        projected: tuple[Tensor, ...] = run(x.flatten(2).to(dtype), *arguments)
    return projected


def fold(layer: Layer, w: Tensor) -> Layer:
    """Return the convolution that gives w . (1x1 convolution of x), one number a position.

    Args:
        layer: The convolution's weight, shape (D, C, 1, ...), and its bias, shape (D,) or None.
        w: Shape (D,): the half of w_f that meets this convolution.
    """
    weight, bias = layer
    # Products and a sum, not a matrix product: autocast leaves these in float32.
    folded = (w.unsqueeze(1) * weight.flatten(1)).sum(0, keepdim=True)
    return folded, None if bias is None else (w * bias).sum(0, keepdim=True)


def project_back(y: Tensor, layer: Layer, x: Tensor) -> Tensor:
    """Return the 1x1 convolution W_z of positions y as a map in the sides and memory format of x.

    The product runs in the type of ``y``, whatever autocast says: the unnormalised forms hand over float32
    because their sums can pass what float16 holds.
    """
    return _project_onto(None, y, layer, x)


def add_projection(y: Tensor, layer: Layer, x: Tensor) -> Tensor:
    """Return x + :func:`project_back` of y, summed up in one tensor where the types allow it.

    A map is often as large as all else that a block makes, and fresh memory is what small products wait for.
    """
    if y.dtype != x.dtype:
        return x + project_back(y, layer, x).to(x.dtype)
    return _project_onto(x.flatten(2), y, layer, x)


def _project_onto(base_BCP: Tensor | None, y: Tensor, layer: Layer, x: Tensor) -> Tensor:
    weight, bias = layer
    matrix, bias = weight.flatten(1).to(y.dtype), None if bias is None else bias.to(y.dtype)
    channels_last = _is_channels_last(x)
    run = _BackProjection.forward if is_transformed() else _BackProjection.apply
    with without_autocast(x.device.type):
        z: Tensor = run(base_BCP, y, matrix, bias, channels_last)
    # Turned here: what a function of our own returns as a view may not be changed in place.
    return (z.transpose(1, 2) if channels_last else z).unflatten(2, x.shape[2:])


def _product_dtype(x: Tensor) -> torch.dtype:
    """Return the type in which autocast computes products of x."""
    dtype = autocast_dtype(x.device.type)
    return x.dtype if dtype is None or x.dtype == torch.float64 else dtype


class _Projection(torch.autograd.Function):
    """Several 1x1 convolutions of (B, C, P), each to (B, P, D), contiguous.

    By batched products and not F.linear, which would first copy x. The gradient of x is summed up in one
    tensor that lies as x does; autograd would make one for each product, transposed, and then copy.
    """

    @staticmethod
    def forward(x_BCP: Tensor, *layers: Tensor | None) -> tuple[Tensor, ...]:
        x_BPC = x_BCP.transpose(1, 2)
        return tuple(
            _product(x_BPC, _batched(matrix_DC, x_BCP).transpose(1, 2), bias_D)
            for matrix_DC, bias_D in _pairs(layers)
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        x_BCP, *layers = inputs
        ctx.save_for_backward(x_BCP, *(matrix_DC for matrix_DC, _ in _pairs(layers)))

    @staticmethod
    def backward(ctx: Any, *gradients_BPD: Tensor) -> tuple[Tensor | None, ...]:
        x_BCP, *matrices = ctx.saved_tensors
        dx, dlayers = None, []
        for place, (matrix_DC, dy_BPD) in enumerate(zip(matrices, gradients_BPD, strict=True)):
            needs_matrix, needs_bias = ctx.needs_input_grad[2 * place + 1 : 2 * place + 3]
            dlayers.append((dy_BPD.transpose(1, 2) @ x_BCP.transpose(1, 2)).sum(0) if needs_matrix else None)
            dlayers.append(dy_BPD.sum((0, 1)) if needs_bias else None)
            if ctx.needs_input_grad[0]:
                left, right = _batched(matrix_DC, x_BCP).transpose(1, 2), dy_BPD.transpose(1, 2)
                if x_BCP.stride(1) == 1:  # channels last
                    left, right = right.transpose(1, 2), left.transpose(1, 2)
                dx = torch.bmm(left, right) if dx is None else torch.baddbmm(dx, left, right)
        if dx is not None and x_BCP.stride(1) == 1:
            dx = dx.transpose(1, 2)
        return (dx, *dlayers)


class _BackProjection(torch.autograd.Function):
    """A 1x1 convolution of (B, P, E), added to a (B, C, P); the gradient of y is contiguous.

    The result is contiguous, too: (B, P, C) with ``channels_last`` and (B, C, P) without.
    """

    @staticmethod
    def forward(
        base_BCP: Tensor | None,
        y_BPE: Tensor,
        matrix_CE: Tensor,
        bias_C: Tensor | None,
        channels_last: bool,
    ) -> Tensor:
        matrix_BCE = _batched(matrix_CE, y_BPE)
        if channels_last:
            base_BPC = None if base_BCP is None else base_BCP.transpose(1, 2)
            return _product(y_BPE, matrix_BCE.transpose(1, 2), bias_C, base_BPC)
        bias_C1 = None if bias_C is None else bias_C.unsqueeze(1)
        return _product(matrix_BCE, y_BPE.transpose(1, 2), bias_C1, base_BCP)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, y_BPE, matrix_CE, _, ctx.channels_last = inputs
        ctx.save_for_backward(y_BPE, matrix_CE)

    @staticmethod
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor | None, ...]:
        y_BPE, matrix_CE = ctx.saved_tensors
        dz_BCP = dz.transpose(1, 2) if ctx.channels_last else dz
        needs_base, needs_y, needs_matrix, needs_bias, _ = ctx.needs_input_grad
        return (
            dz_BCP if needs_base else None,
            torch.bmm(dz_BCP.transpose(1, 2), _batched(matrix_CE, y_BPE)) if needs_y else None,
            torch.bmm(dz_BCP, y_BPE).sum(0) if needs_matrix else None,
            dz_BCP.sum((0, 2)) if needs_bias else None,
            None,
        )


def _product(left: Tensor, right: Tensor, bias: Tensor | None, base: Tensor | None = None) -> Tensor:
    """Return base + left @ right + bias."""
    if base is None:
        return torch.bmm(left, right) if bias is None else torch.baddbmm(bias, left, right)
    if bias is None or is_transformed():  # vmap knows no product in place
        return torch.baddbmm(base if bias is None else base + bias, left, right)
    return (base + bias).baddbmm_(left, right)


def _batched(matrix: Tensor, like: Tensor) -> Tensor:
    """Return a matrix for each batch entry, a view."""
    return matrix.expand(like.shape[0], -1, -1)


def _pairs(layers: Sequence[Any]) -> Iterable[tuple[Tensor, Tensor | None]]:
    return zip(layers[::2], layers[1::2], strict=True)


def pool_map(x: Tensor, extent: Extent) -> Tensor:
    """Max-pool a map (B, C, *sides) as :func:`pool_positions` does; the result is a map laid out as x."""
    batch, num_channels, *sides = x.shape
    pooled = pooled_sides(tuple(sides), extent)
    if _is_channels_last(x):
        positions = pool_positions(flatten(x), tuple(sides), extent)
        return positions.transpose(1, 2).unflatten(2, pooled)
    outer, height, width = _as_images(tuple(sides), extent)
    kernel = _kernel(height, width, extent)
    images = x.reshape(batch, num_channels * outer, height, width)
    # PyTorch's pooling of rows is many times faster than that of images, without gradients; but a program
    # that is exported with it is one for the length of its example.
    is_row = height == 1 and not torch.compiler.is_exporting()
    maxima = F.max_pool1d(images.flatten(2), kernel[1]) if is_row else F.max_pool2d(images, kernel)
    return maxima.reshape(batch, num_channels, *pooled)


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
    # A channels-last image is a free view of positions, and the pooled one flattens back for free.
    images = positions.reshape(batch * outer, height, width, num_channels).permute(0, 3, 1, 2)
    pooled = F.max_pool2d(images, _kernel(height, width, extent))
    return pooled.permute(0, 2, 3, 1).reshape(batch, math.prod(pooled_sides(sides, extent)), num_channels)


def _kernel(height: int, width: int, extent: Extent) -> list[int]:
    sides = ((height, True), (width, extent != "time"))
    return [1 if side == 1 or not pooled else 2 for side, pooled in sides]


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


def widen(part: Tensor, weight: Tensor | None) -> Tensor:
    """Return ``part`` in float32 where autocast made it float16 although the block's weights are float32.

    The dot product and the concatenation form sum an unbounded f: their sums pass 65,504 long before those
    of a softmax average do.
    """
    narrowed = part.dtype == torch.float16 and weight is not None and weight.dtype == torch.float32
    return part.float() if narrowed else part


def _is_channels_last(x: Tensor) -> bool:
    """Return whether x is dense with channels innermost, and not plainly contiguous as well."""
    memory_format = _CHANNELS_LAST.get(x.dim())
    return (
        memory_format is not None and not x.is_contiguous() and x.is_contiguous(memory_format=memory_format)
    )
