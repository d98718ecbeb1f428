"""What processes that share the positions of a batch tell each other.

Shapes: B batch, M keys of this rank, K numbers a key, D embedding channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


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
    def of(cls, phi_BMD: Tensor, num_values: int, group: dist.ProcessGroup, *, masked: bool = False) -> Ranks:
        """Return the ranks after they have told each other how many keys they hold.

        Raises:
            ValueError: They differ in anything else, or none holds a key; raised on every rank.
        """
        batch, num_keys, width = phi_BMD.shape
        mine = torch.tensor(
            [num_keys, batch, width, num_values, phi_BMD.element_size(), int(masked)], device=phi_BMD.device
        )
        rows = [torch.empty_like(mine) for _ in range(group.size())]
        dist.all_gather(rows, mine, group=group)
        counts, *shared = torch.stack(rows).cpu().unbind(1)
        names = ("batch size", "D", "E", "bytes a number", "number of key masks, 0 or 1 each")
        for name, values in zip(names, shared, strict=True):
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


def summed(part: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Return the sum of a tensor that every rank has, with gradients."""
    total: Tensor = _Summed.apply(part, group)
    return total


def gathered(part_BMK: Tensor, ranks: Ranks) -> Tensor:
    """Return the keys of all ranks, one rank's after another's, with gradients."""
    keys_BMK: Tensor = _Gathered.apply(part_BMK, ranks)
    return keys_BMK


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
