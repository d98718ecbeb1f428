"""Folding batch normalisations into the convolutions before them, for inference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import get_args

import torch
from torch import nn

from nonlocalnn._errors import check_module
from nonlocalnn.blocks import NonLocalNd
from nonlocalnn.functional.layers import Convolution, does_more, fold_norm, is_batch_norm, is_constant
from nonlocalnn.models.bottleneck import Bottleneck, FrozenNorm
from nonlocalnn.models.convolution import ClipConvolution
from nonlocalnn.models.resnet import ResidualNetwork

# Whose weights say all that calling them does.
_CONVOLUTIONS = (*get_args(Convolution), ClipConvolution)


def fuse_(model: nn.Module) -> nn.Module:
    r"""Fold every normalisation that is known to follow a convolution into that convolution, in place.

    .. math:: W' = \operatorname{diag}(\gamma / \sigma)\, W, \quad b' = \gamma (b - \mu) / \sigma + \beta

    Known are those of non-local blocks, of :class:`nonlocalnn.models.ResidualNetwork`, and neighbours in an
    ``nn.Sequential``, which is taken to be called as a whole. The outputs in eval mode stay the same up to
    rounding, with one pass over each map less. A block's ``norm`` is None afterwards and other norms are
    ``nn.Identity``; the state dict lacks their keys: save a model that is to be trained on before. All else
    stays as it is, and so do convolutions that a model uses in several places, or that have hooks or
    parametrizations.

    Args:
        model: In eval mode; what has no norm is left alone.

    Returns:
        ``model`` itself.

    Raises:
        ValueError: A norm is in train mode, in which it normalises by each batch's own statistics and not by
            those that are folded. Nothing is changed then.
        TypeError: ``model`` is no module.

    Example:
        >>> from nonlocalnn.models import create_model
        >>> model = create_model("nl_digits", zero_init=False).eval()
        >>> x = torch.rand(2, 1, 28, 28)
        >>> before = model(x)
        >>> bool(torch.allclose(fuse_(model)(x), before, atol=1e-5)), model.nl_1.norm
        (True, None)
    """
    check_module(model)
    uses = Counter(id(each) for _, each in model.named_modules(remove_duplicate=False))
    found = []
    for owner_name, owner in model.named_modules():
        for layer_name, norm_name in _neighbours(owner):
            layer, norm = owner.get_submodule(layer_name), owner.get_submodule(norm_name)
            if uses[id(layer)] > 1:
                continue
            if norm.training and not isinstance(norm, FrozenNorm):
                name = f"{owner_name}.{norm_name}".removeprefix(".")
                raise ValueError(
                    f"fuse_ is for inference and the norm {name!r} is in train mode: call model.eval() first"
                )
            if isinstance(norm, FrozenNorm) or is_constant(norm):
                found.append((owner, layer, norm_name, norm))
    for owner, layer, norm_name, norm in found:
        with torch.no_grad():
            weight, bias = fold_norm(layer, norm)
        layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
        setattr(owner, norm_name, None if isinstance(owner, NonLocalNd) else nn.Identity())
    return model


def _neighbours(owner: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the names of a module's own convolutions and of the norms that directly follow them."""
    if isinstance(owner, NonLocalNd):
        pairs = [("W_z", "norm")]
    elif isinstance(owner, Bottleneck):
        pairs = [("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")]
    elif isinstance(owner, ResidualNetwork):
        pairs = [("conv1", "bn1")]
    elif type(owner) is nn.Sequential:
        pairs = list(pairwise(dict(owner.named_children())))
    else:
        pairs = []
    children = dict(owner.named_children())
    for layer_name, norm_name in pairs:
        layer, norm = children.get(layer_name), children.get(norm_name)
        if layer is None or norm is None or not (isinstance(norm, FrozenNorm) or is_batch_norm(norm)):
            continue
        # What has children of its own, such as an inserted block or an activation, does more than its class;
        # so does what has hooks: those of pruning would put the old weights back. Subclasses may make
        # their weights anew in each call.
        if type(layer) not in _CONVOLUTIONS or does_more(layer) or does_more(norm):
            continue
        if not [*layer.children(), *norm.children()]:
            yield layer_name, norm_name
