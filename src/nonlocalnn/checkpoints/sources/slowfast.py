"""Checkpoints of facebookresearch/SlowFast: its C2D and I3D networks, with blocks or without.

================================== ==========================
its key                            ours
================================== ==========================
s1.pathway0_stem.conv.weight       conv1.weight
s3.pathway0_res1.branch2.a.weight  layer2.1.conv1.weight
s3.pathway0_res1.branch2.a_bn.*    layer2.1.bn1.*
s3.pathway0_res0.branch1.weight    layer2.0.downsample.0.weight
s3.pathway0_res0.branch1_bn.*      layer2.0.downsample.1.*
s3.pathway0_nonlocal1.conv_theta.* layer2.1.nl.theta.*
s3.pathway0_nonlocal1.conv_out.*   layer2.1.nl.W_z.*
s3.pathway0_nonlocal1.bn.*         layer2.1.nl.norm.*
head.projection.*                  fc.*
================================== ==========================
"""

from __future__ import annotations

from typing import Any

from nonlocalnn.checkpoints.sources.key_names import KeyNames
from nonlocalnn.checkpoints.sources.norms import add_identity_norms_, blocks_in
from nonlocalnn.checkpoints.sources.source import Source
from nonlocalnn.checkpoints.state import CheckpointError, State

_RES, _OURS = "s{res}.pathway0_res{place}", "layer{res}.{place}"
_NL = "s{res}.pathway0_nonlocal{place}"
_NAMES = KeyNames(
    [
        ("s1.pathway0_stem.conv.weight", "conv1.weight"),
        ("s1.pathway0_stem.bn.{part}", "bn1.{part}"),
        (f"{_RES}.branch2.{{letter}}.weight", f"{_OURS}.conv{{letter}}.weight"),
        (f"{_RES}.branch2.{{letter}}_bn.{{part}}", f"{_OURS}.bn{{letter}}.{{part}}"),
        (f"{_RES}.branch1.weight", f"{_OURS}.downsample.0.weight"),
        (f"{_RES}.branch1_bn.{{part}}", f"{_OURS}.downsample.1.{{part}}"),
        (f"{_NL}.conv_theta.{{part}}", f"{_OURS}.nl.theta.{{part}}"),
        (f"{_NL}.conv_phi.{{part}}", f"{_OURS}.nl.phi.{{part}}"),
        (f"{_NL}.conv_g.{{part}}", f"{_OURS}.nl.g.{{part}}"),
        (f"{_NL}.conv_out.{{part}}", f"{_OURS}.nl.W_z.{{part}}"),
        (f"{_NL}.bn.{{part}}", f"{_OURS}.nl.norm.{{part}}"),
        ("head.projection.{part}", "fc.{part}"),
    ]
)


def recognises(state: State) -> bool:
    """Return whether these are keys of a network of its with one pathway."""
    return "s1.pathway0_stem.conv.weight" in state and not any("pathway1" in key for key in state)


def to_ours(state: State) -> tuple[State, dict[str, Any]]:
    """Return the state dict under our names; the keys tell no settings."""
    return _NAMES.state_to_ours(state), {}


def from_ours(state: State, pools: bool) -> State:
    """Return a state dict of ours under its names, which are the same whether blocks sub-sample or not.

    Raises:
        CheckpointError: A tensor has no place in its networks.
    """
    state = dict(state)
    for block in blocks_in(state):
        if f"{block}theta.weight" not in state:
            raise CheckpointError("its blocks are embedded Gaussian or dot product; these are Gaussian")
    add_identity_norms_(state)
    return _NAMES.state_to_theirs(state)


SOURCE = Source(
    name="SlowFast",
    recognises=recognises,
    to_ours=to_ours,
    settings={},
    early_settings=None,
    clip="8x8",
    from_ours=from_ours,
    container="model_state",
    beside={"epoch": 0},
)
