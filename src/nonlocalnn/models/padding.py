"""Layers that see nothing of a batch's padding, where :func:`nonlocalnn.real_positions` says what is real.

Without that context each function here is the plain layer, to the last bit. With it a map may hold anything
on its padding: whatever looks at neighbours or adds up positions takes it away first. Layers that treat each
position by itself, as 1x1 convolutions do, need no mask.
"""

from __future__ import annotations

from torch import Tensor, nn

from nonlocalnn.functional.layers import is_traced
from nonlocalnn.functional.masks import real_mask
from nonlocalnn.functional.norms import normalise


def without_padding(x: Tensor) -> Tensor:
    """Return a map with zeros on its padding: what a convolution sees beyond the end of a map.

    A pool that takes the largest value sees nothing of it either, if what is real is at least 0.
    """
    mask = real_mask(x)
    return x if mask is None else x.masked_fill(~mask.unsqueeze(1), 0.0)


def normalised(norm: nn.Module, z: Tensor) -> Tensor:
    """Return norm(z), whose statistics are of real positions; any other module is called as it is.

    In a graph of torch.fx norms are called with the whole map, since only a run knows what is real: in train
    mode such a graph takes padding into its statistics.
    """
    return norm(z) if is_traced(z) else normalise(norm, z, real_mask(z))


def normalised_layers(layers: nn.Module, x: Tensor) -> Tensor:
    """Return layers(x), the norms among them as :func:`normalised`."""
    # Called whole where nothing is padded, for the sake of hooks on it.
    if is_traced(x) or real_mask(x) is None or not isinstance(layers, nn.Sequential):
        return layers(x)
    for layer in layers:
        x = normalised(layer, x)
    return x


def mean_of_real(maps: Tensor) -> Tensor:
    """Return the mean over the real positions of each map, (B, C)."""
    mask = real_mask(maps)
    flat = maps.flatten(2)
    if mask is None:
        return flat.mean(2)
    is_real = mask.flatten(1).unsqueeze(1)
    return flat.masked_fill(~is_real, 0.0).sum(2) / is_real.sum(2).clamp(min=1)
