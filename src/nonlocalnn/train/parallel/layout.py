"""How a network is laid out over the ranks: a whole copy on each, or a shard of every parameter on each."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from nonlocalnn._device import NARROW_DTYPES, Precision
from nonlocalnn.functional.layers import NORMS
from nonlocalnn.models.bottleneck import Bottleneck
from nonlocalnn.train.parallel.distributed import Group, without_sync


def units(model: nn.Module) -> list[nn.Module]:
    """Return the modules of a network that are sharded, or recomputed, one by one.

    They are the bottlenecks of a residual network. Of another network they are its children that have
    parameters; lists of modules are replaced by their members.

    Args:
        model: The network.

    Example:
        >>> from nonlocalnn.models import create_model
        >>> len(units(create_model("c2d_tiny"))), len(units(nn.Sequential(nn.Linear(2, 3), nn.ReLU())))
        (4, 1)
    """
    bottlenecks: list[nn.Module] = [each for each in model.modules() if isinstance(each, Bottleneck)]
    return bottlenecks or list(_children(model))


def _children(model: nn.Module) -> Iterator[nn.Module]:
    for child in model.children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            # Shards are gathered when a module is called, and a list is never called.
            yield from _children(child)
        elif any(True for _ in child.parameters()):
            yield child


class Replicated:
    """A network that is whole on every rank; gradients are averaged over the ranks.

    Args:
        model: The network, on the group's device.
        group: The processes of the run.

    Attributes:
        model: The network, for its parameters and state.
        shared: The module that training calls: the network inside DistributedDataParallel.
    """

    def __init__(self, model: nn.Module, group: Group) -> None:
        self.model = model
        self.shared = group.wrap(model)

    def part(self, *, last: bool) -> AbstractContextManager[None]:
        """Return the context for a part of a batch: ranks exchange gradients with the last part only."""
        return nullcontext() if last else without_sync(self.shared)

    def gradient_norm(self) -> Tensor:
        """Return the L2 norm of the whole gradient, shape ()."""
        return _gradient_norm(self.model)

    def gathered(self) -> nn.Module:
        """Return the network, which has its whole weights."""
        return self.model

    @contextmanager
    def whole(self) -> Iterator[nn.Module]:
        """Yield the network with its whole weights, on the device."""
        yield self.model


class Sharded:
    """A network whose parameters, gradients and optimiser state are sharded over the ranks (FSDP2).

    A unit's parameters are gathered when it is called, and freed after it. With "bf16" and "fp16" they are
    gathered in that type, except those of norms. The caller turns autocast on.

    Args:
        model: The network, on the CPU; it is changed in place.
        group: The processes of the run, one or more; ``torch.distributed`` must be initialised.
        precision: "fp32", "bf16" or "fp16".

    Attributes:
        model: The network, for its parameters and state on this rank.
        shared: The module that training calls: the network itself.

    Memory: a copy of the whole network in the host's memory of each rank.
    """

    def __init__(self, model: nn.Module, group: Group, *, precision: Precision) -> None:
        # Evaluation uses whole weights. Ranks may have different numbers of batches there, and would wait
        # for each other's shards for ever.
        self._copy = copy.deepcopy(model)
        self._device = group.device
        self.model = self.shared = _shard_(model.to(group.device), precision)

    def part(self, *, last: bool) -> AbstractContextManager[None]:
        """See :meth:`Replicated.part`."""
        cast(FSDPModule, self.model).set_requires_gradient_sync(last)
        return nullcontext()

    def gradient_norm(self) -> Tensor:
        """See :meth:`Replicated.gradient_norm`."""
        return full(_gradient_norm(self.model))

    def gathered(self) -> nn.Module:
        """Return a copy with the whole weights in the host's memory; every rank must call this.

        Every call fills and returns the same copy.
        """
        with torch.no_grad():
            own = self._copy.state_dict()
            for name, value in self.model.state_dict().items():
                own[name].copy_(full(value))
        return self._copy

    @contextmanager
    def whole(self) -> Iterator[nn.Module]:
        """Yield a copy with the whole weights, which is on the device until the block ends."""
        yield self.gathered().to(self._device)
        self._copy.cpu()


def full(value: Tensor) -> Tensor:
    """Return the whole of a sharded tensor, for which every rank must call this; others as they are."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def fill_(own: Tensor, value: Tensor) -> None:
    """Copy a whole tensor, the same on every rank, into one that may lie in shards."""
    if isinstance(own, DTensor):
        value = distribute_tensor(value.to(own.device), own.device_mesh, own.placements)
    own.copy_(value)


def _gradient_norm(model: nn.Module) -> Tensor:
    return nn.utils.get_total_norm([each.grad for each in model.parameters() if each.grad is not None])


def _shard_(model: nn.Module, precision: Precision) -> nn.Module:
    mesh = init_device_mesh(next(model.parameters()).device.type, (dist.get_world_size(),))
    plain = MixedPrecisionPolicy(cast_forward_inputs=False)
    policy = plain
    if precision != "fp32":
        # Gradients are summed over ranks in float32. Inputs of layers are cast by autocast, not here.
        policy = MixedPrecisionPolicy(
            param_dtype=NARROW_DTYPES[precision], reduce_dtype=torch.float32, cast_forward_inputs=False
        )
    for unit in (*units(model), model):
        if policy is not plain:
            # The statistics of batch normalisation are float32, and PyTorch's kernels need its weights alike.
            norms: list[nn.Module] = [
                each for each in unit.modules() if isinstance(each, NORMS) and _is_unsharded(each)
            ]
            if norms:
                fully_shard(norms, mesh=mesh, mp_policy=plain)
        if not isinstance(unit, FSDPModule):  # a unit may be a norm itself
            fully_shard(unit, mesh=mesh, mp_policy=policy)
    return model


def _is_unsharded(norm: nn.Module) -> bool:
    return not isinstance(norm, FSDPModule) and any(True for _ in norm.parameters())
