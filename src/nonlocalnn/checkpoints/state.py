"""State dicts: reading them without running what a file holds, and loading them without a silent gap."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from nonlocalnn._errors import one_line
from nonlocalnn.checkpoints import restricted_pickle

State = dict[str, Tensor]

# A zip file, and what torch.save wrote before it wrote those: a number of its own, pickled.
_TORCH_BEGINS = (b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")
_CONTAINERS = ("model_state", "state_dict")
# Caffe2's momentum and counters.
_OF_TRAINING = re.compile(r"_momentum$|^(lr|model_iter|epoch)$")


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or does not fit the model; the message says what is wrong."""


def read_pickle(path: Path) -> State:
    """Read the state dict of a pickle: a file of ``torch.save``, or Python 2's with NumPy arrays.

    Read are tensors or arrays and plain containers only. Where the state dict is the entry "model_state",
    "state_dict" or "blobs" of others, the others are left out. Keys that begin with ``module.``, as
    DataParallel writes them, lose it.

    Raises:
        CheckpointError: The file is damaged, holds anything that is not a tensor or a plain container, or
            is no state dict.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    content = _read_torch(path) if _is_of_torch(path) else _read_arrays(path)
    for name in _CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
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


def _is_of_torch(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(16).startswith(_TORCH_BEGINS)


def _read_torch(path: Path) -> object:
    check_zip(path)
    try:
        # weights_only refuses every class but tensors and plain containers: reading runs no code.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols: the refusal below says what matters
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch's words begin with the advice to read the file unsafely: only the cause is passed on.
        _, found, cause = str(error).partition("WeightsUnpickler error: ")
        reason = f": {cause.splitlines()[0].strip()}" if found else ""
        raise CheckpointError(
            f"{path} holds more than tensors, or is damaged, and was not read{reason}"
        ) from None
    except Exception as error:  # what a damaged file raises is anybody's guess
        raise CheckpointError(
            f"{path} is no checkpoint that torch.save wrote, or is damaged: {one_line(error)}"
        ) from None


def check_zip(path: Path) -> None:
    """Refuse a zip file that unpacks to more than it has: ``torch.save`` does not compress.

    Raises:
        CheckpointError: It does, or its list of parts is damaged.
    """
    try:
        if not zipfile.is_zipfile(path):
            return  # an older file, or a cut one, which torch.load refuses
        with zipfile.ZipFile(path) as file:
            unpacked = sum(entry.file_size for entry in file.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{path} is damaged: {one_line(error)}") from None
    if unpacked > path.stat().st_size:
        raise CheckpointError(
            f"{path} is no checkpoint that torch.save wrote, or is damaged: its {path.stat().st_size} bytes "
            f"claim to unpack to {unpacked}"
        )


def _read_arrays(path: Path) -> object:
    """Return what a pickle of NumPy arrays holds, without what only going on with a training needs."""
    try:
        content = restricted_pickle.loads(path.read_bytes())
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors, or is damaged, and was not read: {one_line(error)}"
        ) from None
    blobs = content.get("blobs", content) if isinstance(content, dict) else content
    if not isinstance(blobs, dict):
        return blobs
    return {key: value for key, value in blobs.items() if not _OF_TRAINING.search(str(key))}


def check_numbers(state: Mapping[str, Tensor], source: str) -> None:
    """Check that tensors are what weights are: numbers in memory, one a place, and real.

    Raises:
        CheckpointError: One is not; the message names it.
    """
    for key, value in state.items():
        if value.is_meta or value.is_complex() or value.is_quantized or value.layout != torch.strided:
            raise CheckpointError(
                f"{source} must hold plain tensors of real numbers; {key} is {value.layout}, "
                f"{value.dtype}, on {value.device}"
            )


def load_state(
    model: nn.Module, state: Mapping[str, Tensor], source: str, *, allow_partial: bool = False
) -> list[str]:
    """Copy ``state`` into ``model``, whole or, unless ``allow_partial``, not at all.

    Args:
        model: Receives the tensors.
        state: Names and tensors; names that end in ``num_batches_tracked`` may be absent.
        source: What the error calls the checkpoint.
        allow_partial: Missing and unexpected keys are no error; those of another shape are.

    Returns:
        What is missing and unexpected, one sentence each; nothing unless ``allow_partial``.

    Raises:
        CheckpointError: Keys are missing, unexpected or of another shape; the message names them.
    """
    gaps = check_fit(model, state, source, allow_partial=allow_partial)
    model.load_state_dict(state, strict=False)
    return gaps


def check_fit(
    model: nn.Module, state: Mapping[str, Tensor], source: str, *, allow_partial: bool = False
) -> list[str]:
    """Check that ``state`` fits ``model``, which may be without memory; see :func:`load_state`."""
    own = model.state_dict()
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    misshaped = [
        f"{key} {tuple(value.shape)} for {tuple(own[key].shape)}"
        for key, value in state.items()
        if key in own and value.shape != own[key].shape
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("mis-shaped", misshaped))
    problems = [f"{kind} keys: {_listed(keys)}" for kind, keys in kinds if keys]
    if problems and (misshaped or not allow_partial):
        raise CheckpointError(f"{source} does not fit {type(model).__name__}: " + "; ".join(problems))
    return problems


def _listed(names: list[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
