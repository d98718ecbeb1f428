"""Norms of a block: made by a name, told apart again, and computed over the real positions of padded maps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from nonlocalnn._errors import check_choice
from nonlocalnn.functional.exchange import summed
from nonlocalnn.functional.layers import BatchNorm, does_more, is_batch_norm, is_traced
from nonlocalnn.functional.modes import is_transformed

NormName = Literal["batch", "group", "layer"]
Norm = NormName | Callable[[int], nn.Module] | None
NORM_NAMES: tuple[str | None, ...] = ("batch", "group", "layer", None)

# As many groups as most networks with group normalisation have.
_MOST_GROUPS = 32

# torch.fx then records it as one node: whether there is a mask is known only when the graph runs.
torch.fx.wrap("group_norm")


class MapLayerNorm(nn.LayerNorm):
    r"""Layer normalisation of each position of a map over its channels.

    Shape:
        - Input: (B, C, \*sides).
        - Output: the same, in the same memory format.

    Args:
        num_channels: C.

    Example:
        >>> z = MapLayerNorm(4)(torch.randn(2, 4, 5, 3))
        >>> bool(torch.allclose(z.mean(1), torch.zeros(2, 5, 3), atol=1e-5))
        True
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__(num_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised map."""
        return super().forward(x.movedim(1, -1)).movedim(x.dim() - 1, 1)


def make_norm(norm: Norm, num_channels: int, batch_norm: type[BatchNorm], what: str) -> Any:
    """Return a new norm of the kind that was asked for, a module, or None for none.

    Args:
        norm: A name, None for none, or what makes a module of the number of channels.
        num_channels: C.
        batch_norm: The class that "batch" stands for.
        what: The setting's name, for errors.

    Raises:
        ValueError: The name is unknown.
        TypeError: The function returned no module.
    """
    if callable(norm):
        made = norm(num_channels)
        if not isinstance(made, nn.Module):
            raise TypeError(f"{what}, as a function, must return a module; got {type(made).__name__}")
        return made
    check_choice(what, norm, NORM_NAMES)
    if norm == "batch":
        return batch_norm(num_channels)
    if norm == "group":
        # The most groups of equal size, so that any width has one.
        return nn.GroupNorm(math.gcd(_MOST_GROUPS, num_channels), num_channels)
    return MapLayerNorm(num_channels) if norm == "layer" else None


def name_of(norm: nn.Module | None) -> str | None:
    """Return the setting that makes such a norm, and its class's name where only a function does.

    Example:
        >>> name_of(nn.GroupNorm(2, 6)), name_of(nn.GroupNorm(3, 6)), name_of(nn.BatchNorm2d(6))
        ('group', 'GroupNorm', 'batch')
    """
    if norm is None:
        return None
    if isinstance(norm, nn.modules.batchnorm._BatchNorm):
        return "batch"
    if type(norm) is MapLayerNorm:
        return "layer"
    if type(norm) is nn.GroupNorm and norm.num_groups == math.gcd(_MOST_GROUPS, norm.num_channels):
        return "group"
    return type(norm).__name__


def normalise(norm: nn.Module, z: Tensor, mask: Tensor | None) -> Tensor:
    r"""Return norm(z), with statistics over the real positions of a padded map.

    Batch normalisation by the batch's own statistics and group normalisation add up positions; layer
    normalisation does not. A norm of any other kind, and one with hooks, is called with the whole map; so is
    a batch normalisation in a graph of torch.fx, which may change its mode later.

    Args:
        norm: Any module of maps.
        z: A map, (B, C, \*sides).
        mask: Which positions are real, (B, \*sides); None is all.
    """
    if mask is None or does_more(norm):
        return norm(z)
    if isinstance(norm, nn.GroupNorm) and type(norm).forward is nn.GroupNorm.forward:
        return group_norm(z, mask, norm.num_groups, norm.weight, norm.bias, norm.eps)
    if is_batch_norm(norm) and not is_traced(z) and not is_traced(mask):
        by_batch = norm.training or norm.running_mean is None
        return _batch_norm(norm, z, mask) if by_batch else norm(z)
    return norm(z)


def with_gradient_in_order(z: Tensor) -> Tensor:
    """Return a map that hands its gradient on in one piece.

    Of a single sample the gradient of positions comes with a stride of the batch by which PyTorch's batch and
    instance normalisations on the CPU (2.14) take it for contiguous, and compute something else.
    """
    if torch.compiler.is_compiling() or is_transformed() or z.shape[0] != 1 or z.grad_fn is None:
        return z
    z.register_hook(torch.Tensor.contiguous)
    return z


def group_norm(
    z: Tensor,
    mask: Tensor | None,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    """Return group normalisation over the real positions of each sample; that of PyTorch without a mask."""
    if mask is None:
        return F.group_norm(z, num_groups, weight, bias, eps)
    wide = torch.promote_types(z.dtype, torch.float32)
    groups = z.to(wide).flatten(2).unflatten(1, (num_groups, -1))  # (B, groups, C / groups, P)
    is_real = mask.flatten(1)[:, None, None, :]
    count = (is_real.sum(3, keepdim=True) * groups.shape[2]).clamp(min=1)
    centred = groups - groups.masked_fill(~is_real, 0.0).sum((2, 3), keepdim=True) / count
    variance = centred.masked_fill(~is_real, 0.0).square().sum((2, 3), keepdim=True) / count
    normal = (centred * (variance + eps).rsqrt()).flatten(1, 2).view(z.shape)
    return _scaled(normal, weight, bias).to(z.dtype)


def _batch_norm(norm: nn.modules.batchnorm._BatchNorm, z: Tensor, mask: Tensor) -> Tensor:
    """Return batch normalisation by the statistics of real positions, and update the running ones as usual.

    Padding is normalised by the same numbers. A synchronised norm adds up over its processes.
    """
    group = _processes(norm)
    wide = torch.promote_types(z.dtype, torch.float32)
    is_real, dims = mask.unsqueeze(1), [0, *range(2, z.dim())]
    shape = [1, -1, *[1] * (z.dim() - 2)]

    def total(part: Tensor) -> Tensor:
        added = part.masked_fill(~is_real, 0.0).sum(dims)
        return added if group is None else summed(added, group)

    values = z.to(wide)
    count = is_real.sum().to(wide).view(1)
    count = (count if group is None else summed(count, group)).clamp(min=1)
    mean = total(values) / count
    centred = values - mean.view(shape)
    variance = total(centred.square()) / count
    if norm.training and norm.running_mean is not None and norm.running_var is not None:
        with torch.no_grad():
            _update(norm, mean, variance * (count / (count - 1).clamp(min=1)))
    normal = centred * (variance + norm.eps).rsqrt().view(shape)
    return _scaled(normal, norm.weight, norm.bias).to(z.dtype)


def _update(norm: nn.modules.batchnorm._BatchNorm, mean: Tensor, variance: Tensor) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor: float | Tensor = 0.0 if norm.momentum is None else norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:  # the mean of all batches so far
            factor = norm.num_batches_tracked.reciprocal()
    for running, new in ((norm.running_mean, mean), (norm.running_var, variance)):
        running.mul_(1 - factor).add_(factor * new.to(running.dtype))


def _processes(norm: nn.Module) -> dist.ProcessGroup | None:
    """Return the processes over which a synchronised norm adds up; None for itself alone."""
    if not isinstance(norm, nn.SyncBatchNorm) or not norm.training or not dist.is_initialized():
        return None
    group: dist.ProcessGroup | None = norm.process_group or dist.group.WORLD
    return group if group is not None and group.size() > 1 else None


def _scaled(normal: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Return a normalised map times each channel's factor, plus its term."""
    shape = [1, -1, *[1] * (normal.dim() - 2)]
    if weight is not None:
        normal = normal * weight.to(normal.dtype).view(shape)
    return normal if bias is None else normal + bias.to(normal.dtype).view(shape)
