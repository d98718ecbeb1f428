"""One training run on several processes, as torchrun starts them."""

import gc
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore
from torch.nn.parallel import DistributedDataParallel

from nonlocalnn._device import resolve_device

# One rank may download or write while the others wait, for which NCCL's default of 10 minutes is too short.
_PATIENCE = timedelta(minutes=30)


@dataclass(frozen=True)
class Group:
    """The processes of a run, seen from one of them.

    With a single process the methods exchange nothing, so that the training loop needs no special case.

    Args:
        rank: This process's number, 0 to world_size - 1.
        world_size: Number of processes.
        device: Where this process computes.
        is_joined: Whether ``torch.distributed`` is up, as it may be for a single process.
    """

    rank: int
    world_size: int
    device: torch.device
    is_joined: bool = False

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.rank == 0

    @property
    def is_distributed(self) -> bool:
        """Whether there are other processes."""
        return self.world_size > 1

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return ``model`` so that its gradients are averaged over the ranks."""
        if not self.is_distributed:
            return model
        device_ids = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=device_ids)

    def gather(self, row: Tensor) -> list[list[float]]:
        """Return the rows of all ranks; every rank gets the same.

        Args:
            row: This rank's numbers, shape (N,), on ``device``.
        """
        if not self.is_distributed:
            return [row.tolist()]
        rows = [torch.empty_like(row) for _ in range(self.world_size)]
        dist.all_gather(rows, row)
        return torch.stack(rows).tolist()

    def gather_names(self, names: list[str]) -> list[str]:
        """Return the names of all ranks, in rank order."""
        if not self.is_distributed:
            return names
        lists: list[Any] = [None] * self.world_size
        dist.all_gather_object(lists, names)
        return [name for part in lists for name in part]

    def share_buffers(self, model: nn.Module) -> None:
        """Copy the main rank's buffers to all ranks: running statistics depend on each rank's own samples."""
        if self.is_distributed:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Let the main rank run the block before the others: it may download what they then read."""
        if not self.is_main:
            self.barrier()
        yield
        if self.is_main:
            self.barrier()

    def agree(self, value: bool) -> bool:
        """Return the main rank's value on every rank."""
        return bool(self.gather(torch.tensor([float(value)], device=self.device))[0][0])

    def barrier(self) -> None:
        """Wait until every rank has called this."""
        if self.is_distributed:
            dist.barrier()


def without_sync(model: nn.Module) -> AbstractContextManager[None]:
    """Return the context in which backward passes add gradients on this rank and do not exchange them."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


@contextmanager
def process_group(device: str, *, sharded: bool = False) -> Iterator[Group]:
    """Join the process group that torchrun set up; without torchrun, be a group of one.

    Args:
        device: "auto", "cpu", "cuda" or, for a single process, "cuda:N".
        sharded: Whether the network will be sharded: then a single process needs a process group too.

    Raises:
        ValueError: The device is not there, or "cuda:N" was asked of several processes.

    Source:
        The variables RANK, LOCAL_RANK and WORLD_SIZE that torchrun sets.

    Example:
        >>> with process_group("cpu") as group:
        ...     group.rank, group.world_size, group.is_main
        (0, 1, True)
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    resolved = resolve_device(device)
    if world_size == 1 and not sharded:
        yield Group(0, 1, resolved)
        return
    # A single process needs no server at which ranks find each other.
    alone: dict[str, Any] = {}
    if world_size == 1:
        alone = {"store": HashStore(), "rank": 0, "world_size": 1}
    if resolved.type == "cuda":
        if world_size > 1 and ":" in device:
            raise ValueError(
                f"device {device!r} names one GPU for {world_size} processes: use 'cuda', one GPU for each"
            )
        if ":" not in device:
            resolved = resolve_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
        torch.cuda.set_device(resolved)
        dist.init_process_group("nccl", device_id=resolved, timeout=_PATIENCE, **alone)
    else:
        dist.init_process_group("gloo", timeout=_PATIENCE, **alone)
        # A rank that refuses its recipe at once would close connections that others are still making, and
        # they would tell of those.
        dist.barrier()
    try:
        yield Group(dist.get_rank(), world_size, resolved, is_joined=True)
    finally:
        dist.destroy_process_group()
        # Freeing the rest of the group joins its threads. A worker process that is forked later would have
        # the group without the threads, and would wait for ever. So it is freed here.
        gc.collect()
