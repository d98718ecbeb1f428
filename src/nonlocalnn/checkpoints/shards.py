"""Weights that lie in several files, which an index names: as Hugging Face saves large models."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from nonlocalnn._errors import counted, one_line
from nonlocalnn.checkpoints.other_files import INDEX
from nonlocalnn.checkpoints.state import CheckpointError, State, listed

_LONGEST = 200  # letters of a file's name
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.\w+)")


def read_shards(path: Path, read: Callable[[Path], State]) -> State:
    """Return the state dict whose shards an index names.

    Args:
        path: The index: JSON with a ``weight_map`` from the names of weights to those of files beside it.
        read: Reads one shard.

    Raises:
        CheckpointError: It is no such index, names files elsewhere, or a shard or a weight in one is missing.
    """
    places = _weight_map(path)
    names = sorted(set(places.values()))
    # A file of strangers must not choose what else is read; an index in an index could go on without end.
    strangers = [
        name
        for name in names
        if re.search(r"[/\\:\0]|\.index\.json$", name) or name in ("", ".", "..") or len(name) > _LONGEST
    ]
    if strangers:
        raise CheckpointError(f"{path} must name files of weights beside it; it names {_quoted(strangers)}")
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{path} is an index of {counted(len(names), 'shard')}, and beside it there is no "
            f"{_quoted(missing)}: fetch what is missing"
        )
    state: State = {}
    for name in names:
        tensors = read(path.parent / name)
        wanted = {key for key, place in places.items() if place == name}
        lacking = [key for key in wanted if key not in tensors]
        if lacking:
            raise CheckpointError(f"{path} says that {name} holds {listed(lacking)}, and it does not")
        # What the index leaves out is kept: the model says whether it is wanted.
        state |= {key: value for key, value in tensors.items() if places.get(key, name) == name}
    return state


def shard_in_words(file: str) -> str | None:
    """Return that a file is one of several shards, and what to give, by its name; None of other names.

    Example:
        >>> shard_in_words("model-00001-of-00002.safetensors")
        'it is shard 1 of 2: give the index beside the shards, model.safetensors.index.json'
        >>> shard_in_words("model-00001-of-00001.safetensors")
    """
    found = _SHARD.fullmatch(Path(file).name)
    if found is None or int(found["count"]) < 2:
        return None
    index = f"{found['stem']}{found['suffix']}{INDEX}"
    return (
        f"it is shard {int(found['number'])} of {int(found['count'])}: give the index beside the shards, "
        f"{index}"
    )


def _weight_map(path: Path) -> dict[str, str]:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no index of shards, or is damaged: {one_line(error)}") from None
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not (isinstance(places, dict) and places and all(isinstance(each, str) for each in places.values())):
        raise CheckpointError(
            f"{path} is no index of shards: it must have a weight_map from names of weights to names of files"
        )
    return places


def _quoted(names: list[str]) -> str:
    return listed([repr(name)[:100] for name in names])
