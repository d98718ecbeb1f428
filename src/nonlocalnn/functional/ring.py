"""softmax(scale theta phi^T) g with the keys on several ranks: they go round, and each query adds up.

Every rank keeps, for each of its queries, the largest logit so far and the sums relative to it. The backward
pass computes weights again from the log-sum-exp; the gradients of keys travel with them.

Shapes: B batch, N queries, M keys of one rank, D embedding and E value channels, K = D + E numbers a key, or
one more: what is added to its logits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from nonlocalnn.functional.exchange import Ranks
from nonlocalnn.functional.tiles import least_exponent

# Logits that are computed at a time, of which the backward pass has a handful. On a CPU 1 MiB in float32:
# that stays in the cache and is little beside a rank's share of a large map. Elsewhere 64 MiB: starting a
# small product takes as long as a larger one.
_TILE_NUMBERS, _TILE_NUMBERS_ELSEWHERE = 2**18, 2**24


def ring_softmax(
    theta_BND: Tensor,
    phi_BMD: Tensor,
    g_BME: Tensor,
    *,
    scale: float,
    key_mask_BM: Tensor | None,
    ranks: Ranks,
) -> Tensor:
    """Return y of this rank's queries over the keys of all ranks, (B, N, E), in at least float32.

    What a masked key holds must be zero. Two shares of keys are held at a time, and a block of logits.
    """
    bias = [] if key_mask_BM is None else [_bias(key_mask_BM, g_BME.dtype, ranks)]
    keys_BMK = torch.cat([phi_BMD, g_BME, *bias], 2)
    y_BNE: Tensor = _Ring.apply(theta_BND, keys_BMK, g_BME.shape[2], scale, ranks)
    return y_BNE


def _bias(key_mask_BM: Tensor, dtype: torch.dtype, ranks: Ranks) -> Tensor:
    """Return what is added to the logits of this rank's keys, (B, M, 1): -inf where they are masked.

    An entry without any key on any rank is computed as if it had no mask: its values are zero, and so is
    their average.
    """
    # A sample may have no key on one rank and all of its keys on another.
    has_key_B = key_mask_BM.any(1).to(torch.uint8)
    dist.all_reduce(has_key_B, op=dist.ReduceOp.MAX, group=ranks.group)
    is_out_BM = ~key_mask_BM & has_key_B.bool().unsqueeze(1)
    return torch.zeros_like(is_out_BM, dtype=dtype).masked_fill(is_out_BM, -torch.inf).unsqueeze(2)


class _Ring(torch.autograd.Function):
    """The keys (B, M, K), phi and g and perhaps a bias joined, go round the ranks."""

    @staticmethod
    def forward(
        ctx: Any, theta_BND: Tensor, keys_BMK: Tensor, num_values: int, scale: float, ranks: Ranks
    ) -> Tensor:
        dtype = torch.promote_types(theta_BND.dtype, torch.float32)
        batch, num_queries, _ = theta_BND.shape
        y_BNE = theta_BND.new_zeros(batch, num_queries, num_values, dtype=dtype)
        total_BN1 = theta_BND.new_zeros(batch, num_queries, 1, dtype=dtype)
        # Not -inf: while a query has met masked keys only, -inf - -inf would be NaN.
        largest_BN1 = torch.full_like(total_BN1, torch.finfo(dtype).min)
        for keys in _round(keys_BMK.contiguous(), ranks):
            g = _parts(keys, theta_BND, num_values, dtype)[1]
            for rows, columns, logits in _tiles(theta_BND, keys, num_values, scale, dtype):
                top = torch.maximum(largest_BN1[:, rows], logits.amax(2, keepdim=True))
                shrink = torch.exp(largest_BN1[:, rows] - top)
                weights = _exponentials(logits.sub_(top))
                total_BN1[:, rows] = total_BN1[:, rows] * shrink + weights.sum(2, keepdim=True)
                y_BNE[:, rows] = y_BNE[:, rows] * shrink + weights @ g[:, columns]
                largest_BN1[:, rows] = top
        y_BNE /= total_BN1
        ctx.save_for_backward(theta_BND, keys_BMK, y_BNE, largest_BN1 + total_BN1.log())
        ctx.scale, ctx.ranks = scale, ranks
        return y_BNE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_BNE: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        theta_BND, keys_BMK, y_BNE, log_sum_BN1 = ctx.saved_tensors
        ranks: Ranks = ctx.ranks
        num_values, dtype = y_BNE.shape[2], y_BNE.dtype
        mean_BN1 = (dy_BNE * y_BNE).sum(2, keepdim=True)
        dtheta_BND = torch.zeros_like(theta_BND, dtype=dtype)
        # The gradients of a share travel with it, and one step more: back to where it belongs.
        dkeys = torch.zeros_like(keys_BMK, dtype=dtype)
        for step, keys in enumerate(_round(keys_BMK.contiguous(), ranks)):
            phi, g, _ = _parts(keys, theta_BND, num_values, dtype)
            dphi, dg, _ = _parts(dkeys, theta_BND, num_values, dtype)
            for rows, columns, logits in _tiles(theta_BND, keys, num_values, ctx.scale, dtype):
                weights = _exponentials(logits.sub_(log_sum_BN1[:, rows]))
                dy = dy_BNE[:, rows]
                dg[:, columns] += weights.transpose(1, 2) @ dy
                dweights = (dy @ g[:, columns].transpose(1, 2)).sub_(mean_BN1[:, rows])
                dlogits = weights.mul_(dweights).mul_(ctx.scale)
                dtheta_BND[:, rows] += dlogits @ phi[:, columns]
                dphi[:, columns] += dlogits.transpose(1, 2) @ theta_BND[:, rows].to(dtype)
            dkeys = _passed(dkeys, ranks, step)
        return dtheta_BND.to(theta_BND.dtype), dkeys.to(keys_BMK.dtype), None, None, None


def _exponentials(numbers: Tensor) -> Tensor:
    """Return the exponentials of numbers that may be overwritten, none so small that it underflows.

    Those would take many times as long. What is masked weighs next to nothing then, and its value is zero.
    """
    return numbers.clamp_(min=least_exponent(numbers.dtype) * math.log(2)).exp_()


def _parts(
    keys_BMK: Tensor, theta_BND: Tensor, num_values: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Return phi, g and the bias of keys; the last has no channel where there is no mask."""
    width = theta_BND.shape[2]
    has_bias = keys_BMK.shape[2] - width - num_values
    phi, g, bias = keys_BMK.split([width, num_values, has_bias], 2)
    return phi.to(dtype), g.to(dtype), bias.to(dtype)


