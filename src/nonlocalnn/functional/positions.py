"""Maps to positions and back: the 1x1 convolutions of a non-local block.

A map is (B, C, *sides), with sides (N,), (H, W) or (T, H, W). Positions are (B, P, C), contiguous, in the
order of the map's sides, which is the layout the engines want; both memory formats of a map give it without
a copy of x.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from nonlocalnn.functional.modes import autocast_dtype, is_transformed, without_autocast
from nonlocalnn.functional.products import (
    compiled_product,
    is_compiled_fast,
    is_served,
    multiply,
    multiply_entries,
    multiply_rows,
    takes,
)

Layer = tuple[Tensor, Tensor | None]  # weight and bias of a convolution
# What the engines and PyTorch's layers compute in; there are narrower types, for storing only.
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def flatten(x: Tensor) -> Tensor:
    """Return the positions of a map as a view, shape (B, P, C)."""
    return x.flatten(2).transpose(1, 2)


def as_map(positions: Tensor, x: Tensor) -> Tensor:
    """Return positions (B, P, E) as a map with the sides of ``x``, laid out as it is."""
    y = as_turned_map(positions, x.shape[2:])
    return y if is_channels_last(x) else y.contiguous()


def as_turned_map(positions: Tensor, sides: Sequence[int]) -> Tensor:
    """Return positions (B, P, E) as a map (B, E, *sides), a view."""
    # The sides first: turned first, a batch of one would have a stride by which the gradients of PyTorch's
    # batch normalisation came out wrong.
    return positions.unflatten(1, sides).movedim(len(sides) + 1, 1)


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
    run = _runner(_Projection, (x, *arguments))
    with without_autocast(x.device.type):
        projected: tuple[Tensor, ...] = run(x.flatten(2).to(dtype), *arguments)
    return projected


def fold(layer: Layer, w: Tensor, num_heads: int) -> Layer:
    """Return the convolution that gives w . (1x1 convolution of x), one number a position and head.

    Args:
        layer: The convolution's weight, shape (D, C, 1, ...), and its bias, shape (D,) or None.
        w: Shape (D,): the half of w_f that meets this convolution.
        num_heads: Each has its slice of w and of the convolution's channels.
    """
    weight, bias = layer
    wide = torch.promote_types(w.dtype, weight.dtype)
    matrix_HDC = weight.flatten(1).unflatten(0, (num_heads, -1)).to(wide)
    # Autocast would narrow this product, which is no larger than the weight.
    with without_autocast(weight.device.type):
        folded = w.unflatten(0, (num_heads, 1, -1)).to(wide) @ matrix_HDC
    return folded.squeeze(1), None if bias is None else (w * bias).unflatten(0, (num_heads, -1)).sum(1)


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
    channels_last = is_channels_last(x)
    run = _runner(_BackProjection, (base_BCP, y, matrix, bias))
    with without_autocast(x.device.type):
        z: Tensor = run(base_BCP, y, matrix, bias, channels_last)
    # Turned here: what a function of our own returns as a view may not be changed in place.
    return as_turned_map(z, x.shape[2:]) if channels_last else z.unflatten(2, x.shape[2:])


def _runner(function: type[torch.autograd.Function], tensors: Iterable[Tensor | None]) -> Any:
    """Return what runs a function of our own: by itself where nothing asks for its gradient."""
    wants_gradient = torch.is_grad_enabled() and any(
        part is not None and part.requires_grad for part in tensors
    )
    return function.apply if wants_gradient and not is_transformed() else function.compute  # type: ignore[attr-defined]


def _product_dtype(x: Tensor) -> torch.dtype:
    """Return the type in which autocast computes products of x."""
    dtype = autocast_dtype(x.device.type)
    return x.dtype if dtype is None or x.dtype == torch.float64 else dtype


# Autograd's own gradients of x, one for each product, cost a fifth of a training step to sum up. A single
# product for theta, phi and g together took 49 ms against 3 x 12 ms (N = 12,544, C = 512).
class _Projection(torch.autograd.Function):
    """Several 1x1 convolutions of (B, C, P), each to (B, P, D), contiguous.

    By batched products and not F.linear, which would first copy x. The gradient of x is summed up in one
    tensor that lies as x does; autograd would make one for each product, transposed, and then copy.
    """

    @staticmethod
    def compute(x_BCP: Tensor, *layers: Tensor | None) -> tuple[Tensor, ...]:
        x_BPC = x_BCP.transpose(1, 2)
        found = multiply_rows(x_BPC, *_pairs(layers))
        if found is not None:
            return found
        return tuple(
            _product(x_BPC, _batched(matrix_DC, x_BCP).transpose(1, 2), bias_D)
            for matrix_DC, bias_D in _pairs(layers)
        )

    # Not setup_context: PyTorch then binds the arguments to the signature at each call.
    @staticmethod
    def forward(ctx: Any, x_BCP: Tensor, *layers: Tensor | None) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x_BCP, *(matrix_DC for matrix_DC, _ in _pairs(layers)))
        return _Projection.compute(x_BCP, *layers)

    @staticmethod
    def backward(ctx: Any, *gradients_BPD: Tensor) -> tuple[Tensor | None, ...]:
        x_BCP, *matrices = ctx.saved_tensors
        dx, dlayers = None, []
        x_BPC, is_channels_last = x_BCP.transpose(1, 2), x_BCP.stride(1) == 1
        # Of few positions oneDNN's rows, turned at the end, take half the time of columns (P = 49, 256 x 512)
        are_rows = is_channels_last or (is_served(x_BCP) and x_BCP.shape[2] <= x_BCP.shape[1])
        for place, (matrix_DC, dy_BPD) in enumerate(zip(matrices, gradients_BPD, strict=True)):
            needs_matrix, needs_bias = ctx.needs_input_grad[2 * place + 1 : 2 * place + 3]
            dlayers.append(_summed_product(dy_BPD, x_BPC) if needs_matrix else None)
            dlayers.append(dy_BPD.sum((0, 1)) if needs_bias else None)
            if ctx.needs_input_grad[0]:
                if are_rows:
                    dx = _rows_product(dy_BPD, matrix_DC.t(), None, dx)
                else:
                    left = _batched(matrix_DC, x_BCP).transpose(1, 2)
                    dx = _product(left, dy_BPD.transpose(1, 2), None, dx)
        if dx is not None and are_rows:
            dx = dx.transpose(1, 2)
        return (dx if dx is None or is_channels_last else dx.contiguous(), *dlayers)


class _BackProjection(torch.autograd.Function):
    """A 1x1 convolution of (B, P, E), added to a (B, C, P); the gradient of y is contiguous.

    The result is contiguous, too: (B, P, C) with ``channels_last`` and (B, C, P) without.
    """

    @staticmethod
    def compute(
        base_BCP: Tensor | None,
        y_BPE: Tensor,
        matrix_CE: Tensor,
        bias_C: Tensor | None,
        channels_last: bool,
    ) -> Tensor:
        if channels_last:
            base_BPC = None if base_BCP is None else base_BCP.transpose(1, 2)
            return _rows_product(y_BPE, matrix_CE, bias_C, base_BPC)
        bias_C1 = None if bias_C is None else bias_C.unsqueeze(1)
        return _product(_batched(matrix_CE, y_BPE), y_BPE.transpose(1, 2), bias_C1, base_BCP)

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        _, y_BPE, matrix_CE, _, ctx.channels_last = arguments
        ctx.save_for_backward(y_BPE, matrix_CE)
        return _BackProjection.compute(*arguments)

    @staticmethod
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor | None, ...]:
        y_BPE, matrix_CE = ctx.saved_tensors
        dz_BCP = dz.transpose(1, 2) if ctx.channels_last else dz
        needs_base, needs_y, needs_matrix, needs_bias, _ = ctx.needs_input_grad
        return (
            dz_BCP if needs_base else None,
            _rows_product(dz_BCP.transpose(1, 2), matrix_CE.t(), None) if needs_y else None,
            _summed_product(dz_BCP.transpose(1, 2), y_BPE) if needs_matrix else None,
            dz_BCP.sum((0, 2)) if needs_bias else None,
            None,
        )


def _summed_product(left_BPD: Tensor, right_BPC: Tensor) -> Tensor:
    """Return the gradient of a matrix, sum_b left^T right, (D, C).

    Of few positions one product over the whole batch takes half the time of a product for each entry, 1.5 ms
    against 3.3 (B = 8, P = 49, 256 x 512), and a copy with channels innermost is smaller than those products.
    """
    are_few = left_BPD.shape[1] <= min(left_BPD.shape[2], right_BPC.shape[2])
    # A sum over one entry would be a copy, which took a fifth of a backward pass over 49 positions.
    is_one = left_BPD.shape[0] == 1
    if is_one or are_few or (left_BPD.is_contiguous() and right_BPC.is_contiguous()):
        # Not flatten, which the older vmap of torch.autograd.functional does not know.
        left, right = left_BPD.reshape(-1, left_BPD.shape[2]), right_BPC.reshape(-1, right_BPC.shape[2])
        are_many = left.shape[0] > right.shape[1] and right.t().is_contiguous()
        if are_many and takes(right.t(), left):
            # Of many positions that lie in columns this takes half the time, and the result is small.
            return multiply(right.t(), left).t().contiguous()
        return _product(left.t().unsqueeze(0), right.unsqueeze(0), None).squeeze(0)
    return _product(left_BPD.transpose(1, 2), right_BPC, None).sum(0)


def _rows_product(
    rows_BPK: Tensor, matrix_MK: Tensor, bias_M: Tensor | None, base_BPM: Tensor | None = None
) -> Tensor:
    """Return base + rows @ matrix^T + bias."""
    found = multiply_rows(rows_BPK, (matrix_MK, bias_M))
    if found is None:
        return _product(rows_BPK, _batched(matrix_MK, rows_BPK).transpose(1, 2), bias_M, base_BPM)
    return found[0] if base_BPM is None else found[0].add_(base_BPM)


def _product(left: Tensor, right: Tensor, bias: Tensor | None, base: Tensor | None = None) -> Tensor:
    """Return base + left @ right + bias."""
    found, rest = None, bias
    if is_compiled_fast(left, right):
        found = compiled_product(left, right)
    elif takes(left, right):
        if bias is not None and bias.shape == right.shape[2:]:
            found, rest = multiply_entries(left, right, bias), None
        else:
            found = multiply_entries(left, right)
    if found is not None:
        for term in (base, rest):
            found = found if term is None else found.add_(term)
        return found
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


def widen(part: Tensor, weight: Tensor | None) -> Tensor:
    """Return ``part`` in float32 where autocast made it float16 although the block's weights are float32.

    The dot product and the concatenation form sum an unbounded f: their sums pass 65,504 long before those
    of a softmax average do.
    """
    narrowed = part.dtype == torch.float16 and weight is not None and weight.dtype == torch.float32
    return part.float() if narrowed else part


def is_channels_last(x: Tensor) -> bool:
    """Return whether x is dense with channels innermost, and not plainly contiguous as well."""
    memory_format = _CHANNELS_LAST.get(x.dim())
    # Before torch 2.14 torch.vmap does not answer for other formats than the contiguous one.
    if memory_format is None or is_transformed() or x.is_contiguous():
        return False
    return x.is_contiguous(memory_format=memory_format)
