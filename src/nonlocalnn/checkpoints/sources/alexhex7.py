"""The digit network of AlexHex7/Non-local_pytorch: its keys, and ours.

==================================== =====================
its block                            ours
==================================== =====================
theta.{weight,bias}                  theta.{weight,bias}
phi.0.* (sub-sampled) or phi.*       phi.*
g.0.* (sub-sampled) or g.*           g.*
W.0.* and W.1.* (with bn_layer)      W_z.* and norm.*
W.{weight,bias} (without)            W_z.*
concat_project.0.weight (1,2D,1,1)   w_f (2D,)
==================================== =====================

The layers around the blocks have the same names in both.
"""

from __future__ import annotations

import re
from typing import Any

from nonlocalnn.checkpoints.state import CheckpointError, State

_BLOCKS = ("nl_1", "nl_2")
_RENAMED = (
    (re.compile(r"\.(phi|g)\.0\."), r".\1."),
    (re.compile(r"\.W\.0\."), ".W_z."),
    (re.compile(r"\.W\.1\."), ".norm."),
    (re.compile(r"\.W\.(weight|bias)$"), r".W_z.\1"),
)
_CONCATENATION = "concat_project.0.weight"


def recognises(state: State) -> bool:
    """Return whether these are the keys of its digit network."""
    return all(f"{block}.W.0.weight" in state or f"{block}.W.weight" in state for block in _BLOCKS)


def translate(state: State) -> tuple[dict[str, Any], State]:
    """Return the configuration that the keys tell of, and the state dict under our names.

    Its embedded Gaussian and its dot product have the same keys; the configuration says
    "embedded_gaussian", the kind of its published weights. For a dot product, load into a model made with
    ``instantiation="dot_product"``.

    Raises:
        CheckpointError: The two blocks are of different kinds, or a key that tells the sizes is missing.
    """
    kinds = [_block_settings(state, block) for block in _BLOCKS]
    if kinds[0] != kinds[1]:
        raise CheckpointError(f"its two blocks differ: {kinds[0]} and {kinds[1]}")
    for key in ("conv_1.0.weight", "fc.3.bias"):
        if key not in state:
            raise CheckpointError(f"missing keys: {key}")
    overrides: dict[str, Any] = {key: value for key, value in kinds[0].items() if value != _DEFAULTS[key]}
    in_channels = state["conv_1.0.weight"].shape[1:2].numel()
    # The network by that name takes one channel; what differs is written down.
    if in_channels != 1:
        overrides["in_channels"] = in_channels
    config = {"name": "nl_digits", "num_classes": state["fc.3.bias"].numel(), "overrides": overrides}
    # Its w_f is the weight of a convolution.
    return config, {
        _rename(key): value.flatten() if key.endswith(_CONCATENATION) else value
        for key, value in state.items()
    }


_DEFAULTS: dict[str, str | None] = {
    "instantiation": "embedded_gaussian",
    "sub_sample": "after",
    "norm": "batch",
}


def _block_settings(state: State, block: str) -> dict[str, str | None]:
    if f"{block}.{_CONCATENATION}" in state:
        instantiation = "concatenation"
    elif f"{block}.theta.weight" in state:
        instantiation = "embedded_gaussian"
    else:
        instantiation = "gaussian"
    return {
        "instantiation": instantiation,
        "sub_sample": "after" if f"{block}.g.0.weight" in state else None,
        "norm": "batch" if f"{block}.W.1.weight" in state else None,
    }


def _rename(key: str) -> str:
    if not key.startswith(_BLOCKS):
        return key
    for pattern, ours in _RENAMED:
        key = pattern.sub(ours, key)
    return key.replace(_CONCATENATION, "w_f")
