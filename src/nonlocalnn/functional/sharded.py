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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from nonlocalnn.functional import concatenation

# Logits that are computed at a time: 4 MiB in float32, of which the backward pass has a handful. More would
# be as much as a rank's share of a large map.
_BLOCK_NUMBERS = 2**20


@dataclass(frozen=True)
class Ranks:
    """The processes that hold the positions of one batch, seen from one of them.

    Args:
        group: The process group.
        counts: Keys of each rank.
    """

    group: dist.ProcessGroup
    counts: tuple[int, ...]

    @classmethod
    def of(cls, phi_BMD: Tensor, num_values: int, group: dist.ProcessGroup) -> Ranks:
        """Return the ranks after they have told each other how many keys they hold.

        Raises:
            ValueError: They differ in anything else, or none holds a key; raised on every rank.
        """
        batch, num_keys, width = phi_BMD.shape
        mine = torch.tensor(
            [num_keys, batch, width, num_values, phi_BMD.element_size()], device=phi_BMD.device
        )
        rows = [torch.empty_like(mine) for _ in range(group.size())]
        dist.all_gather(rows, mine, group=group)
        counts, *shared = torch.stack(rows).cpu().unbind(1)
        for name, values in zip(("batch size", "D", "E", "bytes a number"), shared, strict=True):
            if int(values.min()) != int(values.max()):
                raise ValueError(f"all ranks must have one {name}; they have {values.tolist()}")
        if int(counts.sum()) == 0:
            raise ValueError("phi must hold at least one key on some rank; got none")
        return cls(group, tuple(counts.tolist()))

    @property
    def rank(self) -> int:
        """This process's number in the group."""
        return self.group.rank()

    @property
    def size(self) -> int:
        """Number of processes."""
        return self.group.size()

    def peer(self, distance: int) -> int:
        """Return the process that is ``distance`` further along the ring, as the world numbers it."""
        return dist.get_global_rank(self.group, (self.rank + distance) % self.size)

    def pass_on(self, sent: Tensor, received: Tensor) -> list[dist.Work]:
        """Begin to send a tensor to the next rank and to receive one from the rank before."""
        operations = []
        if sent.numel():
            operations.append(dist.P2POp(dist.isend, sent, self.peer(1), self.group))
        if received.numel():
            operations.append(dist.P2POp(dist.irecv, received, self.peer(-1), self.group))
        works: list[dist.Work] = dist.batch_isend_irecv(operations) if operations else []
        return works


def non_local(
    theta_BND: Tensor,
    phi_BMD: Tensor,
    g_BME: Tensor,
    w_f_2D: Tensor | None,
    *,
    instantiation: str,
    scale: float,
    group: dist.ProcessGroup,
) -> Tensor:
    """Return y of this rank's queries over the keys of all ranks, (B, N, E), in the type of g."""
    if instantiation == "concatenation":
        assert w_f_2D is not None
        wide = torch.promote_types(theta_BND.dtype, torch.float32)
        w_theta, w_phi = w_f_2D.to(wide).chunk(2)
        a_BN, b_BM = theta_BND.to(wide) @ w_theta, phi_BMD.to(wide) @ w_phi
        return rectified_non_local(a_BN, b_BM, g_BME, process_group=group).to(g_BME.dtype)
    ranks = Ranks.of(phi_BMD, g_BME.shape[2], group)
    if instantiation == "dot_product":
        wide = torch.promote_types(g_BME.dtype, torch.float32)
        phi_g_BDE = _Summed.apply(phi_BMD.to(wide).transpose(1, 2) @ g_BME.to(wide), group)
        return (theta_BND.to(wide) @ (phi_g_BDE / sum(ranks.counts))).to(g_BME.dtype)
    keys_BMK = torch.cat([phi_BMD, g_BME], 2)
    y_BNE: Tensor = _Ring.apply(theta_BND, keys_BMK, scale, ranks)
    return y_BNE.to(g_BME.dtype)


def rectified_non_local(
    a_BN: Tensor, b_BM: Tensor, g_BME: Tensor, *, process_group: dist.ProcessGroup | None
) -> Tensor:
    """Return the concatenation form's y from its two scalars a position, over the keys of all ranks.

    Without a group it is :func:`nonlocalnn.functional.concatenation.rectified_non_local` itself.
    """
    if process_group is None:
        return concatenation.rectified_non_local(a_BN, b_BM, g_BME)
    ranks = Ranks.of(b_BM.unsqueeze(2), g_BME.shape[2], process_group)
    keys_BMK = _Gathered.apply(torch.cat([b_BM.unsqueeze(2), g_BME], 2), ranks)
    return concatenation.rectified_non_local(
        a_BN, keys_BMK[..., 0].contiguous(), keys_BMK[..., 1:].contiguous()
    )


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


