"""Training a network that has new blocks: what the optimiser gets, and whether the blocks were trained."""

from __future__ import annotations

from typing import Any

from torch import nn

from nonlocalnn._errors import is_finite
from nonlocalnn.blocks import NonLocalNd, nonlocal_blocks
from nonlocalnn.functional.layers import NORMS


def param_groups(
    model: nn.Module,
    lr: float,
    new_lr: float | None = None,
    weight_decay: float = 1e-4,
    *,
    embeddings_lr: float = 1.0,
) -> list[dict[str, Any]]:
    """Return all parameters of a network as groups for an optimiser, each parameter once.

    As in the paper's recipe norms do not decay, while biases of convolutions and linear layers do.
    Non-local blocks are groups of their own, so that they can learn faster than what was trained before; a
    layer that a block shares with the network is the block's.

    Args:
        model: The network, with its blocks.
        lr: Learning rate.
        new_lr: Learning rate of the non-local blocks; None is ``lr``.
        weight_decay: Of all parameters but those of norms.
        embeddings_lr: Learning rate of theta and phi of the blocks, in times that of the blocks, as in a
            :class:`Recipe`. With 1 they are among the blocks' other weights.

    Returns:
        Groups with "params", "lr" and "weight_decay", none of them empty: the network's, its norms, the
        blocks', their embeddings and their norms. Frozen parameters are in them, too: an optimiser skips what
        has no gradient.

    Raises:
        ValueError: A value is no number of its range; or there is a ``new_lr`` and no weight of a block, or
            an ``embeddings_lr`` and none of theta and phi.

    Example:
        >>> import torch
        >>> from nonlocalnn.models import create_model
        >>> groups = param_groups(create_model("nl_digits"), lr=0.01, new_lr=0.1)
        >>> [(len(group["params"]), group["lr"], group["weight_decay"]) for group in groups]
        [(10, 0.01, 0.0001), (6, 0.01, 0.0), (16, 0.1, 0.0001), (4, 0.1, 0.0)]
        >>> optimizer = torch.optim.SGD(groups, momentum=0.9, nesterov=True)
    """
    for name, value in (
        ("lr", lr),
        ("new_lr", lr if new_lr is None else new_lr),
        ("weight_decay", weight_decay),
    ):
        if not is_finite(value) or value < 0:
            raise ValueError(f"{name} must be a number of at least 0; got {value!r}")
    if not is_finite(embeddings_lr) or embeddings_lr <= 0:
        raise ValueError(
            f"embeddings_lr must be above 0, in times the rate of the blocks; got {embeddings_lr!r}"
        )
    new = {parameter for block in nonlocal_blocks(model).values() for parameter in block.parameters()}
    lacking = (
        "and the model shows none: insert them first; FullyShardedDataParallel needs use_orig_params=True"
    )
    if new_lr is not None and not new:
        raise ValueError(f"new_lr is for non-local blocks {lacking}")
    if embeddings_lr != 1 and not _embeddings(model):
        why = "which blocks of the Gaussian form do not have: leave it out" if new else lacking
        raise ValueError(f"embeddings_lr is for theta and phi of non-local blocks, {why}")
    norms = {
        parameter
        for module in model.modules()
        if isinstance(module, NORMS)
        for parameter in module.parameters(recurse=False)
    }
    groups = []
    for is_new in (False, True):
        for is_norm in (False, True):
            chosen = [
                each for each in model.parameters() if (each in new) == is_new and (each in norms) == is_norm
            ]
            if chosen:
                rate = new_lr if is_new and new_lr is not None else lr
                decay = 0.0 if is_norm else weight_decay
                groups.append({"params": chosen, "lr": rate, "weight_decay": decay})
    return slow_embeddings(groups, model, embeddings_lr)


def slow_embeddings(groups: list[dict[str, Any]], model: nn.Module, times_lr: float) -> list[dict[str, Any]]:
    """Return the groups, with theta and phi of the blocks apart, whose "lr" is ``times_lr`` times as high."""
    if times_lr == 1:
        return groups
    own, apart = _embeddings(model), []
    for group in groups:
        for is_own, share in ((False, 1.0), (True, times_lr)):
            chosen = [weight for weight in group["params"] if (weight in own) == is_own]
            if chosen:
                apart.append({**group, "params": chosen, "lr": group["lr"] * share})
    return apart


def _embeddings(model: nn.Module) -> set[nn.Parameter]:
    layers = [each for block in nonlocal_blocks(model).values() for each in (block.theta, block.phi)]
    return {weight for layer in layers if layer is not None for weight in layer.parameters()}


def untrained_blocks(model: nn.Module) -> list[str]:
    """Return the names of the non-local blocks that are exactly the identity, as new ones are."""
    return [name for name, block in nonlocal_blocks(model).items() if _is_identity(block)]


def assert_trained(model: nn.Module) -> None:
    """Check after training that no non-local block still is the identity that it started as.

    A block whose last factor is exactly zero was not trained: most often the optimiser was made before the
    block was inserted, or the block is frozen.

    Raises:
        AssertionError: It names the blocks that are still zero.
        ValueError: The model has no non-local block.

    Example:
        >>> from nonlocalnn import NonLocal2d
        >>> block = NonLocal2d(4)
        >>> untrained_blocks(nn.Sequential(block))
        ['0']
        >>> _ = nn.init.ones_(block.norm.weight)
        >>> assert_trained(nn.Sequential(block))
    """
    blocks = nonlocal_blocks(model)
    if not blocks:
        raise ValueError("the model has no non-local block that could have been trained")
    if untrained := untrained_blocks(model):
        raise AssertionError(
            f"{len(untrained)} of {len(blocks)} non-local blocks are still the identity: "
            f"{', '.join(untrained)}. Are their parameters in the optimiser (param_groups), and not frozen?"
        )


def _is_identity(block: NonLocalNd) -> bool:
    # Exactly zero: any other bound would be a guess.
    # A norm without parameters has no factor that could be zero: W_z has the last one then.
    last = [*(() if block.norm is None else block.norm.parameters())] or [*block.W_z.parameters()]
    return not any(parameter.detach().any() for parameter in last)
