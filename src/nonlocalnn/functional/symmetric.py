"""The Gaussian of a map with itself, eq. (2) with theta = phi = x, in three quarters of the arithmetic.

The logits x x^T are symmetric, so those of queries i and keys j serve queries j and keys i as well. The
backward pass computes each tile again, once for both roles, and adds the two gradients of a logit before the
products with x. See :mod:`nonlocalnn.functional.tiles`.

Shapes: B batch, N positions, D channels, E value channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nonlocalnn.functional import tiles
from nonlocalnn.functional.operators import register

Size = torch.Size


def non_local(x_BND: Tensor, g_BNE: Tensor, *, scale: float) -> Tensor:
    """Return softmax(scale * x x^T) g, shape (B, N, E).

    Memory: linear in N. For the backward pass x, g, y and the log-sum-exp of each query are kept; y is what
    the projection after it keeps as well.
    """
    y_BNE: Tensor = _gaussian(x_BND, g_BNE, scale)[0]
    return y_BNE


def _symmetric_softmax_sum(x_BND: Tensor, g_BNE: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return softmax(scale x x^T) g and the log-sum-exp of each query, (B, N)."""
    y_BNE, lse_BN = _symmetric_softmax_sum_shapes(x_BND, g_BNE, scale)
    for bundle, side in tiles.bundles(x_BND, x_BND):
        y, lse, x, g = (part[bundle] for part in (y_BNE, lse_BN, x_BND, g_BNE))
        tiles.average(y, lse, x, x, g, scale=scale, side=side, symmetric=True)
    return y_BNE, lse_BN


def _symmetric_softmax_sum_shapes(x_BND: Tensor, g_BNE: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    return g_BNE.new_empty(g_BNE.shape), x_BND.new_empty(x_BND.shape[:2])


def _symmetric_softmax_sum_flops(x: Size, g: Size, scale: float) -> int:
    """Those of the two products as of any other engine, though half of the logits are not computed."""
    # Counts are compared between implementations.
    return 2 * x[0] * x[1] ** 2 * (x[2] + g[2])


def _symmetric_softmax_sum_backward(
    dy_BNE: Tensor, x_BND: Tensor, g_BNE: Tensor, y_BNE: Tensor, lse_BN: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and g."""
    # As x lies, so that whatever else is added to it meets no other layout.
    dx_BND, dg_BNE = torch.zeros_like(x_BND), torch.zeros_like(g_BNE)
    given = dx_BND, dg_BNE, dy_BNE, x_BND, g_BNE, y_BNE, lse_BN
    for bundle, side in tiles.bundles(x_BND, x_BND):
        dx, dg, dy, x, g, y, lse = (part[bundle] for part in given)
        tiles.add_gradients((dx, dx, dg), dy, x, x, g, y, lse, scale=scale, side=side, symmetric=True)
    return dx_BND.mul_(scale), dg_BNE


def _symmetric_softmax_sum_backward_shapes(
    dy_BNE: Tensor, x_BND: Tensor, g_BNE: Tensor, y_BNE: Tensor, lse_BN: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x_BND), torch.empty_like(g_BNE)


def _symmetric_softmax_sum_backward_flops(
    dy: Size, x: Size, g: Size, y: Size, lse: Size, scale: float
) -> int:
    return 2 * x[0] * x[1] ** 2 * (3 * x[2] + 2 * g[2])


def _plain_symmetric_softmax_sum(x_BND: Tensor, g_BNE: Tensor, scale: float) -> Tensor:
    return (scale * x_BND @ x_BND.transpose(1, 2)).softmax(2) @ g_BNE


_gaussian = register(
    (_symmetric_softmax_sum, _symmetric_softmax_sum_shapes, _symmetric_softmax_sum_flops),
    (
        _symmetric_softmax_sum_backward,
        _symmetric_softmax_sum_backward_shapes,
        _symmetric_softmax_sum_backward_flops,
    ),
    _plain_symmetric_softmax_sum,
    num_kept=1,
)
