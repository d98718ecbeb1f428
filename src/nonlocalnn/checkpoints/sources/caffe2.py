"""Checkpoints of facebookresearch/video-nonlocal-net, the paper's own code, in Caffe2.

================================== ==========================
its blob                           ours
================================== ==========================
conv1_w, res_conv1_bn_*            conv1.weight, bn1.*
res3_1_branch2a_w, ..._bn_*        layer2.1.conv1.weight, bn1.*
res3_0_branch1_w, ..._bn_*         layer2.0.downsample.{0,1}.*
nonlocal_conv3_1_theta_{w,b}       layer2.1.nl.theta.*
nonlocal_conv3_1_out_{w,b}, _bn_*  layer2.1.nl.W_z.*, norm.*
pred_{w,b}                         fc.*
================================== ==========================

Norms have ``_s``, ``_b``, ``_rm`` and ``_riv``: factor, term, mean and, whatever its name says, variance.
Frozen ones have the first two only.
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from nonlocalnn.checkpoints.sources.key_names import KeyNames
from nonlocalnn.checkpoints.sources.norms import add_identity_norms_, blocks_in, complete_norm_, fold_norm_
from nonlocalnn.checkpoints.sources.source import Source
from nonlocalnn.checkpoints.state import State

_NL = "nonlocal_conv{res}_{place}"
_NAMES = KeyNames(
    [
        ("conv1_w", "conv1.weight"),
        ("res_conv1_bn_{statistic}", "bn1.{statistic}"),
        ("res{res}_{place}_branch2{letter}_w", "layer{res}.{place}.conv{letter}.weight"),
        ("res{res}_{place}_branch2{letter}_bn_{statistic}", "layer{res}.{place}.bn{letter}.{statistic}"),
        ("res{res}_{place}_branch1_w", "layer{res}.{place}.downsample.0.weight"),
        ("res{res}_{place}_branch1_bn_{statistic}", "layer{res}.{place}.downsample.1.{statistic}"),
        (f"{_NL}_theta_{{short}}", "layer{res}.{place}.nl.theta.{short}"),
        (f"{_NL}_phi_{{short}}", "layer{res}.{place}.nl.phi.{short}"),
        (f"{_NL}_g_{{short}}", "layer{res}.{place}.nl.g.{short}"),
        (f"{_NL}_out_{{short}}", "layer{res}.{place}.nl.W_z.{short}"),
        (f"{_NL}_bn_{{statistic}}", "layer{res}.{place}.nl.norm.{statistic}"),
        ("pred_{short}", "fc.{short}"),
    ]
)


def recognises(state: State) -> bool:
    """Return whether these are its blobs."""
    return "conv1_w" in state and any(key.startswith("res2_0_branch2") for key in state)


def to_ours(state: State) -> tuple[State, dict[str, Any]]:
    """Return the state dict under our names, and which norms its network has."""
    # One norm without statistics among others that have them has lost them, and is not frozen.
    is_frozen = not any(re.fullmatch(r"res.*_bn_(rm|riv)", key) for key in state)
    ours = {key: _reshaped(key, value) for key, value in _NAMES.state_to_ours(state).items()}
    if not is_frozen:
        add_identity_norms_(ours)
        return ours, {"norm": "batch"}
    for norm in [key.removesuffix("bias") for key in ours if key.endswith("bias")]:
        if re.search(r"(bn\d|downsample\.1|norm)\.$", norm):
            complete_norm_(ours, norm)
    for block in blocks_in(ours):
        fold_norm_(ours, block)
    return ours, {"norm": "frozen"}


def _reshaped(key: str, value: Tensor) -> Tensor:
    """Return a weight with the sides that some files leave out, or have in addition."""
    if key == "fc.weight":
        return value.flatten(1)
    if ".nl." in key and key.endswith("weight") and ".norm." not in key:
        return value.reshape(*value.shape[:2], 1, 1, 1)
    return value


SOURCE = Source(
    name="video-nonlocal-net",
    recognises=recognises,
    to_ours=to_ours,
    settings={"pads_pool1": False},
    groups_frames=True,
)
