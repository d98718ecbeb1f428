"""Initial weights of a training, from a checkpoint of another network."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from nonlocalnn.blocks import nonlocal_blocks
from nonlocalnn.checkpoints import CheckpointError, load_checkpoint
from nonlocalnn.checkpoints.native import is_safetensors
from nonlocalnn.checkpoints.state import read_pickle
from nonlocalnn.checkpoints.wrapped import nearest
from nonlocalnn.functional.layers import fold_norm
from nonlocalnn.models import inflate_


def start_from_(model: nn.Module, path: Path) -> list[str]:
    """Copy a checkpoint's weights into a network, in place.

    A checkpoint of ours may be of a network with other norms, fewer blocks or other classes. Frozen norms
    take the statistics of batch normalisation. Where a block has no norm, the checkpoint's is folded into
    W_z. Blocks and the last layer keep their own values where the checkpoint has none that fit. The state
    dict of an image ResNet is inflated by :func:`nonlocalnn.inflate_`.

    Args:
        model: A network of :func:`nonlocalnn.create_model`.
        path: A safetensors file of ours, or a file of ``torch.save`` with a state dict of an image network.

    Returns:
        Names of the parameters and statistics that kept their own values.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: It cannot be read, or is not of a network like this one.
    """
    if not is_safetensors(path):
        try:
            return inflate_(model, nearest(read_pickle(path), model.state_dict()))
        except CheckpointError:
            raise
        except ValueError as error:
            raise CheckpointError(f"{path} is no image network that fits this one: {error}") from None
    given, own = _comparable(load_checkpoint(path), model), model.state_dict()
    taken: dict[str, Tensor] = {}
    for name, value in given.items():
        fits = name in own and own[name].shape == value.shape
        if fits:
            taken[name] = value
        elif not name.startswith("fc."):
            found = "the network lacks it" if name not in own else f"it is {tuple(own[name].shape)} there"
            raise CheckpointError(f"{path} is of another network: {name} is {tuple(value.shape)} and {found}")
    kept = [name for name in own if name not in taken and not name.endswith("num_batches_tracked")]
    missing = [name for name in kept if ".nl." not in name and not name.startswith("fc.")]
    if missing:
        raise CheckpointError(
            f"{path} is of another network: it lacks {missing[0]} and {len(missing) - 1} more"
        )
    with torch.no_grad():
        for name, value in taken.items():
            own[name].copy_(value)
    return kept


def _comparable(source: nn.Module, model: nn.Module) -> dict[str, Tensor]:
    """Return the state of ``source``, with norms of blocks folded into W_z where ``model`` has no norm."""
    state = {
        name: value for name, value in source.state_dict().items() if not name.endswith("num_batches_tracked")
    }
    twins = nonlocal_blocks(model)
    for name, block in nonlocal_blocks(source).items():
        if block.norm is not None and name in twins and twins[name].norm is None:
            state[f"{name}.W_z.weight"], state[f"{name}.W_z.bias"] = fold_norm(block.W_z, block.norm)
            state = {key: value for key, value in state.items() if not key.startswith(f"{name}.norm.")}
    return state
