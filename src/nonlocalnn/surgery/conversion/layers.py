"""Single layers of other libraries' modules: which of them a block of ours has a place for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nonlocalnn.functional.layers import Convolution

CONVOLUTIONS: dict[int, type[Convolution]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
# The windows that our block takes where none is said, by rank.
_USUAL_WINDOWS = ((2,), (2, 2), (1, 2, 2))


class NotConvertibleError(Exception):
    """Why a module stays as it is."""


def layers(module: nn.Module, name: str) -> list[nn.Module]:
    """Return the innermost layers under a name, in their order; none where it does not exist."""
    child = getattr(module, name, None)
    if not isinstance(child, nn.Module):
        return []
    return list(named_leaves(child).values())


def named_leaves(module: nn.Module, prefix: str = "") -> dict[str, nn.Module]:
    """Return a module's innermost layers by their dotted names, but for those that do nothing."""
    children = dict(module.named_children())
    # What computes a layer's weights is a child of that layer.
    if not children or isinstance(module, Convolution | nn.Linear):
        return {} if isinstance(module, nn.Identity) else {prefix.removesuffix("."): module}
    found: dict[str, nn.Module] = {}
    for name, child in children.items():
        found |= named_leaves(child, f"{prefix}{name}.")
    return found


def convolution(module: nn.Module, name: str) -> Convolution:
    """Return the one layer under a name, which must be a 1x1 convolution."""
    first, rest = convolution_and_rest(module, name)
    if rest:
        raise NotConvertibleError(f"{name} must be one convolution; it goes on with {rest}")
    return first


def convolution_and_rest(module: nn.Module, name: str) -> tuple[Convolution, list[nn.Module]]:
    """Return the 1x1 convolution that comes first under a name, and what follows it."""
    found = layers(module, name)
    first, rest = (found[0], found[1:]) if found else (None, [])
    if not isinstance(first, Convolution):
        raise NotConvertibleError(f"{name} must begin with a plain convolution; it begins with {first}")
    check_pointwise(first, name)
    return first, rest


def check_pointwise(layer: Convolution, name: str) -> None:
    """Check that a layer is a 1x1 convolution with a weight of its own."""
    if not is_pointwise(layer):
        raise NotConvertibleError(f"{name} must be 1x1 without stride, padding and groups; it is {layer}")
    # Wrappers of their own put a tensor there that they compute from others.
    if not isinstance(layer.weight, nn.Parameter):
        raise NotConvertibleError(f"the weight of {name} is computed from others in a way that is not known")


def is_pointwise(layer: Convolution) -> bool:
    """Return whether a convolution looks at one position at a time."""
    # Padding by name is none at all round a kernel of 1.
    pads = not isinstance(layer.padding, str) and set(layer.padding) != {0}
    return {*layer.kernel_size, *layer.stride, layer.groups} == {1} and not pads


def pointwise(weight: Tensor, bias: Tensor | None, rank: int) -> Convolution:
    """Return the 1x1 convolution of this rank with these parameters; the memory is theirs.

    Args:
        weight: (out, in), with or without sides of 1. A parameter of the right shape stays the same object.
        bias: (out,), or None.
        rank: Sides of the maps.
    """
    shape = (*weight.shape[:2], *(1,) * rank)
    with torch.device("meta"):
        made = CONVOLUTIONS[rank](shape[1], shape[0], 1, bias=bias is not None)
    made.weight = _as_parameter(weight, shape)
    made.bias = None if bias is None else _as_parameter(bias, tuple(bias.shape))
    return made


def _as_parameter(tensor: Tensor, shape: tuple[int, ...]) -> nn.Parameter:
    if isinstance(tensor, nn.Parameter) and tensor.shape == shape:
        return tensor
    return nn.Parameter(tensor.detach().reshape(shape), requires_grad=tensor.requires_grad)


def rectified_convolution(module: nn.Module, name: str) -> Convolution | None:
    """Return the convolution of the concatenation form, to one channel; None where there is no such name."""
    if not layers(module, name):
        return None
    first, rest = convolution_and_rest(module, name)
    if first.bias is not None or first.out_channels != 1 or [type(each) for each in rest] != [nn.ReLU]:
        raise NotConvertibleError(
            f"{name} must be a convolution to 1 channel without bias, then a ReLU; it is {[first, *rest]}"
        )
    return first


def norm_of(found: Sequence[nn.Module]) -> _BatchNorm | nn.GroupNorm | None:
    """Return the only one of these layers, a batch or group norm; None where there is no layer."""
    if not found:
        return None
    norm = found[0]
    if len(found) > 1 or not isinstance(norm, _BatchNorm | nn.GroupNorm):
        raise NotConvertibleError(
            f"a block of ours has one batch or group norm there, or nothing; it has {list(found)}"
        )
    if isinstance(norm, nn.SyncBatchNorm) and not norm.affine:
        raise NotConvertibleError("its synchronised batch norm has no weight and bias")
    return norm


def window_of(found: Sequence[nn.Module]) -> tuple[int, ...] | None:
    """Return the window by which these layers, none or one, pool keys; None where they do not."""
    if len(found) > 1:
        raise NotConvertibleError(f"keys can be pooled once; it has {list(found)}")
    if not found:
        return None
    layer = found[0]
    if not isinstance(layer, nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d):
        raise NotConvertibleError(f"keys can be max-pooled only; it has {layer}")
    rank = _rank(layer)
    window, stride = _per_side(layer.kernel_size, rank), _per_side(layer.stride, rank)
    is_plain = set(_per_side(layer.padding, 1)) == {0} and set(_per_side(layer.dilation, 1)) == {1}
    if not is_plain or layer.ceil_mode or window != stride:
        raise NotConvertibleError(
            f"a block of ours max-pools by windows side by side, without padding; it has {layer}"
        )
    return None if set(window) == {1} else window  # windows of one position pool nothing


def pool_size_of(window: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """Return what our block must be told of a window: nothing where it is the usual one."""
    return None if window in _USUAL_WINDOWS else window


def _rank(layer: nn.Module) -> int:
    kinds = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
    return next(rank for rank, kind in enumerate(kinds, 1) if isinstance(layer, kind))


def _per_side(value: int | Sequence[int], num_sides: int) -> tuple[int, ...]:
    return (value,) * num_sides if isinstance(value, int) else tuple(value)
