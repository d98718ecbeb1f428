"""Weights that are computed from others before each call (spectral norm, pruning), made plain ones."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from nonlocalnn.functional.layers import Convolution, held_tensors
from nonlocalnn.surgery.conversion.layers import NotConvertibleError, is_pointwise

# PyTorch's older ways: hooks that set the weight before each call.
_COMPUTING_HOOKS = (SpectralNorm, WeightNorm, BasePruningMethod)
_PLAIN_FORWARDS = tuple(kind.forward for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear))
# A power of two, by which inputs are scaled without rounding: the bias, which is added and taken off again,
# then rounds the weight by a thousandth of its own rounding. Half precision holds products up to 65,504.
_SCALE = 1024.0


def folded(module: nn.Module) -> nn.Module:
    """Return the module, or a copy where a layer computes its weights, with the weights that it computes now.

    All other parameters of the copy are the module's own.

    Raises:
        NotConvertibleError: A layer computes its weights and is in train mode, in which they change.
    """
    computing = {name: layer for name, layer in module.named_modules() if _is_computing(layer)}
    for name, layer in computing.items():
        if layer.training:
            raise NotConvertibleError(
                f"the weights of {name} are computed from others (as by spectral norm), and ours would not "
                "be: call eval() on the model first, and they are folded into plain ones"
            )
    if not computing:
        return module
    tensors = (tensor for part in module.modules() for tensor in held_tensors(part))
    try:
        made = copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})
    except Exception as error:
        raise NotConvertibleError(f"it cannot be copied: {error}") from error
    for name, layer in computing.items():
        owner, _, last = name.rpartition(".")
        setattr(made.get_submodule(owner), last, _plain(layer))
    return made


def private_copy(module: nn.Module) -> nn.Module:
    """Return a copy, also of a module that keeps tensors of an autograd graph, such as computed weights."""
    graphs = (tensor for part in module.modules() for tensor in held_tensors(part) if not tensor.is_leaf)
    return copy.deepcopy(module, {id(tensor): tensor.detach().clone() for tensor in graphs})


def _is_computing(layer: nn.Module) -> bool:
    if not isinstance(layer, Convolution | nn.Linear):
        return False
    if isinstance(layer, Convolution) and not is_pointwise(layer):
        return False
    hooks = layer._forward_pre_hooks.values()
    if is_parametrized(layer) or any(isinstance(hook, _COMPUTING_HOOKS) for hook in hooks):
        return True
    # A class with a forward of its own may do the same (BigGAN's convolutions), or nothing of the kind.
    if type(layer).forward in _PLAIN_FORWARDS or layer.weight.is_meta:
        return False
    weight = layer.weight.detach()
    try:
        computed = _computed(layer)
    except Exception:  # it needs more than a map, and the run of the whole module says so
        return False
    return not torch.allclose(computed, weight, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def _computed(layer: Convolution | nn.Linear) -> Tensor:
    """Return the weight by which a layer multiplies in eval mode: what it makes of unit vectors."""
    probe = private_copy(layer).eval()
    like = next(layer.parameters())
    num_inputs, sides = layer.weight.shape[1], layer.weight.shape[2:]
    units = _SCALE * torch.eye(num_inputs, dtype=like.dtype, device=like.device)
    rows = probe(units.view(num_inputs, num_inputs, *sides)).flatten(1)
    weight = (rows if layer.bias is None else rows - layer.bias) / _SCALE
    return weight.T.reshape(-1, num_inputs, *sides).contiguous()


def _plain(layer: Convolution | nn.Linear) -> nn.Module:
    """Return a layer of PyTorch's own class with the weights that this one computes."""
    weight = _computed(layer)
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    kind = next((each for each in kinds if isinstance(layer, each)), None)
    sizes = weight.shape[1], weight.shape[0]
    has_bias = layer.bias is not None
    made: nn.Module
    with torch.device("meta"):
        made = nn.Linear(*sizes, has_bias) if kind is None else kind(*sizes, 1, bias=has_bias)
    trained = any(parameter.requires_grad for parameter in layer.parameters())
    made.weight = nn.Parameter(weight, requires_grad=trained)
    if layer.bias is not None:  # pruning computes biases too
        is_own = isinstance(layer.bias, nn.Parameter)
        made.bias = layer.bias if is_own else nn.Parameter(layer.bias.detach(), requires_grad=trained)
    return made.eval()
