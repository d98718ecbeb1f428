"""How a network lies on the ranks: whole on each of them, or each rank a shard of every parameter."""

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
from torch.distributed.tensor import DTensor

from nonlocalnn._device import NARROW_DTYPES, Precision
from nonlocalnn.layers import NORMS
from nonlocalnn.models.bottleneck import Bottleneck
from nonlocalnn.train.distributed import Group, without_sync


def units(model: nn.Module) -> list[nn.Module]:
    """Return the parts of a network that are sharded, or computed again, as one.

    They are the bottlenecks of a residual network; of another network its children that have parameters,
    where lists of modules stand for what they hold.

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
            # Nobody calls a list, and shards are gathered when a module is called.
            yield from _children(child)
        elif any(True for _ in child.parameters()):
            yield child


class Replicated:
    """A network that is whole on every rank; gradients are averaged over the ranks.

    Args:
        model: The network, on the group's device.
        group: The processes of the run.

    Attributes:
        model: The network: what has parameters and a state.
        shared: What is called in training.
    """

    def __init__(self, model: nn.Module, group: Group) -> None:
        self.model = model
        self.shared = group.wrap(model)

    def part(self, *, last: bool) -> AbstractContextManager[None]:
        """Return the context of a part's passes: ranks exchange gradients once a step, with the last part."""
        return nullcontext() if last else without_sync(self.shared)

    def gradient_norm(self) -> Tensor:
        """Return the L2 norm of the whole gradient, shape ()."""
        return _gradient_norm(self.model)

    @contextmanager
    def whole(self) -> Iterator[nn.Module]:
        """Give the network with its whole weights, on the device."""
        yield self.model


class Sharded:
    """A network of whose parameters, gradients and optimiser state each rank holds a part (FSDP2).

    A unit's parameters are gathered when it is called, and freed after it; with "bf16" and "fp16" they
    travel in that type, those of norms excepted. The context of autocast is the caller's.

    Args:
        model: The network, on the CPU; it is changed in place.
        group: The processes of the run; there may be only one, but ``torch.distributed`` must be up.
        precision: "fp32", "bf16" or "fp16".

    Attributes:
        model: The network: what has parameters and a state, of this rank.
        shared: What is called in training.

    Memory: a copy of the whole network in the host's memory of each rank.
    """

    def __init__(self, model: nn.Module, group: Group, *, precision: Precision) -> None:
        # Evaluation runs on whole weights: ranks take unlike numbers of batches then, and would wait for
        # one another's shards for ever.
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

        It is the same copy each time: what it holds changes with the next call.
        """
        with torch.no_grad():
            own = self._copy.state_dict()
            for name, value in self.model.state_dict().items():
                own[name].copy_(full(value))
        return self._copy

    @contextmanager
    def whole(self) -> Iterator[nn.Module]:
        """Give a copy with the whole weights, on the device until the end of the block."""
        yield self.gathered().to(self._device)
        self._copy.cpu()


def full(value: Tensor) -> Tensor:
    """Return a tensor as it is, or the whole of one that lies in shards; then every rank must call this."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def _gradient_norm(model: nn.Module) -> Tensor:
    return nn.utils.get_total_norm([each.grad for each in model.parameters() if each.grad is not None])


def _shard_(model: nn.Module, precision: Precision) -> nn.Module:
    mesh = init_device_mesh(next(model.parameters()).device.type, (dist.get_world_size(),))
    plain = MixedPrecisionPolicy(cast_forward_inputs=False)
    policy = plain
    if precision != "fp32":
        # Sums over ranks are taken in float32; what a layer takes in is autocast's business.
        policy = MixedPrecisionPolicy(
            param_dtype=NARROW_DTYPES[precision], reduce_dtype=torch.float32, cast_forward_inputs=False
        )
    for unit in (*units(model), model):
        if policy is not plain:
            # Batch normalisation computes its statistics, and PyTorch's kernels want its weights, in float32.
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
