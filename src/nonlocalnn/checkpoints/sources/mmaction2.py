"""Checkpoints of open-mmlab's mmaction2: its I3D networks, with blocks or without.

================================================== ==========================
its key                                            ours
================================================== ==========================
backbone.conv1.{conv,bn}.*                         conv1.weight, bn1.*
backbone.layer2.1.conv1.{conv,bn}.*                layer2.1.conv1.weight, bn1.*
backbone.layer2.0.downsample.{conv,bn}.*           layer2.0.downsample.{0,1}.*
backbone.layer2.1.non_local_block.theta.conv.*     layer2.1.nl.theta.*
...phi.0.conv.*, g.0.conv.* (sub-sampled)          layer2.1.nl.phi.*, g.*
...phi.conv.*, g.conv.* (not sub-sampled)          the same
...conv_out.{conv,bn}.*                            layer2.1.nl.W_z.*, norm.*
...concat_project.conv.weight (1,2D,1,1)           layer2.1.nl.w_f (2D,)
cls_head.fc_cls.*                                  fc.*
================================================== ==========================

Its W_z has no bias where a norm follows it.
"""

from __future__ import annotations

from typing import Any

from nonlocalnn.checkpoints.sources.key_names import KeyNames
from nonlocalnn.checkpoints.sources.norms import add_identity_norms_, blocks_in
from nonlocalnn.checkpoints.sources.source import Source
from nonlocalnn.checkpoints.state import State

_PLACE, _OURS = "backbone.layer{layer}.{place}", "layer{layer}.{place}"
_NL = f"{_PLACE}.non_local_block"


def _names(pooled: bool) -> KeyNames:
    inner = ".0.conv" if pooled else ".conv"
    return KeyNames(
        [
            ("backbone.conv1.conv.weight", "conv1.weight"),
            ("backbone.conv1.bn.{part}", "bn1.{part}"),
            (f"{_PLACE}.conv{{conv}}.conv.weight", f"{_OURS}.conv{{conv}}.weight"),
            (f"{_PLACE}.conv{{conv}}.bn.{{part}}", f"{_OURS}.bn{{conv}}.{{part}}"),
            (f"{_PLACE}.downsample.conv.weight", f"{_OURS}.downsample.0.weight"),
            (f"{_PLACE}.downsample.bn.{{part}}", f"{_OURS}.downsample.1.{{part}}"),
            (f"{_NL}.theta.conv.{{part}}", f"{_OURS}.nl.theta.{{part}}"),
            (f"{_NL}.phi{inner}.{{part}}", f"{_OURS}.nl.phi.{{part}}"),
            (f"{_NL}.g{inner}.{{part}}", f"{_OURS}.nl.g.{{part}}"),
            (f"{_NL}.conv_out.conv.{{part}}", f"{_OURS}.nl.W_z.{{part}}"),
            (f"{_NL}.conv_out.bn.{{part}}", f"{_OURS}.nl.norm.{{part}}"),
            (f"{_NL}.concat_project.conv.weight", f"{_OURS}.nl.w_f"),
            ("cls_head.fc_cls.{part}", "fc.{part}"),
        ]
    )


_POOLED, _NOT_POOLED = _names(pooled=True), _names(pooled=False)


def recognises(state: State) -> bool:
    """Return whether these are keys of a network of clips of its."""
    first = state.get("backbone.conv1.conv.weight")
    return first is not None and first.dim() == 5


def to_ours(state: State) -> tuple[State, dict[str, Any]]:
    """Return the state dict under our names, and whether its blocks sub-sample."""
    pools = not any(key.endswith(".non_local_block.g.conv.weight") for key in state)
    ours = (_POOLED if pools else _NOT_POOLED).state_to_ours(state)
    for block in blocks_in(ours):
        weight = ours.get(f"{block}W_z.weight")
        if weight is not None:
            # Ours has a bias before its norm; a zero changes nothing.
            ours.setdefault(f"{block}W_z.bias", weight.new_zeros(len(weight)))
        if f"{block}w_f" in ours:
            ours[f"{block}w_f"] = ours[f"{block}w_f"].flatten()
    add_identity_norms_(ours)
    return ours, {} if pools else {"sub_sample": None}


def from_ours(state: State, pools: bool) -> State:
    """Return a state dict of ours under its names; a bias of W_z becomes part of the norm's mean.

    Raises:
        CheckpointError: A tensor has no place in its networks.
    """
    state = dict(state)
    add_identity_norms_(state)
    for block in blocks_in(state):
        mean = f"{block}norm.running_mean"
        state[mean] = state[mean] - state.pop(f"{block}W_z.bias")
        if f"{block}w_f" in state:
            state[f"{block}w_f"] = state[f"{block}w_f"].view(1, -1, 1, 1)
    return (_POOLED if pools else _NOT_POOLED).state_to_theirs(state)


SOURCE = Source(
    name="mmaction2",
    recognises=recognises,
    to_ours=to_ours,
    settings={"sub_sample": "after", "use_scale": False, "window": None},
    early_settings={"pool1_skips_frames": True},
    clip="32x2",
    mean=(123.675, 116.28, 103.53),
    standard_deviation=(58.395, 57.12, 57.375),
    from_ours=from_ours,
    container="state_dict",
    beside={"meta": {}},
)
