"""Single layers of other libraries' modules: which of them a block of ours has a place for."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import is_parametrized

from nonlocalnn.functional.layers import Convolution

_POOLS: dict[type[nn.Module], tuple[int, ...]] = {
    nn.MaxPool1d: (2,),
    nn.MaxPool2d: (2, 2),
    nn.MaxPool3d: (1, 2, 2),
}


class NotConvertibleError(Exception):
    """Why a module stays as it is."""


def layers(module: nn.Module, name: str) -> list[nn.Module]:
    """Return the innermost layers under a name, in their order; none where the name does not exist."""
    child = getattr(module, name, None)
    if not isinstance(child, nn.Module):
        return []
    leaves = (part for part in child.modules() if next(part.children(), None) is None)
    return [leaf for leaf in leaves if not isinstance(leaf, nn.Identity)]


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
    # A parametrised weight is computed from others before each call.
    if not isinstance(first, Convolution) or is_parametrized(first):
        raise NotConvertibleError(f"{name} must begin with a plain convolution; it begins with {first}")
    is_pointwise = {*first.kernel_size, *first.stride, first.groups} == {1}
    # Padding by name is none at all round a kernel of 1.
    if not is_pointwise or not (isinstance(first.padding, str) or set(first.padding) == {0}):
        raise NotConvertibleError(f"{name} must be 1x1 without stride, padding and groups; it is {first}")
    return first, rest


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


def batch_norm(found: Sequence[nn.Module]) -> _BatchNorm | None:
    """Return the only one of the layers after W_z, a batch norm; None where there is no layer."""
    if not found:
        return None
    norm = found[0]
    if len(found) > 1 or not isinstance(norm, _BatchNorm):
        raise NotConvertibleError(
            f"after W_z a block of ours has a batch norm or nothing; it has {list(found)}"
        )
    if isinstance(norm, nn.SyncBatchNorm) and not norm.affine:
        raise NotConvertibleError("its synchronised batch norm has no weight and bias")
    return norm


def pools(found: Sequence[nn.Module]) -> bool:
    """Return whether keys are pooled by these layers, none or one."""
    if len(found) > 1:
        raise NotConvertibleError(f"keys can be pooled once; it has {list(found)}")
    return bool(found) and _pools(found[0])


def _pools(layer: nn.Module) -> bool:
    kernel = next((kernel for kind, kernel in _POOLS.items() if isinstance(layer, kind)), None)
    if kernel is None:
        raise NotConvertibleError(f"keys can be max-pooled only; it has {layer}")
    assert isinstance(layer, nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d)
    sizes = {_per_side(layer.kernel_size, len(kernel)), _per_side(layer.stride, len(kernel))}
    is_plain = set(_per_side(layer.padding, 1)) == {0} and set(_per_side(layer.dilation, 1)) == {1}
    if is_plain and not layer.ceil_mode:
        if sizes == {kernel}:
            return True
        if sizes == {(1,) * len(kernel)}:  # windows of one position
            return False
    raise NotConvertibleError(f"a block of ours max-pools by {kernel}, without padding; it has {layer}")


def _per_side(value: int | Sequence[int], num_sides: int) -> tuple[int, ...]:
    return (value,) * num_sides if isinstance(value, int) else tuple(value)