def _round(keys_BMK: Tensor, ranks: Ranks) -> Iterator[Tensor]:
    """Yield this rank's share of the keys and then those of the others, the next on its way meanwhile."""
    for step in range(ranks.size):
        works: Sequence[dist.Work] = ()
        coming = keys_BMK
        if step < ranks.size - 1:
            coming = _share_like(keys_BMK, ranks, step + 1)
            works = ranks.pass_on(keys_BMK, coming)
        yield keys_BMK
        for work in works:
            work.wait()
        keys_BMK = coming


def _passed(dkeys_BMK: Tensor, ranks: Ranks, step: int) -> Tensor:
    """Return the gradients of the share that comes next."""
    if ranks.size == 1:
        return dkeys_BMK
    coming = _share_like(dkeys_BMK, ranks, step + 1)
    for work in ranks.pass_on(dkeys_BMK.contiguous(), coming):
        work.wait()
    return coming


def _share_like(keys_BMK: Tensor, ranks: Ranks, step: int) -> Tensor:
    """Return room for the share that reaches this rank after ``step`` steps."""
    count = ranks.counts[(ranks.rank - step) % ranks.size]
    return keys_BMK.new_empty(keys_BMK.shape[0], count, keys_BMK.shape[2])


def _tiles(
    theta_BND: Tensor, keys_BMK: Tensor, num_values: int, scale: float, dtype: torch.dtype
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield (some of the queries, some of the keys, their logits) until all pairs were there."""
    phi_BMD, _, bias_BM1 = _parts(keys_BMK, theta_BND, num_values, dtype)
    numbers = _TILE_NUMBERS if theta_BND.device.type == "cpu" else _TILE_NUMBERS_ELSEWHERE
    side = max(1, math.isqrt(numbers // max(1, theta_BND.shape[0])))
    for rows in _slices(theta_BND.shape[1], side):
        theta = theta_BND[:, rows].to(dtype)
        for columns in _slices(keys_BMK.shape[1], side):
            logits = (theta @ phi_BMD[:, columns].transpose(1, 2)).mul_(scale)
            if bias_BM1.shape[2]:
                logits += bias_BM1[:, columns].transpose(1, 2)
            yield rows, columns, logits


def _slices(length: int, most: int) -> Iterator[slice]:
    for start in range(0, length, most):
        yield slice(start, min(start + most, length))
