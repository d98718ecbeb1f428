"""Our video networks as checkpoints of other code bases."""

from __future__ import annotations

import io
import os
from typing import Any

import torch
from torch import nn

from nonlocalnn._errors import check_choice
from nonlocalnn._files import atomic_path
from nonlocalnn.blocks import NonLocalNd, nonlocal_blocks
from nonlocalnn.checkpoints.sources import mmaction2, slowfast
from nonlocalnn.checkpoints.sources.source import Source
from nonlocalnn.checkpoints.state import CheckpointError
from nonlocalnn.checkpoints.wrapped import plain_model, plain_state
from nonlocalnn.models import ResidualNetwork, preset_settings

TARGETS = {"slowfast": slowfast.SOURCE, "mmaction2": mmaction2.SOURCE}


def export_checkpoint(model: nn.Module, path: str | os.PathLike[str], *, to: str) -> list[str]:
    """Write the weights of a video network under another code base's names, in its container.

    A bias of W_z, which mmaction2 has not, becomes part of the mean of the norm after it, and a block without
    a norm gets one that changes nothing: outputs in eval mode stay what they are.

    Args:
        model: A video network of :func:`nonlocalnn.create_model`.
        path: The file; an existing one is replaced.
        to: "slowfast" or "mmaction2".

    Returns:
        What their code computes otherwise than the network unless it is told to, which no key says: one line
        a setting of :class:`~nonlocalnn.models.ResidualNetwork`.

    Raises:
        ValueError: ``to`` is unknown.
        CheckpointError: Their networks have no place for a tensor.

    Example:
        >>> import tempfile
        >>> from nonlocalnn.models import create_model
        >>> network = create_model("nl5_i3d_r50_8x8", width=4)
        >>> export_checkpoint(network, tempfile.mkdtemp() + "/network.pyth", to="slowfast")
        []
        >>> export_checkpoint(network, tempfile.mkdtemp() + "/network.pth", to="mmaction2")[-1]
        'use_scale is True, theirs False'
    """
    check_choice("to", to, tuple(TARGETS))
    target = TARGETS[to]
    model = plain_model(model)
    state = plain_state(model)
    if not isinstance(model, ResidualNetwork) or model.num_sides != 3 or model.is_volume or model.small_stem:
        raise CheckpointError(
            f"{target.name} has no network like this one: only those for videos are exported"
        )
    blocks = list(nonlocal_blocks(model).values())
    pools = not blocks or blocks[0].sub_sample is not None
    assert target.from_ours is not None
    try:
        theirs = target.from_ours(state, pools)
    except CheckpointError as error:
        raise CheckpointError(f"these weights are none for {target.name}: {error}") from None
    # Their own format, which their code loads: a pickle, but of tensors alone.
    # By way of memory: of a full disk PyTorch's own writer says "unexpected pos".
    written = io.BytesIO()
    torch.save({**target.beside, target.container: theirs}, written)
    with atomic_path(path) as temporary:
        temporary.write_bytes(written.getbuffer())
    return _differences(model, blocks, target)


def _differences(model: ResidualNetwork, blocks: list[NonLocalNd], target: Source) -> list[str]:
    # What no key says: a network that computes otherwise would load there without a word.
    own: dict[str, Any] = {
        "pads_pool1": model.pads_pool1,
        "halves_time_early": model.halves_time_early,
        "pool1_skips_frames": model.pool1_skips_frames,
        "window": model.window,
    }
    if blocks:
        own |= {"sub_sample": blocks[0].sub_sample, "extent": blocks[0].extent}
        if blocks[0].instantiation in ("gaussian", "embedded_gaussian"):
            own["use_scale"] = blocks[0].use_scale
    theirs = {**preset_settings("i3d_r50_8x8"), **target.settings}
    # One of them never halves time early; the other is set up to, or not.
    if target.early_settings is not None:
        theirs["halves_time_early"] = model.halves_time_early
        theirs |= target.early_settings if model.halves_time_early else {}
    return [
        f"{name} is {value!r}, theirs {theirs[name]!r}"
        for name, value in own.items()
        if value != theirs[name]
    ]