class _Summed(torch.autograd.Function):
    """A sum over ranks; so is its gradient, since every rank uses the sum."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        total = part.contiguous().clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


class _Gathered(torch.autograd.Function):
    """The positions (B, M, K) of all ranks, one rank's after another's."""

    @staticmethod
    def forward(ctx: Any, part_BMK: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        most = max(ranks.counts)
        # Collectives want equal shares; those of a smaller rank are filled up and cut off again.
        padded = part_BMK.new_zeros(part_BMK.shape[0], most, part_BMK.shape[2])
        padded[:, : part_BMK.shape[1]] = part_BMK
        parts = [torch.empty_like(padded) for _ in ranks.counts]
        dist.all_gather(parts, padded, group=ranks.group)
        return torch.cat([part[:, :count] for part, count in zip(parts, ranks.counts, strict=True)], 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ranks: Ranks = ctx.ranks
        most = max(ranks.counts)
        padded = gradient.new_zeros(ranks.size, gradient.shape[0], most, gradient.shape[2])
        for place, part in zip(padded, gradient.split(list(ranks.counts), 1), strict=True):
            place[:, : part.shape[1]] = part
        mine = torch.empty_like(padded[0])
        dist.reduce_scatter_tensor(mine, padded.flatten(0, 1), group=ranks.group)
        return mine[:, : ranks.counts[ranks.rank]], None


class _Ring(torch.autograd.Function):
    """softmax(scale theta phi^T) g, with phi and g, joined to keys (B, M, D + E), passed round the ranks."""

    @staticmethod
    def forward(ctx: Any, theta_BND: Tensor, keys_BMK: Tensor, scale: float, ranks: Ranks) -> Tensor:
        dtype = torch.promote_types(theta_BND.dtype, torch.float32)
        batch, num_queries, width = theta_BND.shape
        y_BNE = theta_BND.new_zeros(batch, num_queries, keys_BMK.shape[2] - width, dtype=dtype)
        total_BN1 = theta_BND.new_zeros(batch, num_queries, 1, dtype=dtype)
        largest_BN1 = torch.full_like(total_BN1, -torch.inf)
        for keys in _round(keys_BMK.contiguous(), ranks):
            for rows, logits in _logits(theta_BND, keys[..., :width], scale, dtype):
                top = torch.maximum(largest_BN1[:, rows], logits.amax(2, keepdim=True))
                shrink = torch.exp(largest_BN1[:, rows] - top)
                weights = torch.exp(logits.sub_(top))
                total_BN1[:, rows] = total_BN1[:, rows] * shrink + weights.sum(2, keepdim=True)
                y_BNE[:, rows] = y_BNE[:, rows] * shrink + weights @ keys[..., width:].to(dtype)
                largest_BN1[:, rows] = top
        y_BNE /= total_BN1
        ctx.save_for_backward(theta_BND, keys_BMK, y_BNE, largest_BN1 + total_BN1.log())
        ctx.scale, ctx.ranks = scale, ranks
        return y_BNE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_BNE: Tensor) -> tuple[Tensor, Tensor, None, None]:
        theta_BND, keys_BMK, y_BNE, log_sum_BN1 = ctx.saved_tensors
        ranks: Ranks = ctx.ranks
        width, dtype = theta_BND.shape[2], y_BNE.dtype
        mean_BN1 = (dy_BNE * y_BNE).sum(2, keepdim=True)
        dtheta_BND = torch.zeros_like(theta_BND, dtype=dtype)
        # The gradients of a share travel with it, and one step more: back to where it belongs.
        dkeys = torch.zeros_like(keys_BMK, dtype=dtype)
        for step, keys in enumerate(_round(keys_BMK.contiguous(), ranks)):
            phi, g = keys[..., :width].to(dtype), keys[..., width:].to(dtype)
            for rows, logits in _logits(theta_BND, keys[..., :width], ctx.scale, dtype):
                weights = torch.exp(logits.sub_(log_sum_BN1[:, rows]))
                dy = dy_BNE[:, rows]
                dkeys[..., width:] += weights.transpose(1, 2) @ dy
                dlogits = weights.mul_(dy @ g.transpose(1, 2) - mean_BN1[:, rows]).mul_(ctx.scale)
                dtheta_BND[:, rows] += dlogits @ phi
                dkeys[..., :width] += dlogits.transpose(1, 2) @ theta_BND[:, rows].to(dtype)
            dkeys = _passed(dkeys, ranks, step)
        return dtheta_BND.to(theta_BND.dtype), dkeys.to(keys_BMK.dtype), None, None


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


def _logits(
    theta_BND: Tensor, phi_BMD: Tensor, scale: float, dtype: torch.dtype
) -> Iterator[tuple[slice, Tensor]]:
    """Yield (queries, their logits with these keys), block by block; nothing where there is no key."""
    batch, num_queries, _ = theta_BND.shape
    num_keys = phi_BMD.shape[1]
    if not num_keys:
        return
    phi_BDM = phi_BMD.to(dtype).transpose(1, 2)
    most = max(1, _BLOCK_NUMBERS // max(1, batch * num_keys))
    for start in range(0, num_queries, most):
        rows = slice(start, min(start + most, num_queries))
        yield rows, (theta_BND[:, rows].to(dtype) @ phi_BDM).mul_(scale)
