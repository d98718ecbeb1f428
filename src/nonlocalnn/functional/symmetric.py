"""The Gaussian of a map with itself, eq. (2) with theta = phi = x, in three quarters of the arithmetic.

The logits x x^T are symmetric, so those of queries i and keys j serve queries j and keys i as well. A panel
holds the logits of a block of queries against the keys from that block on; its rows are averaged for its own
queries, and its columns for the later ones, with the largest logit and the sum of each query carried along
and corrected as panels go by. The backward pass computes each panel again, once for both roles, and adds the
two gradients of a logit before the one product with x.

Shapes: B batch, N positions, D channels, E value channels; within a panel, R rows (a block of queries) and S
columns, of which the first R are the block itself and the others come later.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from nonlocalnn.functional.operators import register

# The queries of a block: enough for matrix products at full speed, few enough that passes over a panel find
# it in the cache, and that a panel is at most 2^23 numbers, 32 MiB in float32.
_BLOCK_QUERIES = 384
_PANEL_NUMBERS = 2**23
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
    y_BNE, sum_BN = g_BNE.new_zeros(g_BNE.shape), x_BND.new_zeros(x_BND.shape[:2])
    largest_BN = torch.full_like(sum_BN, -torch.inf)
    for entry, rows, later, panel, (spare,) in _panels(x_BND, scale, num_spare=1):
        g, y, sums, largest = g_BNE[entry], y_BNE[entry], sum_BN[entry], largest_BN[entry]
        count = panel.shape[0]
        for queries, keys, logits, dim in (
            (rows, slice(rows.start, None), panel, 1),
            (later, rows, panel[:, count:], 0),
        ):
            if logits.shape[1] == 0:
                continue  # the last block has no later one
            new_largest = torch.maximum(largest[queries], logits.amax(dim))
            shrink = (largest[queries] - new_largest).exp_()
            largest[queries] = new_largest
            weights = _as_matrix(spare, *logits.shape)
            torch.sub(logits, new_largest.unsqueeze(dim), out=weights).exp_()
            sums[queries].mul_(shrink).add_(weights.sum(dim))
            y[queries].mul_(shrink.unsqueeze(1)).addmm_(weights if dim == 1 else weights.t(), g[keys])
    return y_BNE.div_(sum_BN.unsqueeze(2)), sum_BN.log_().add_(largest_BN)


def _symmetric_softmax_sum_shapes(x_BND: Tensor, g_BNE: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    return g_BNE.new_empty(g_BNE.shape), x_BND.new_empty(x_BND.shape[:2])


def _symmetric_softmax_sum_flops(x: Size, g: Size, scale: float) -> int:
    """Those of the two products as of any other engine, though half of the logits are not computed."""
    # Counts are compared between implementations.
    return 2 * x[0] * x[1] ** 2 * (x[2] + g[2])


def _symmetric_softmax_sum_backward(
    dy_BNE: Tensor, x_BND: Tensor, g_BNE: Tensor, y_BNE: Tensor, lse_BN: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and g.

    With w_ij = exp(l_ij - lse_i) and dl_ij = w_ij (<dy_i, g_j> - <dy_i, y_i>), as of any softmax:
    dg_j = sum_i w_ij dy_i and dx_i = scale sum_j (dl_ij + dl_ji) x_j.
    """
    # As x lies, so that whatever else is added to it meets no other layout.
    dx_BND, dg_BNE = torch.zeros_like(x_BND), torch.zeros_like(g_BNE)
    mean_BN = (dy_BNE * y_BNE).sum(2)
    for entry, rows, later, panel, (weights, dlogits) in _panels(x_BND, scale, num_spare=2):
        x, g, dy, lse, mean = x_BND[entry], g_BNE[entry], dy_BNE[entry], lse_BN[entry], mean_BN[entry]
        dx, dg = dx_BND[entry], dg_BNE[entry]
        count, columns = panel.shape[0], slice(rows.start, None)
        weights, dlogits = _as_matrix(weights, *panel.shape), _as_matrix(dlogits, *panel.shape)
        torch.sub(panel, lse[rows].unsqueeze(1), out=weights).exp_()
        dg[columns].addmm_(weights.t(), dy[rows])
        torch.mm(dy[rows], g[columns].t(), out=dlogits).sub_(mean[rows].unsqueeze(1)).mul_(weights)
        # The other role, of later queries and this block's keys, transposed.
        crossed = panel[:, count:].sub_(lse[later]).exp_()
        dg[rows].addmm_(crossed, dy[later])
        dcrossed = _as_matrix(weights, *crossed.shape)
        torch.mm(g[rows], dy[later].t(), out=dcrossed).sub_(mean[later]).mul_(crossed)
        dlogits[:, count:] += dcrossed
        dlogits[:, :count] += dlogits[:, :count].t().clone()
        dx[rows].addmm_(dlogits, x[columns])
        dx[later].addmm_(dlogits[:, count:].t(), x[rows])
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


def _panels(
    x_BND: Tensor, scale: float, *, num_spare: int
) -> Iterator[tuple[int, slice, slice, Tensor, list[Tensor]]]:
    """Yield (batch entry, a block of queries, all later ones, their panel of logits, spare numbers for more).

    The tensors are overwritten by the next panel.
    """
    batch, num_positions, _ = x_BND.shape
    # Never all queries at once, however small the map: that would be the N x N tensor.
    most = max(1, min(_BLOCK_QUERIES, _PANEL_NUMBERS // max(1, num_positions), -(-num_positions // 4)))
    numbers, *spare = x_BND.new_empty(1 + num_spare, most * num_positions)
    for entry in range(batch):
        x = x_BND[entry]
        for start in range(0, num_positions, most):
            rows, later = slice(start, min(start + most, num_positions)), slice(start + most, None)
            panel = _as_matrix(numbers, rows.stop - start, num_positions - start)
            torch.mm(x[rows], x[start:].t(), out=panel)
            yield entry, rows, later, panel if scale == 1.0 else panel.mul_(scale), spare


def _as_matrix(numbers: Tensor, num_rows: int, num_columns: int) -> Tensor:
    """Return the first of some numbers as a contiguous matrix."""
    return numbers.flatten()[: num_rows * num_columns].view(num_rows, num_columns)
