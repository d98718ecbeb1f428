"""Softmax averages by tiles of logits that stay in the cache, forward and backward, on the CPU.

A tile is a matrix product of some queries and some keys. All that is done to its numbers, from the logits to
the gradients, is done while they are in the second-level cache: over a whole block of rows the same passes
took three times as long. Exponentials are powers of 2, and never of so negative a number that the result
would be 0 or subnormal: the exponential of PyTorch takes 13 times as long where it underflows, and products
of subnormal numbers are slow on many processors. So the time does not depend on how large the logits are.

Of a map with itself the logits are symmetric. A tile on one side of the diagonal then serves both: its rows
are averaged for its queries and its columns for its keys.

Entries of a batch whose maps are small share a tile: one by one 64 maps of 14 x 14 took several times as
long.

Shapes: B entries, N queries, M keys, D embedding channels, E value channels; R queries and S keys of a tile.
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


def bundles(theta_BND: Tensor, phi_BMD: Tensor) -> Iterator[tuple[slice, int]]:
    """Yield which entries are computed together, and how many queries, or keys, a tile of theirs has at most.

    Several share a tile where it holds all pairs of each. Never all pairs of the batch, however few they are:
    that would be the N x M tensor.
    """
    (batch, num_queries, _), num_keys = theta_BND.shape, phi_BMD.shape[1]
    num_pairs = num_queries * num_keys
    shortest, longest = sorted((num_queries, num_keys))
    most = min(_TILE_BYTES * torch.get_num_threads(), _MOST_TILE_BYTES) // theta_BND.element_size()
    most = max(1, min(most, batch * num_pairs // 8))
    step = max(1, most // max(1, num_pairs))
    side = longest if step > 1 else max(math.isqrt(most), most // max(1, shortest))
    if _ROW < side < longest:
        # Rows that begin at multiples of a cache line, and no small rest.
        side = min(side // _ROW, -(-longest // -(-longest // side) // _ROW)) * _ROW
    for first in range(0, batch, step):
        yield slice(first, min(first + step, batch)), side


def average(
    y_BNE: Tensor,
    lse_BN: Tensor,
    theta_BND: Tensor,
    phi_BMD: Tensor,
    g_BME: Tensor,
    *,
    scale: float,
    side: int,
    key_mask_BM: Tensor | None = None,
    symmetric: bool = False,
) -> None:
    """Write softmax(scale theta phi^T) g to y, and the log-sum-exp of each query to lse.

    Args:
        y_BNE: As the next, where the result goes.
        lse_BN: Natural logarithms.
        theta_BND: Queries of one of the :func:`bundles`.
        phi_BMD: Keys, at least one.
        g_BME: Values; those of masked keys are zero.
        scale: Factor on the logits.
        side: Of the tiles, as :func:`bundles` says.
        key_mask_BM: Which keys take part, at least one of each entry. The others weigh 2^-100 of the largest.
        symmetric: theta and phi are one tensor.
    """
    theta_BND, phi_BMD = in_rows(theta_BND) * 2 if symmetric else in_rows(theta_BND, phi_BMD)
    (g_BME,) = in_rows(g_BME)
    y_BNE.zero_()
    sum_BN = torch.zeros_like(lse_BN)
    # 2^(logit - reference) is summed. Any number serves that is not far from the largest logit: that of a
    # query with itself mostly is not, and of other keys the first tile tells it.
    own_BN = (
        theta_BND.square().sum(2) * (scale * _LOG2_E) if symmetric else torch.full_like(lse_BN, -torch.inf)
    )
    reference_BN = own_BN.clamp_(min=torch.finfo(own_BN.dtype).min)
    least = least_exponent(y_BNE.dtype)
    given = theta_BND, phi_BMD, scale, side, key_mask_BM
    for rows, columns, logits, (weights,) in _tiles(*given, symmetric=symmetric, num_spare=1):
        is_mirrored = symmetric and columns.start > rows.start
        for queries, keys, dim in ((rows, columns, 2), (columns, rows, 1))[: 1 + is_mirrored]:
            y, sums, reference = y_BNE[:, queries], sum_BN[:, queries], reference_BN[:, queries]
            largest = logits.amax(dim)
            # Also where there is no number: it then comes to the result.
            if not bool((largest <= reference + _HEADROOM).all()):
                raised = torch.maximum(reference, largest)
                shrink = (reference - raised).exp2_()
                sums.mul_(shrink)
                y.mul_(shrink.unsqueeze(2))
                reference.copy_(raised)
            torch.sub(logits, reference.unsqueeze(dim), out=weights).clamp_(min=least).exp2_()
            sums.add_(weights.sum(dim))
            add_product_(y, weights if dim == 2 else weights.mT, g_BME[:, keys])
    y_BNE /= sum_BN.unsqueeze(2)
    torch.add(sum_BN.log2_(), reference_BN, out=lse_BN).div_(_LOG2_E)


def add_gradients(
    gradients: tuple[Tensor, Tensor, Tensor],
    dy_BNE: Tensor,
    theta_BND: Tensor,
    phi_BMD: Tensor,
    g_BME: Tensor,
    y_BNE: Tensor,
    lse_BN: Tensor,
    *,
    scale: float,
    side: int,
    key_mask_BM: Tensor | None = None,
    symmetric: bool = False,
) -> None:
    """Add the gradients of theta, phi and g to tensors that hold zeros, those of theta and phi unscaled.

    With w_ij = exp(l_ij - lse_i) and dl_ij = w_ij (<dy_i, g_j> - <dy_i, y_i>), as of any softmax:
    dg_j = sum_i w_ij dy_i, dtheta_i = sum_j dl_ij phi_j and dphi_j = sum_i dl_ij theta_i.

    Args:
        gradients: Of theta, phi and g; of a map with itself the first two are one tensor.
        dy_BNE: The gradient of y.
        theta_BND: As what follows, what :func:`average` took and gave.
        phi_BMD: Keys.
        g_BME: Values.
        y_BNE: Averages.
        lse_BN: Log-sum-exp.
        scale: Factor on the logits.
        side: Of the tiles, as :func:`bundles` says.
        key_mask_BM: Which keys take part.
        symmetric: theta and phi are one tensor.
    """
    dtheta_BND, dphi_BMD, dg_BME = gradients
    theta_BND, phi_BMD = in_rows(theta_BND) * 2 if symmetric else in_rows(theta_BND, phi_BMD)
    dy_BNE, g_BME = in_rows(dy_BNE, g_BME)
    mean_BN, reference_BN = (dy_BNE * y_BNE).sum(2), lse_BN * _LOG2_E
    least = least_exponent(dy_BNE.dtype)
    given = theta_BND, phi_BMD, scale, side, key_mask_BM
    for rows, columns, logits, spare in _tiles(*given, symmetric=symmetric, num_spare=2):
        weights, dlogits = spare
        torch.sub(logits, reference_BN[:, rows].unsqueeze(2), out=weights).clamp_(min=least).exp2_()
        add_product_(dg_BME[:, columns], weights.mT, dy_BNE[:, rows])
        dlogits = multiply_into(dlogits, dy_BNE[:, rows], g_BME[:, columns].mT)
        dlogits.sub_(mean_BN[:, rows].unsqueeze(2)).mul_(weights)
        if symmetric and columns.start > rows.start:
            # The keys as queries, transposed: of a logit that serves both, both gradients are added.
            crossed = logits.sub_(reference_BN[:, None, columns]).clamp_(min=least).exp2_()
            add_product_(dg_BME[:, rows], crossed, dy_BNE[:, columns])
            weights = multiply_into(weights, g_BME[:, rows], dy_BNE[:, columns].mT)
            dlogits.addcmul_(weights.sub_(mean_BN[:, None, columns]), crossed)
        add_product_(dtheta_BND[:, rows], dlogits, phi_BMD[:, columns])
        add_product_(dphi_BMD[:, columns], dlogits.mT, theta_BND[:, rows])


def _tiles(
    theta_BND: Tensor,
    phi_BMD: Tensor,
    scale: float,
    side: int,
    key_mask_BM: Tensor | None,
    *,
    symmetric: bool,
    num_spare: int,
) -> Iterator[tuple[slice, slice, Tensor, list[Tensor]]]:
    """Yield (queries, keys, their logits by the base 2, other tensors of their shape), tile by tile.

    Those of a map with itself are the tiles on the diagonal and on one side of it. The tensors are
    overwritten by the next tile.
    """
    (batch, num_queries, _), num_keys = theta_BND.shape, phi_BMD.shape[1]
    most = min(side, num_queries) * min(side, num_keys)
    numbers = theta_BND.new_empty(1 + num_spare, batch * most)
    for first in range(0, num_queries, side):
        rows = slice(first, min(first + side, num_queries))
        for start in range(first if symmetric else 0, num_keys, side):
            columns = slice(start, min(start + side, num_keys))
            shape = batch, rows.stop - first, columns.stop - start
            logits, *spare = numbers[:, : math.prod(shape)].view(-1, *shape).unbind()
            logits = multiply_into(logits, theta_BND[:, rows], phi_BMD[:, columns].mT, scale * _LOG2_E)
            if key_mask_BM is not None:
                logits.masked_fill_(~key_mask_BM[:, None, columns], -torch.inf)
            yield rows, columns, logits, spare


def least_exponent(dtype: torch.dtype) -> float:
    """Return the least exponent of 2 that is taken: far below rounding, and far above subnormal numbers.

    Four fifths of the way to the smallest normal number, -100 in float32: a product of such a weight and
    what it weighs is a normal number as well.
    """
    return 0.8 * math.log2(torch.finfo(dtype).tiny)
