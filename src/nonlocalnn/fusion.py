"""Folding a block's batch normalisation into W_z, for inference."""

from __future__ import annotations

import torch
from torch import nn

from nonlocalnn.blocks import NonLocalNd, fold_norm


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
        assert block.norm is not None
        with torch.no_grad():
            weight, bias = fold_norm(block.W_z, block.norm)
            block.W_z.weight.copy_(weight)
            assert block.W_z.bias is not None
            block.W_z.bias.copy_(bias)
        block.norm = None
    return model
