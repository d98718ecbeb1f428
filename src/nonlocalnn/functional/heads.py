"""Heads: the channels of theta, phi and g cut into equal slices, each of which is an operation of its own.

An engine does not know of heads. It gets them as entries of a larger batch, so that what holds of one head
holds of all: no N x M tensor, and a mask of each sample.

Shapes: B batch, P positions, H heads, K channels of all heads together.
"""

from __future__ import annotations

import torch
from torch import Tensor


def split_heads(part_BPK: Tensor, num_heads: int) -> Tensor:
    """Return the heads as entries of the batch, (B * H, P, K / H); those of a sample follow one another.

    Example:
        >>> split_heads(torch.arange(4).view(1, 1, 4), 2).tolist()
        [[[0, 1]], [[2, 3]]]
    """
    if num_heads == 1:
        return part_BPK
    return part_BPK.unflatten(2, (num_heads, -1)).transpose(1, 2).flatten(0, 1)


def join_heads(part: Tensor, num_heads: int) -> Tensor:
    """Undo :func:`split_heads`: (B * H, P, K / H) to (B, P, K)."""
    if num_heads == 1:
        return part
    return part.unflatten(0, (-1, num_heads)).transpose(1, 2).flatten(2)


def repeat_for_heads(mask_BM: Tensor | None, num_heads: int) -> Tensor | None:
    """Return each sample's mask once for each of its heads, (B * H, M)."""
    return mask_BM if mask_BM is None or num_heads == 1 else mask_BM.repeat_interleave(num_heads, 0)


def dot_heads(part_BPK: Tensor, weights_K: Tensor, num_heads: int) -> Tensor:
    """Return each head's dot product with its slice of the weights, one number a position, (B * H, P)."""
    if num_heads == 1:
        return part_BPK @ weights_K
    heads_BPHK, weights_HK = part_BPK.unflatten(2, (num_heads, -1)), weights_K.unflatten(0, (num_heads, -1))
    return torch.einsum("bphk,hk->bhp", heads_BPHK, weights_HK).flatten(0, 1)
