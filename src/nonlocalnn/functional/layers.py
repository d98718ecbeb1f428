"""A block's layers: when their weights may be read instead of calling them, and what follows from that.

Reading is faster: several 1x1 convolutions of a map become products that need no copy of it, and a constant
norm becomes part of the convolution before it. But adapters, pruning, parametrizations and hooks, and whoever
shards or moves weights, work when a layer is called. So weights are read of layers that are plainly what the
block made; all others are called.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks

from nonlocalnn.functional.modes import without_autocast
from nonlocalnn.functional.positions import Layer, flatten, project

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
# What calling a batch normalisation does where its class adds nothing to PyTorch's.
_BATCH_NORM_FORWARDS = (nn.modules.batchnorm._BatchNorm.forward, nn.SyncBatchNorm.forward)
# Layers that normalise, of PyTorch.
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)

# Words that only wrappers put into the names of modules and weights, wherever in a name they stand.
WRAPPER_WORDS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_PLAIN_TENSORS = (nn.Parameter, Tensor)
# Kernel, stride, padding and groups of 1x1 convolutions.
_GEOMETRY: dict[type[nn.Module], tuple[object, ...]] = {
    nn.Conv1d: ((1,), (1,), (0,), 1),
    nn.Conv2d: ((1, 1), (1, 1), (0, 0), 1),
    nn.Conv3d: ((1, 1, 1), (1, 1, 1), (0, 0, 0), 1),
}

# torch.fx then records each as one node instead of tracing through its arithmetic on shapes.
torch.fx.wrap("flatten")
torch.fx.wrap("project")


def plain_weights(layer: nn.Module, kind: type[Convolution], device: torch.device | None) -> Layer | None:
    """Return weight and bias of a 1x1 convolution where they say all that calling it would do, else None.

    Args:
        layer: Any module.
        kind: The class that it must be, and not a subclass: parametrizations and adapters make those.
        device: Where the weights must be; None is anywhere.
    """
    if type(layer) is not kind or does_more(layer):
        return None
    if (layer.kernel_size, layer.stride, layer.padding, layer.groups) != _GEOMETRY[kind]:
        return None
    weight, bias = weights_of(layer)
    is_plain = _is_plain_tensor(weight, device) and (bias is None or _is_plain_tensor(bias, device))
    return (weight, bias) if is_plain else None


def does_more(layer: nn.Module) -> bool:
    """Return whether calling a layer does more than its class says: hooks, or a ``forward`` of its own."""
    hooks = (
        layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    )
    return bool(hooks) or "forward" in vars(layer)


def has_global_hooks() -> bool:
    """Return whether calling any module would run hooks, as those of a profiler."""
    return module_hooks._has_any_global_hook()


def _is_plain_tensor(tensor: Tensor, device: torch.device | None) -> bool:
    if device is not None and tensor.device != device:
        return False
    # What export and compile put in the place of weights may be of another class.
    return type(tensor) in _PLAIN_TENSORS or torch.compiler.is_compiling()


def weights_of(convolution: Convolution) -> Layer:
    """Return a convolution's weight and bias."""
    return convolution.weight, convolution.bias


def first_parameter(layer: nn.Module) -> Tensor | None:
    """Return a layer's first parameter, whose type says what it computes in."""
    # A replica of DataParallel has tensors in the place of parameters.
    return next(layer.parameters(), getattr(layer, "weight", None))


def embedded(x: Tensor, *layers: Any) -> tuple[Tensor, ...]:
    r"""Return what 1x1 convolutions make of a map, as positions (B, P, D) each.

    Args:
        x: A map, shape (B, C, \*sides).
        layers: All as :func:`weights_of`, which are read, or all as modules, which are called.
    """
    if isinstance(layers[0], nn.Module):
        return tuple(flatten(layer(x)) for layer in layers)
    return project(x, *layers)


def call_unnarrowed(layer: nn.Module, y: Tensor) -> Tensor:
    """Return a layer's output; where y is float32 autocast must not narrow it: sums of f may pass 65,504."""
    if is_traced(y) or y.dtype != torch.float32:
        return layer(y)
    with without_autocast(y.device.type):
        return layer(y)


def is_traced(x: object) -> bool:
    """Return whether torch.fx traces this call."""
    return isinstance(x, torch.fx.Proxy)


def is_batch_norm(norm: nn.Module) -> TypeGuard[nn.modules.batchnorm._BatchNorm]:
    """Return whether a norm computes what PyTorch's batch normalisation does; subclasses may do more."""
    return isinstance(norm, nn.modules.batchnorm._BatchNorm) and type(norm).forward in _BATCH_NORM_FORWARDS


def held_tensors(module: nn.Module) -> list[Tensor]:
    """Return the tensors of a module itself: parameters, buffers, and what else it keeps, in lists too."""
    held: list[Any] = []
    # Parameters and buffers are in dictionaries.
    for value in vars(module).values():
        several = value.values() if isinstance(value, dict) else value
        held += several if isinstance(value, dict | list | tuple) else [value]
    return [each for each in held if isinstance(each, Tensor)]


def is_constant(norm: nn.Module) -> bool:
    """Return whether a norm is a batch normalisation by running statistics: one factor and term a channel."""
    if not is_batch_norm(norm):
        return False
    return not norm.training and norm.running_mean is not None and norm.affine


def folding_pays(y: Tensor) -> bool:
    """Return whether the weight of W_z, which folding makes anew, is smaller than its output: y (B, N, E).

    On 49 positions of 512 channels folding took a tenth of the block's time.
    """
    # A program exported for any size must not decide by the size of its example.
    return torch.compiler.is_exporting() or y.shape[0] * y.shape[1] > y.shape[2]


def fold_norm(layer: Convolution, norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a convolution with the constant norm after it folded in."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return fold_statistics(
        weights_of(layer), norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.eps
    )


def fold_statistics(
    layer: Layer, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    r"""Return weight and bias of a convolution with a normalisation by these statistics folded in.

    .. math:: W' = \operatorname{diag}(\gamma / \sigma)\, W, \quad b' = \gamma (b - \mu) / \sigma + \beta
    """
    weight, bias = layer
    wide = torch.promote_types(weight.dtype, torch.float32)
    factor = gamma.to(wide) * (variance.to(wide) + eps).rsqrt()
    centred = mean if bias is None else mean - bias
    folded = weight * factor.view(-1, *[1] * (weight.dim() - 1))
    return folded.to(weight.dtype), (beta - factor * centred).to(weight.dtype)
