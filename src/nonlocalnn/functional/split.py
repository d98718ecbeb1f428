"""Eq. (1) with the positions split over processes: each holds some of the queries and some of the keys.

What moves between them, for N queries, M keys, D embedding and E value channels over R ranks:

- gaussian, embedded Gaussian: keys and values go round a ring, and each rank adds up its queries' sums under
  a running maximum. A rank holds its own share and one more. Gathering all keys would move as much and hold
  all of them.
- dot product: phi^T g, D x E numbers, is summed over the ranks.
- concatenation: b and g of all keys are gathered, M (E + 1) numbers. The other way, every rank's sums for all
  queries, would move N E: no fewer, as there are never more keys than queries.

Shapes: B batch, N queries, M keys of this rank, D embedding channels, E value channels.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from nonlocalnn.functional import concatenation
from nonlocalnn.functional.exchange import Ranks, gathered, summed
from nonlocalnn.functional.reference import number_of_keys
from nonlocalnn.functional.ring import ring_softmax


def non_local(
    theta_BND: Tensor,
    phi_BMD: Tensor,
    g_BME: Tensor,
    *,
    instantiation: str,
    scale: float,
    key_mask_BM: Tensor | None,
    group: dist.ProcessGroup,
) -> Tensor:
    """Return y of this rank's queries over the keys of all ranks, (B, N, E), in the type of g.

    Of all forms but the concatenation, which is :func:`rectified_non_local`. What a masked key holds must be
    zero. All ranks give a mask of their own keys, or none does.
    """
    ranks = Ranks.of(phi_BMD, g_BME.shape[2], group, masked=key_mask_BM is not None)
    wide = torch.promote_types(g_BME.dtype, torch.float32)
    if instantiation == "dot_product":
        phi_g_BDE = summed(phi_BMD.to(wide).transpose(1, 2) @ g_BME.to(wide), group)
        count = sum(ranks.counts) if key_mask_BM is None else _number_of_keys(key_mask_BM, group)
        y_BNE = theta_BND.to(wide) @ (phi_g_BDE / count)
    else:
        y_BNE = ring_softmax(theta_BND, phi_BMD, g_BME, scale=scale, key_mask_BM=key_mask_BM, ranks=ranks)
    return y_BNE.to(g_BME.dtype)


def rectified_non_local(
    a_BN: Tensor,
    b_BM: Tensor,
    g_BME: Tensor,
    *,
    key_mask_BM: Tensor | None = None,
    process_group: dist.ProcessGroup | None,
    engine: str = "auto",
) -> Tensor:
    """Return the concatenation form's y from its two scalars a position, over the keys of all ranks.

    Without a group it is :func:`nonlocalnn.functional.concatenation.rectified_non_local` itself. All
    ranks give a mask of their own keys, or none does.
    """
    if key_mask_BM is not None:
        # A masked key adds nothing then, wherever it is sorted.
        b_BM, g_BME = b_BM.masked_fill(~key_mask_BM, 0.0), g_BME.masked_fill(~key_mask_BM.unsqueeze(2), 0.0)
    if process_group is None:
        count_B11 = None if key_mask_BM is None else number_of_keys(key_mask_BM)
        return concatenation.rectified_non_local(a_BN, b_BM, g_BME, count_B11=count_B11, engine=engine)
    is_masked = key_mask_BM is not None
    ranks = Ranks.of(b_BM.unsqueeze(2), g_BME.shape[2], process_group, masked=is_masked)
    count_B11 = None if key_mask_BM is None else _number_of_keys(key_mask_BM, process_group)
    # Gathered, because on a ring each rank would sort its queries anew for every share of keys.
    keys_BMK = gathered(torch.cat([b_BM.unsqueeze(2), g_BME], 2), ranks)
    b_BM, g_all = keys_BMK[..., 0].contiguous(), keys_BMK[..., 1:].contiguous()
    return concatenation.rectified_non_local(a_BN, b_BM, g_all, count_B11=count_B11).to(g_BME.dtype)


def _number_of_keys(key_mask_BM: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Return the keys that take part on all ranks, (B, 1, 1), and 1 where there is none: 0 / C is 0 there."""
    count_B = key_mask_BM.sum(1)
    dist.all_reduce(count_B, group=group)
    return count_B.clamp(min=1)[:, None, None]


def bytes_moved(
    instantiation: str, *, num_queries: int, num_keys: int, width: int, num_values: int, num_ranks: int
) -> int:
    """Return the float32 bytes that each rank sends in a forward and a backward pass of one sample.

    Args:
        instantiation: The pairwise function.
        num_queries: N over all ranks.
        num_keys: M over all ranks.
        width: D.
        num_values: E.
        num_ranks: R, each with an equal share.

    Example:
        >>> sizes = {"num_queries": 50176, "num_keys": 12544, "width": 32, "num_values": 32, "num_ranks": 4}
        >>> bytes_moved("dot_product", **sizes), bytes_moved("embedded_gaussian", **sizes)
        (12288, 8028160)
    """
    others = num_ranks - 1
    if instantiation == "dot_product":
        # A sum over a ring, D x E numbers there and back, in both passes.
        return 4 * 2 * 2 * width * num_values * others // num_ranks
    if instantiation == "concatenation":
        return 4 * 2 * num_keys * (num_values + 1) * others // num_ranks
    share = num_keys * (width + num_values) // num_ranks
    # Forward: the keys past every other rank. Backward: the same, and their gradients all the way round.
    return 4 * share * (others + others + num_ranks) if others else 0
