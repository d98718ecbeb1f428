"""Norms of blocks that another code base has and ours has not, or the other way round."""

from __future__ import annotations

import torch

from nonlocalnn.checkpoints.state import State
from nonlocalnn.functional.layers import fold_statistics

_EPS = 1e-5


def blocks_in(state: State) -> list[str]:
    """Return what the names of each block's tensors begin with, such as ``"layer3.4.nl."``."""
    return [key.removesuffix("g.weight") for key in state if key.endswith(".nl.g.weight")]


def complete_norm_(state: State, norm: str) -> None:
    """Give a factor and a term the statistics with which a norm is just these.

    Example:
        >>> state = {"bn.weight": torch.ones(2), "bn.bias": torch.zeros(2)}
        >>> complete_norm_(state, "bn.")
        >>> state["bn.running_mean"]
        tensor([0., 0.])
    """
    state.setdefault(f"{norm}running_mean", torch.zeros_like(state[f"{norm}bias"]))
    state.setdefault(f"{norm}running_var", torch.full_like(state[f"{norm}bias"], 1 - _EPS))


def add_identity_norms_(state: State) -> None:
    """Give blocks, where none of them has a norm, norms that change nothing.

    Where some have one, the others lost theirs: they are left as they are, for loading to say so.
    """
    # Elsewhere, statistics that were dropped in silence cost 24 points.
    if any(".nl.norm." in key for key in state):
        return
    for block in blocks_in(state):
        weight = state.get(f"{block}W_z.weight")
        if weight is not None:
            state[f"{block}norm.weight"] = weight.new_ones(len(weight))
            state[f"{block}norm.bias"] = weight.new_zeros(len(weight))
            complete_norm_(state, f"{block}norm.")


def fold_norm_(state: State, block: str) -> None:
    """Fold a block's norm, where it is whole, into W_z: beside frozen norms our blocks have none."""
    names = [f"{block}norm.{name}" for name in ("weight", "bias", "running_mean", "running_var")]
    layer = f"{block}W_z."
    if not all(name in state for name in (*names, f"{layer}weight", f"{layer}bias")):
        return
    gamma, beta, mean, variance = (state.pop(name) for name in names)
    weights = (state[f"{layer}weight"], state[f"{layer}bias"])
    state[f"{layer}weight"], state[f"{layer}bias"] = fold_statistics(
        weights, gamma, beta, mean, variance, _EPS
    )
