"""Which norm a network has, so that blocks put into it have the same."""

from __future__ import annotations

from collections import Counter

from torch import nn

from nonlocalnn.blocks import NonLocalNd
from nonlocalnn.functional.norms import NormName


def matching_norm(model: nn.Module) -> NormName | None:
    """Return the norm of a block that goes with most norms of a network.

    That is group normalisation where those are, none where norms are frozen (buffers instead of parameters,
    as torchvision's FrozenBatchNorm2d and others of such names have), and else batch normalisation, as in the
    paper.

    Args:
        model: Any network; the norms of blocks that it has already do not count.

    Example:
        >>> matching_norm(nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(4, 8)))
        'group'
    """
    own = {part for block in model.modules() if isinstance(block, NonLocalNd) for part in block.modules()}
    found = Counter(kind for module in model.modules() if module not in own and (kind := _kind(module)))
    # The first of equals, hence batch normalisation in front.
    most = max(("batch", "group", "frozen"), key=lambda kind: found[kind])
    return {"batch": "batch", "group": "group", "frozen": None}[most]


def _kind(module: nn.Module) -> str | None:
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return "batch"
    if isinstance(module, nn.GroupNorm):
        return "group"
    # By name: each library has a class of its own, and no library is imported for this.
    is_frozen = "Frozen" in type(module).__name__ and "running_mean" in module._buffers
    return "frozen" if is_frozen and not module._parameters else None
