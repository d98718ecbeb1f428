"""Loading a checkpoint of any known kind, recognised by what it holds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import nn

from nonlocalnn.checkpoints import alexhex7
from nonlocalnn.checkpoints.native import is_safetensors, read_native
from nonlocalnn.checkpoints.state import CheckpointError, State, load_state, read_pickle
from nonlocalnn.models import create_model


def load_checkpoint(path: str | os.PathLike[str], model: nn.Module | None = None) -> nn.Module:
    """Load a checkpoint: our own, or another code base's, recognised by its content.

    Known are safetensors files of :func:`save_checkpoint`, state dicts of our models written by
    ``torch.save``, and the digit network of AlexHex7/Non-local_pytorch with any of its four kinds of block
    (its dot product has the keys of its embedded Gaussian: pass a dot-product model to load one as such).
    Reading never runs code that a file may hold.

    Args:
        path: The file.
        model: Receives the weights; None builds the model that the file tells of.

    Returns:
        The model, on the CPU when it was built here, in train mode as built.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: The file is damaged, holds more than tensors, does not say what builds its model,
            or does not fit ``model``; missing, unexpected and mis-shaped keys are named.

    Example:
        >>> import tempfile
        >>> from nonlocalnn.checkpoints import save_checkpoint
        >>> path = tempfile.mkdtemp() + "/digits.safetensors"
        >>> save_checkpoint(create_model("nl_digits", instantiation="gaussian"), path)
        >>> load_checkpoint(path).nl_1.instantiation
        'gaussian'
    """
    path = Path(path)
    config, state = _read(path)
    if model is None:
        if config is None:
            raise CheckpointError(
                f"{path} does not say what builds its model: give load_checkpoint the model as well"
            )
        model = _build(config, path)
    load_state(model, state, str(path))
    return model


def _read(path: Path) -> tuple[dict[str, Any] | None, State]:
    config, state = read_native(path) if is_safetensors(path) else (None, read_pickle(path))
    if alexhex7.recognises(state):
        try:
            return alexhex7.translate(state)
        except CheckpointError as error:
            raise CheckpointError(f"{path} looks like AlexHex7's digit network, but {error}") from None
    return config, state


def _build(config: dict[str, Any], path: Path) -> nn.Module:
    try:
        return create_model(config["name"], num_classes=config["num_classes"], **config["overrides"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} has a configuration that builds no model: {error}") from None
