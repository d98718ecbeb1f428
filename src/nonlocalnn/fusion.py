"""Folding a block's batch normalisation into W_z, for inference."""

from __future__ import annotations

import torch
from torch import nn

from nonlocalnn.blocks import NonLocalNd


def fuse_(model: nn.Module) -> nn.Module:
    r"""Fold the batch normalisation of every non-local block into its W_z, in place.

    .. math:: W_z' = \operatorname{diag}(\gamma / \sigma)\, W_z, \quad b' = \gamma (b - \mu) / \sigma + \beta

    The outputs in eval mode stay the same up to rounding, with one pass over the map less in each block.
    The blocks' ``norm`` is None afterwards and their state dicts hold no ``norm`` keys: save a model that is
    to be trained on before. Layers outside the blocks stay as they are.

    Args:
        model: In eval mode; blocks without a norm are left alone.

    Returns:
        ``model`` itself.

    Raises:
        ValueError: A block is in train mode, in which it normalises by each batch's own statistics and not by
            those that are folded.

    Example:
        >>> from nonlocalnn.models import create_model
        >>> model = create_model("nl_digits", zero_init=False).eval()
        >>> x = torch.rand(2, 1, 28, 28)
        >>> before = model(x)
        >>> bool(torch.allclose(fuse_(model)(x), before, atol=1e-5)), model.nl_1.norm
        (True, None)
    """
    named = [(name, each) for name, each in model.named_modules() if isinstance(each, NonLocalNd)]
    blocks = [(name, each) for name, each in named if each.norm is not None]
    for name, block in blocks:
        if block.training:
            raise ValueError(
                f"fuse_ is for inference and block {name!r} is in train mode: call model.eval() first"
            )
    for _, block in blocks:
        _fuse_block_(block)
    return model


@torch.no_grad()
def _fuse_block_(block: NonLocalNd) -> None:
    norm, bias = block.norm, block.W_z.bias
    assert norm is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert bias is not None
    # In float64: the quotient of gamma and a small sigma should not round twice.
    factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    shift = norm.bias.double() - factor * norm.running_mean.double()
    weight = block.W_z.weight
    weight.copy_(weight.double() * factor.view(-1, *[1] * (weight.dim() - 1)))
    bias.copy_(bias.double() * factor + shift)
    block.norm = None
