"""What one training step of a network computes, moves and keeps, counted from shapes: no data, any batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nonlocalnn.models import create_model
from nonlocalnn.train.parallel.layout import units

# Of the operators that only look at memory in another way, those that PyTorch's schemas do not mark so.
_VIEWS = ("aten::_unsafe_view", "aten::_reshape_alias")


@dataclass(frozen=True)
class StepCounts:
    """What a forward and a backward pass of one batch takes.

    Args:
        parameters: Numbers of the network that are trained.
        units: Its parts that are sharded, or recomputed, one by one.
        flops: 2 x multiply-adds of convolutions and matrix products.
        moved: Bytes of the inputs and outputs of all operators that are no views.
        kept: Bytes that are held from the forward to the backward pass, without parameters and buffers.
        kept_recomputing: The most that is held if each unit keeps its input only and computes the rest again.
        operators: Of each operator its FLOPs, its bytes, and whether recomputing runs it twice.
    """

    parameters: int
    units: int
    flops: int
    moved: int
    kept: int
    kept_recomputing: int
    operators: tuple[tuple[int, int, bool], ...]


def count_step(
    name: str, shape: tuple[int, ...], *, dtype: torch.dtype = torch.float32, classes: int = 400
) -> StepCounts:
    r"""Run a step of a network on the meta device, and count.

    The network is of one dtype throughout, where mixed precision casts some of it. Where a GPU alone has a
    fused kernel, what PyTorch does without it is counted.

    Args:
        name: Of ``nonlocalnn.create_model``.
        shape: Of the batch, (B, C, \*sides).
        dtype: Of weights and batch.
        classes: Of the last layer.

    Example:
        >>> one, two = (count_step("c2d_tiny", (number, 3, 8, 16, 16)) for number in (2, 4))
        >>> two.flops == 2 * one.flops, two.parameters == one.parameters
        (True, True)
    """
    with torch.device("meta"):
        model = create_model(name, num_classes=classes).to(dtype).train()
        batch = torch.empty(shape, dtype=dtype)
    parts = units(model)
    place = _Place()
    for part in parts:
        part.register_forward_pre_hook(place.enter)
        part.register_forward_hook(place.leave)
    counter = _Counter(place)
    with counter, torch.autograd.graph.saved_tensors_hooks(counter.keep, lambda kept: kept):
        loss = model(batch).float().sum()
        place.is_backward = True
        loss.backward()
    own = {_storage(each) for each in (*model.parameters(), *model.buffers())}
    kept = {key: value for key, value in counter.kept.items() if key not in own}
    within = [sum(size for _, size, at in kept.values() if at is part) for part in parts]
    total = sum(size for _, size, _ in kept.values())
    return StepCounts(
        parameters=sum(each.numel() for each in model.parameters() if each.requires_grad),
        units=len(parts),
        flops=sum(flops for flops, _, _ in counter.operators),
        moved=sum(moved for _, moved, _ in counter.operators),
        kept=total,
        kept_recomputing=total - sum(within) + place.inputs + max(within, default=0),
        operators=tuple(counter.operators),
    )


class _Place:
    """Which unit is running, and what the units were given."""

    def __init__(self) -> None:
        self.unit: nn.Module | None = None
        self.inputs = 0
        self.is_backward = False

    def enter(self, unit: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.unit = unit
        self.inputs += sum(each.untyped_storage().nbytes() for each in inputs if isinstance(each, Tensor))

    def leave(self, unit: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self.unit = None


class _Counter(TorchDispatchMode):
    def __init__(self, place: _Place) -> None:
        # It brings Triton along, which nothing else here needs.
        from torch.utils.flop_counter import flop_registry

        super().__init__()
        self._flops: Any = flop_registry
        self._place = place
        self.operators: list[tuple[int, int, bool]] = []
        # The tensor is held so that no other one gets its storage's address.
        self.kept: dict[int, tuple[Tensor, int, nn.Module | None]] = {}

    def keep(self, tensor: Tensor) -> Tensor:
        size = tensor.untyped_storage().nbytes()
        self.kept.setdefault(_storage(tensor), (tensor, size, self._place.unit))
        return tensor

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.is_view or func._schema.name in _VIEWS:
            return out
        formula = self._flops.get(func._overloadpacket)
        flops = formula(*args, **(kwargs or {}), out_val=out) if formula else 0
        tensors = [each for each in tree_leaves((args, kwargs, out)) if isinstance(each, Tensor)]
        moved = sum(each.numel() * each.element_size() for each in tensors)
        is_repeated = self._place.unit is not None and not self._place.is_backward
        self.operators.append((flops, moved, is_repeated))
        return out


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
