"""What is measured of a block when it has run, and what it would have given with even weights, or not at all.

Each function but the last takes what a forward hook with named arguments does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nonlocalnn.blocks import NonLocalNd
from nonlocalnn.functional import affinity, non_local
from nonlocalnn.functional.geometry import Geometry
from nonlocalnn.functional.masks import masks_of
from nonlocalnn.functional.norms import normalise
from nonlocalnn.functional.positions import as_map, flatten

# Rows of an affinity that are looked at of each sample (of each group): the mean of more is the same.
_QUERIES = 64


def left_out(_block: NonLocalNd, given: tuple[Tensor, ...], named: dict[str, Any], _z: Tensor) -> Tensor:
    """Return what would be there without the block."""
    # A copy, as the block's own output is: a layer behind it may work in place.
    return _map(given, named).clone()


def evened(block: NonLocalNd, given: tuple[Tensor, ...], named: dict[str, Any], _z: Tensor) -> Tensor:
    """Return the block's output if each position weighed all keys by the mean of its weights."""
    x = _map(given, named)
    theta, phi, g, mask = block.operands(*given, **named)
    settings = _settings(block)
    # The sum of a row's weights, in each channel: of the two Gaussian forms it is 1.
    sums = non_local(theta, phi, torch.ones_like(g), key_mask=mask, **settings)
    if mask is None:
        mean = g.mean(1, keepdim=True)
    else:
        number = mask.sum(1).clamp(min=1).view(-1, 1, 1)
        mean = g.masked_fill(~mask.unsqueeze(2), 0.0).sum(1, keepdim=True) / number
    y = as_map(Geometry(x.shape[2:], block.extent).ungroup(sums * mean, x.shape[0]), x)
    z: Tensor = block.W_z(y)
    if block.norm is not None:
        is_real, _ = masks_of(x, *_rest(given, named), None)
        z = normalise(block.norm, z, is_real)
    return x + z.to(x.dtype)


def sums_of(
    block: NonLocalNd, given: tuple[Tensor, ...], named: dict[str, Any], z: Tensor, real: Tensor | None
) -> dict[str, float]:
    """Return sums over the real positions of one call of a block, and over some of its rows."""
    x = _map(given, named)
    context, _ = _rest(given, named)
    places = Geometry(x.shape[2:], block.extent, block.pool_size)
    is_real = _real_of_map(real, x)
    added, size = (z - x).float().square(), x.float().square()
    if is_real is not None:
        added, size = (part.masked_fill(~is_real.unsqueeze(1), 0.0) for part in (added, size))
    theta, phi, _, mask = block.operands(*given, **named)
    chosen = torch.linspace(0, theta.shape[1] - 1, min(theta.shape[1], _QUERIES)).round().long()
    weights = affinity(theta[:, chosen], phi, key_mask=mask, **_settings(block)).abs()
    # (B * groups, heads, queries, keys)
    weights = weights if block.num_heads > 1 else weights.unsqueeze(1)
    ones = torch.ones(phi.shape[:2], dtype=torch.bool, device=x.device)
    counted, padded = ones[:, :1].expand(-1, len(chosen)), ~ones
    if is_real is not None:
        grouped = flatten(is_real.unsqueeze(1).float())
        counted = places.group(grouped)[:, chosen, 0] > 0
        if context is None:
            # A pooled key that has seen anything real is no padding: the largest of ones and zeros.
            keys = places if block.sub_sample is None else places.pooled()
            pooled = grouped if block.sub_sample is None else places.pool(grouped)
            padded = keys.group(pooled)[..., 0] == 0
    total = weights.sum(3)
    weighing = (total > 0) & counted.unsqueeze(1)
    shares = weights / total.clamp(min=torch.finfo(total.dtype).tiny).unsqueeze(3)
    num_keys = (ones if mask is None else mask).sum(1).view(-1, 1, 1)
    choosing = weighing & (num_keys > 1)
    entropy = torch.special.entr(shares).sum(3) / num_keys.clamp(min=2).log()
    on_padding = (shares * padded[:, None, None]).sum(3)
    rows = counted.sum(1)
    return {
        "added": float(added.sum()),
        "given": float(size.sum()),
        "rows": float(rows.sum()),
        "keys": float((rows * num_keys.flatten()).sum()),
        "padded": float((rows * padded.float().mean(1)).sum()),
        "weighing": float(weighing.sum()),
        "on padding": float(on_padding[weighing].sum()),
        "choosing": float(choosing.sum()),
        "entropy": float(entropy[choosing].sum()),
    }


def _settings(block: NonLocalNd) -> dict[str, Any]:
    """Return what eq. (1) takes beside the operands."""
    return {
        "instantiation": block.instantiation,
        "w_f": block.w_f,
        "scale": block.scale,
        "num_heads": block.num_heads,
    }


def _map(given: tuple[Tensor, ...], named: Mapping[str, Any]) -> Tensor:
    """Return x of a call; it may have been named too."""
    x: Tensor = given[0] if given else named["x"]
    return x


def _rest(given: tuple[Tensor, ...], named: Mapping[str, Any]) -> tuple[Tensor | None, Tensor | None]:
    """Return the context and the mask that a block was called with."""
    return given[1] if len(given) > 1 else named.get("context"), named.get("key_mask")


def _real_of_map(real: Tensor | None, x: Tensor) -> Tensor | None:
    r"""Return which positions of a map are real, (B, \*sides), from those of the input; None is all."""
    if real is None or real.shape[0] != x.shape[0] or real.dim() != x.dim() - 1:
        return None
    # One that has seen anything real is real, as nonlocalnn.real_positions has it.
    pool = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)[real.dim() - 2]
    found: Tensor = pool(real.unsqueeze(1).float(), tuple(x.shape[2:])).squeeze(1) > 0
    return None if bool(found.all()) else found
