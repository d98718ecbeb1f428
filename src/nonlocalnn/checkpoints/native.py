"""Our own checkpoints: safetensors, with what builds the model in the header."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from nonlocalnn._errors import one_line
from nonlocalnn._files import atomic_path
from nonlocalnn.checkpoints.fitting import check_fit, fitted
from nonlocalnn.checkpoints.state import CheckpointError, State
from nonlocalnn.checkpoints.wrapped import plain_state, unwrapped
from nonlocalnn.models import create_model

_FORMAT = "nonlocalnn"


def save_checkpoint(
    model: nn.Module, path: str | os.PathLike[str], *, metadata: dict[str, Any] | None = None
) -> None:
    """Write a model's weights and what builds it to a safetensors file, whole or not at all.

    A model of :func:`nonlocalnn.create_model` can be loaded again without naming it. Its weights that are
    computed from others, as by spectral norm, weight norm or pruning, are written as they are in eval mode.
    Any other module can be saved too, with its own keys; loading then needs the module.

    Args:
        model: Its ``state_dict`` is written; of a compiled model, DataParallel, AveragedModel or the like,
            that of the model inside.
        path: The file; an existing one is replaced.
        metadata: JSON-ready facts to keep beside the weights, such as class names.

    Raises:
        ValueError: ``metadata`` is not JSON-ready, or a tensor has no numbers here: it is sharded over ranks,
            or on the meta device.

    Warns:
        UserWarning: The model was changed since ``create_model`` made it: loading will need it.

    Example:
        >>> import tempfile
        >>> from nonlocalnn.models import create_model
        >>> path = tempfile.mkdtemp() + "/digits.safetensors"
        >>> save_checkpoint(create_model("nl_digits"), path, metadata={"classes": ["0", "1"]})
        >>> read_metadata(path)
        {'classes': ['0', '1']}
    """
    try:
        facts = json.dumps(metadata or {})
    except TypeError as error:
        raise ValueError(f"metadata must be JSON-ready: {error}") from None
    config = _config(unwrapped(model))
    state = plain_state(model, effective=config is not None)
    if config is not None:
        try:
            state = _as_made(config, state)
        except ValueError as error:
            reason = one_line(error)
            warnings.warn(f"{path} will load into a model that you give only: {reason}", stacklevel=2)
            config, state = None, plain_state(model, effective=False)
    header = {"format": _FORMAT, "config": json.dumps(config), "metadata": facts}
    with atomic_path(path) as temporary:
        try:
            save_file(state, temporary, metadata=header)
        except SafetensorError as error:
            raise OSError(f"cannot write {path}: {one_line(error)}") from error


def _config(model: nn.Module) -> dict[str, Any] | None:
    """Return what :func:`nonlocalnn.create_model` made a model of; None for other models."""
    config = getattr(model, "config", None)
    is_ours = isinstance(config, dict) and {"name", "num_classes", "overrides"} <= set(config)
    return config if is_ours else None


def _as_made(config: dict[str, Any], state: State) -> State:
    """Return a state dict under the keys of the network that a configuration builds.

    Raises:
        ValueError: It is not of that network.
    """
    with torch.device("meta"):
        sketch = create_model(config["name"], num_classes=config["num_classes"], **config["overrides"])
    check_fit(sketch, state, "it")
    return fitted(sketch, state)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the ``metadata`` that :func:`save_checkpoint` was given; empty for other files.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: The file is damaged.
    """
    if not is_safetensors(Path(path)):
        return {}
    return _from_header(_read_header(Path(path)), "metadata", path) or {}


def read_native(path: Path) -> tuple[dict[str, Any] | None, State]:
    """Return the configuration (None where the header has none) and the state dict of a safetensors file.

    Raises:
        CheckpointError: The file is damaged.
    """
    config = _from_header(_read_header(path), "config", path)
    try:
        with safe_open(path, framework="pt") as file:
            return config, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged: {one_line(error)}") from None


def is_safetensors(path: Path) -> bool:
    """Return whether the file begins as safetensors do: 8 bytes of length, then a JSON object.

    Raises:
        FileNotFoundError: There is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _read_header(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged: {one_line(error)}") from None


def _from_header(header: dict[str, str], field: str, path: str | os.PathLike[str]) -> dict[str, Any] | None:
    if header.get("format") != _FORMAT:
        return None
    try:
        value = json.loads(header.get(field, "null"))
    except (json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} has a damaged header: {field} is not JSON: {one_line(error)}"
        ) from None
    if value is not None and not isinstance(value, dict):
        raise CheckpointError(
            f"{path} has a damaged header: {field} is a {type(value).__name__}, not an object"
        )
    return value
