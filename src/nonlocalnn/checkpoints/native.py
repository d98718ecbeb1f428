"""Our own checkpoints: safetensors, with what builds the model in the header."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from nonlocalnn._errors import one_line
from nonlocalnn._files import atomic_path
from nonlocalnn.checkpoints.description import Description, config_of
from nonlocalnn.checkpoints.entries import under_prefix
from nonlocalnn.checkpoints.fitting import check_fit, fitted
from nonlocalnn.checkpoints.other_files import check_is_file, is_index
from nonlocalnn.checkpoints.shards import read_shards
from nonlocalnn.checkpoints.state import CheckpointError, State, begins_as_safetensors, read_weights
from nonlocalnn.checkpoints.wrapped import plain_model, plain_state
from nonlocalnn.data.normalization import wrong_unit
from nonlocalnn.models.libraries import is_of_library

_FORMAT = "nonlocalnn"


def save_checkpoint(
    model: nn.Module, path: str | os.PathLike[str], *, metadata: dict[str, Any] | None = None
) -> None:
    """Write a model's weights and what builds it to a safetensors file, whole or not at all.

    A network that :func:`nonlocalnn.create_model`, torchvision or timm made can be loaded again without
    naming it, with the blocks that were inserted and a head of another width: the file says how it is made
    again. Its weights that are computed from others, as by spectral norm, weight norm or pruning, are
    written as they are in eval mode. Any other module can be saved too, with its own keys; loading then
    needs the module.

    Args:
        model: Its ``state_dict`` is written; of a compiled model, DataParallel, AveragedModel or the like,
            that of the model inside.
        path: The file; an existing one is replaced.
        metadata: JSON-ready facts to keep beside the weights, such as class names.

    Raises:
        ValueError: ``metadata`` is not JSON-ready, or a tensor has no numbers here: it is sharded over ranks,
            or on the meta device.
        TypeError: ``model`` is no module.

    Warns:
        UserWarning: The model was changed since it was made by name, as by a head of two layers: loading will
            need it. Or ``mean`` or ``standard_deviation`` of the metadata is of values from 0 to 1, and the
            commands will refuse it.

    Example:
        >>> import tempfile
        >>> from nonlocalnn.models import create_model
        >>> path = tempfile.mkdtemp() + "/digits.safetensors"
        >>> save_checkpoint(create_model("nl_digits"), path, metadata={"classes": ["0", "1"]})
        >>> read_metadata(path)
        {'classes': ['0', '1']}
    """
    facts = as_json(metadata)
    plain = plain_model(model)
    # Sequences have units of their own: only pixels are known to go to 255.
    of_pixels = any(isinstance(layer, nn.Conv2d | nn.Conv3d) for layer in plain.modules())
    for name in ("mean", "standard_deviation") if of_pixels else ():
        # No error: what a training has found is written first. Reading the facts refuses them.
        if problem := wrong_unit(name, (metadata or {}).get(name)):
            warnings.warn(f"{path} will be refused by predict and its like: {problem}", stacklevel=2)
    config = config_of(plain)
    # Weights that are computed from others are written as such only where the file builds its network. Other
    # modules keep their own keys, and load exactly.
    state = plain_state(model if config is None else plain)
    if config is not None:
        try:
            state = _as_made(config, state)
        except ValueError as error:
            reason = one_line(error)
            warnings.warn(f"{path} will load into a model that you give only: {reason}", stacklevel=2)
            config, state = None, plain_state(model)
    elif is_of_library(plain):
        name = type(plain).__name__
        warnings.warn(
            f"{path} will load into a model that you give only: the {name} was changed by more than blocks "
            "and the width of its last layer, so that no name makes it again",
            stacklevel=2,
        )
    # A header of safetensors holds texts only, so that its values are JSON once more.
    header = {"format": _FORMAT, "config": json.dumps(config), "metadata": facts}
    with atomic_path(path) as temporary:
        try:
            save_file(state, temporary, metadata=header)
        except SafetensorError as error:
            raise OSError(f"cannot write {path}: {one_line(error)}") from error


def as_json(metadata: dict[str, Any] | None) -> str:
    """Return facts as they are kept in a file.

    Raises:
        ValueError: They are none that JSON has.
    """
    if not isinstance(metadata, dict | None):
        raise ValueError(f"metadata must be a dictionary of facts; got a {type(metadata).__name__}")
    try:
        return json.dumps(metadata or {}, default=_refuse)
    except (TypeError, ValueError) as error:
        raise ValueError(f"metadata must be JSON-ready: {error}") from None


def _refuse(value: object) -> None:
    """Say of what JSON does not have how it is given, such as numbers of NumPy."""
    raise TypeError(
        f"got {str(value)[:40]!r}, a {type(value).__name__}: give Python's own numbers, texts, lists and "
        "dictionaries, as by .item() or .tolist()"
    )


def _as_made(config: dict[str, Any], state: State) -> State:
    """Return a state dict under the keys of the network that a configuration builds."""
    sketch = Description.from_config(config).sketch()
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
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged: {one_line(error)}") from None
    return _from_header(header, "metadata", path) or {}


def read_native(
    path: Path, entry: str | None = None
) -> tuple[dict[str, Any] | None, dict[str, Any], State] | str:
    """Return the configuration (None where the header has none), the metadata and the state dict of a file.

    The file is opened once, so that all of it is of one file even where another takes its place meanwhile.
    Of an index of shards the state dict is that of all of them.

    Args:
        path: The file.
        entry: What stands before the names of the weights to take; of shards of ``torch.save`` an entry too.

    Returns:
        The reason, one line, where it cannot be read as safetensors: it is another file, or damaged.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: Its header is damaged, a shard is missing or cannot be read, or nothing lies under
            ``entry``.
    """
    check_is_file(path)
    if is_index(path):
        return None, {}, read_shards(path, entry, _weights_of)
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        return one_line(error)
    if entry is not None:
        state = under_prefix(state, entry)
        if not state:
            raise CheckpointError(
                f"{path} is a safetensors file without names that begin with {entry!r}, and has no entries: "
                "leave entry out"
            )
    return _from_header(header, "config", path), _from_header(header, "metadata", path) or {}, state


def is_safetensors(path: Path) -> bool:
    """Return whether the file begins as safetensors do: 8 bytes of length, then a JSON object.

    Raises:
        FileNotFoundError: There is no such file.
    """
    check_is_file(path)
    with path.open("rb") as file:
        return begins_as_safetensors(file.read(9))


def _weights_of(shard: Path, entry: str | None) -> State:
    found = read_native(shard, entry)
    return read_weights(shard, entry, refusal=found)[0] if isinstance(found, str) else found[2]


def _from_header(header: dict[str, str], field: str, path: str | os.PathLike[str]) -> dict[str, Any] | None:
    # Files of other libraries have headers too, and other meanings in them.
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
