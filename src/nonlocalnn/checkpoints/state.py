"""State dicts: reading them without running what a file holds, and loading them without a silent gap."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

State = dict[str, Tensor]


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or does not fit the model; the message says what is wrong."""


def read_pickle(path: Path) -> State:
    """Read the state dict of a file that ``torch.save`` wrote, as tensors and plain containers only.

    Keys that begin with ``module.``, as DataParallel writes them, lose it.

    Raises:
        CheckpointError: The file is damaged, holds anything that is not a tensor or a plain container, or
            is no state dict.
    """
    try:
        # weights_only refuses every class but tensors and plain containers: reading runs no code.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols: the refusal below says what matters
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch's words begin with the advice to read the file unsafely: only the cause is passed on.
        _, found, cause = str(error).partition("WeightsUnpickler error: ")
        reason = f": {cause.splitlines()[0].strip()}" if found else ""
        raise CheckpointError(
            f"{path} holds more than tensors, or is damaged, and was not read{reason}"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
        raise CheckpointError(
            f"{path} is no checkpoint that torch.save wrote, or is damaged: {error}"
        ) from None
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a state dict: names and tensors")
    strangers = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    if strangers:
        raise CheckpointError(
            f"{path} is not a plain state dict: not tensors are {_listed(strangers)}; "
            "save the model's state_dict() alone"
        )
    prefix = "module." if all(str(key).startswith("module.") for key in content) else ""
    return {str(key).removeprefix(prefix): value for key, value in content.items()}


def load_state(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copy ``state`` into ``model``, whole or not at all.

    Args:
        model: Receives the tensors.
        state: Names and tensors; names that end in ``num_batches_tracked`` may be absent.
        source: What the error calls the checkpoint.

    Raises:
        CheckpointError: Keys are missing, unexpected or of another shape; the message names them.
    """
    own = model.state_dict()
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    misshaped = [
        f"{key} {tuple(value.shape)} for {tuple(own[key].shape)}"
        for key, value in state.items()
        if key in own and value.shape != own[key].shape
    ]
    problems = [
        f"{kind} keys: {_listed(keys)}"
        for kind, keys in (("missing", missing), ("unexpected", unexpected), ("mis-shaped", misshaped))
        if keys
    ]
    if problems:
        raise CheckpointError(f"{source} does not fit {type(model).__name__}: " + "; ".join(problems))
    model.load_state_dict(state, strict=False)


def _listed(names: list[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
