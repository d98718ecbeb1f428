"""Softmax averages by tiles of logits that stay in the cache, forward and backward, on the CPU.

A tile is a matrix product of some queries and some keys. All that is done to its numbers, from the logits to
the gradients, is done while they are in the second-level cache: over a whole block of rows the same passes
took three times as long. Exponentials are powers of 2, and never of so negative a number that the result
would be 0 or subnormal: the exponential of PyTorch takes 13 times as long where it underflows, and products
of subnormal numbers are slow on many processors. So the time does not depend on how large the logits are.

Of a map with itself the logits are symmetric. A tile on one side of the diagonal then serves both: its rows
are averaged for its queries and its columns for its keys.

Shapes: N queries, M keys, D embedding channels, E value channels; R queries and S keys of a tile.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from nonlocalnn.functional.products import add_product_, in_rows, multiply_into

# 384 x 384 numbers in float32: about what the second-level cache of a core holds, 512 KiB on the processor
# measured, 2 MiB on others. Fewer cost calls and speed of the matrix products, and more no less time.
_TILE_BYTES = 4 * 384**2
# Of several threads each has its part of a tile in a cache of its own. More than 32 MiB would be noticed in
# memory.
_MOST_TILE_BYTES = 2**25
_ROW = 64
_LOG2_E = 1 / math.log(2)
# Powers of 2 up to this one need no new reference: sums of millions of them are far from overflow.
_HEADROOM = 16.0


def average(
    y_NE: Tensor,
    lse_N: Tensor,
    theta_ND: Tensor,
    phi_MD: Tensor,
    g_ME: Tensor,
    *,
    scale: float,
    symmetric: bool = False,
) -> None:
    """Write softmax(scale theta phi^T) g to y, and the log-sum-exp of each query to lse.

    Args:
        y_NE: As the next, where the result goes.
        lse_N: Natural logarithms.
        theta_ND: Queries.
        phi_MD: Keys, at least one.
        g_ME: Values.
        scale: Factor on the logits.
        symmetric: theta and phi are one tensor.
    """
    theta_ND, phi_MD = in_rows(theta_ND) * 2 if symmetric else in_rows(theta_ND, phi_MD)
    (g_ME,) = in_rows(g_ME)
    y_NE.zero_()
    sum_N = torch.zeros_like(lse_N)
    # 2^(logit - reference) is summed. Any number serves that is not far from the largest logit: that of a
    # query with itself mostly is not, and of other keys the first tile tells it.
    own_N = theta_ND.square().sum(1) * (scale * _LOG2_E) if symmetric else torch.full_like(lse_N, -torch.inf)
    reference_N = own_N.clamp_(min=torch.finfo(own_N.dtype).min)
    least = least_exponent(y_NE.dtype)
    for rows, columns, logits, (weights,) in _tiles(theta_ND, phi_MD, scale, symmetric, num_spare=1):
        is_mirrored = symmetric and columns.start > rows.start
        for queries, keys, dim in ((rows, columns, 1), (columns, rows, 0))[: 1 + is_mirrored]:
            y, sums, reference = y_NE[queries], sum_N[queries], reference_N[queries]
            largest = logits.amax(dim)
            # Also where there is no number: it then comes to the result.
            if not bool((largest <= reference + _HEADROOM).all()):
                raised = torch.maximum(reference, largest)
                shrink = (reference - raised).exp2_()
                sums.mul_(shrink)
                y.mul_(shrink.unsqueeze(1))
                reference.copy_(raised)
            torch.sub(logits, reference.unsqueeze(dim), out=weights).clamp_(min=least).exp2_()
            sums.add_(weights.sum(dim))
            add_product_(y, weights if dim == 1 else weights.t(), g_ME[keys])
    y_NE /= sum_N.unsqueeze(1)
    torch.add(sum_N.log2_(), reference_N, out=lse_N).div_(_LOG2_E)


def add_gradients(
    gradients: tuple[Tensor, Tensor, Tensor],
    dy_NE: Tensor,
    theta_ND: Tensor,
    phi_MD: Tensor,
    g_ME: Tensor,
    y_NE: Tensor,
    lse_N: Tensor,
    *,
    scale: float,
    symmetric: bool = False,
) -> None:
    """Add the gradients of theta, phi and g to tensors that hold zeros, those of theta and phi unscaled.

    With w_ij = exp(l_ij - lse_i) and dl_ij = w_ij (<dy_i, g_j> - <dy_i, y_i>), as of any softmax:
    dg_j = sum_i w_ij dy_i, dtheta_i = sum_j dl_ij phi_j and dphi_j = sum_i dl_ij theta_i.

    Args:
        gradients: Of theta, phi and g; of a map with itself the first two are one tensor.
        dy_NE: The gradient of y.
        theta_ND: As what follows, what :func:`average` took and gave.
        phi_MD: Keys.
        g_ME: Values.
        y_NE: Averages.
        lse_N: Log-sum-exp.
        scale: Factor on the logits.
        symmetric: theta and phi are one tensor.
    """
    dtheta_ND, dphi_MD, dg_ME = gradients
    theta_ND, phi_MD = in_rows(theta_ND) * 2 if symmetric else in_rows(theta_ND, phi_MD)
    dy_NE, g_ME = in_rows(dy_NE, g_ME)
    mean_N, reference_N = (dy_NE * y_NE).sum(1), lse_N * _LOG2_E
    least = least_exponent(dy_NE.dtype)
    for rows, columns, logits, spare in _tiles(theta_ND, phi_MD, scale, symmetric, num_spare=2):
        weights, dlogits = spare
        torch.sub(logits, reference_N[rows].unsqueeze(1), out=weights).clamp_(min=least).exp2_()
        add_product_(dg_ME[columns], weights.t(), dy_NE[rows])
        dlogits = multiply_into(dlogits, dy_NE[rows], g_ME[columns].t())
        dlogits.sub_(mean_N[rows].unsqueeze(1)).mul_(weights)
        if symmetric and columns.start > rows.start:
            # The keys as queries, transposed: of a logit that serves both, both gradients are added.
            crossed = logits.sub_(reference_N[columns]).clamp_(min=least).exp2_()
            add_product_(dg_ME[rows], crossed, dy_NE[columns])
            weights = multiply_into(weights, g_ME[rows], dy_NE[columns].t())
            dlogits.addcmul_(weights.sub_(mean_N[columns]), crossed)
        add_product_(dtheta_ND[rows], dlogits, phi_MD[columns])
        add_product_(dphi_MD[columns], dlogits.t(), theta_ND[rows])


def _tiles(
    theta_ND: Tensor, phi_MD: Tensor, scale: float, symmetric: bool, *, num_spare: int
) -> Iterator[tuple[slice, slice, Tensor, list[Tensor]]]:
    """Yield (queries, keys, their logits by the base 2, other tensors of their shape), tile by tile.

    Those of a map with itself are the tiles on the diagonal and on one side of it. The tensors are
    overwritten by the next tile.
    """
    num_queries, num_keys = theta_ND.shape[0], phi_MD.shape[0]
    num_bytes = min(_TILE_BYTES * torch.get_num_threads(), _MOST_TILE_BYTES)
    side = math.isqrt(num_bytes // theta_ND.element_size())
    # Never all pairs at once, however small the map: that would be the N x M tensor.
    side = max(1, min(side, -(-num_queries // 4)))
    # Rows that begin at multiples of a cache line.
    side = side if side < _ROW else side // _ROW * _ROW
    numbers = theta_ND.new_empty(1 + num_spare, side * side)
    for first in range(0, num_queries, side):
        rows = slice(first, min(first + side, num_queries))
        for start in range(first if symmetric else 0, num_keys, side):
            columns = slice(start, min(start + side, num_keys))
            shape = rows.stop - first, columns.stop - start
            logits, *spare = numbers[:, : shape[0] * shape[1]].view(-1, *shape).unbind()
            logits = multiply_into(logits, theta_ND[rows], phi_MD[columns].t(), scale * _LOG2_E)
            yield rows, columns, logits, spare


def least_exponent(dtype: torch.dtype) -> float:
    """Return the least exponent of 2 that is taken: far below rounding, and far above subnormal numbers.

    Four fifths of the way to the smallest normal number, -100 in float32: a product of such a weight and
    what it weighs is a normal number as well.
    """
    return 0.8 * math.log2(torch.finfo(dtype).tiny)
