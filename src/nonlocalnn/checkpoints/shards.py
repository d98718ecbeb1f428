"""Weights that lie in several files, which an index names: as Hugging Face saves large models."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nonlocalnn._errors import counted, one_line
from nonlocalnn._files import kind_of_beginning
from nonlocalnn.checkpoints.entries import under_prefix
from nonlocalnn.checkpoints.other_files import INDEX, is_index
from nonlocalnn.checkpoints.state import CheckpointError, State, listed

_LONGEST = 200  # bytes of a file's name
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.\w+)")


def read_shards(path: Path, entry: str | None, read: Callable[[Path, str | None], State]) -> State:
    """Return the state dict whose shards an index names.

    Args:
        path: The index: JSON with a ``weight_map`` from the names of weights to those of files beside it.
        entry: Which entry of each shard is meant, or what stands before the names that are.
        read: Reads that of one shard.

    Raises:
        CheckpointError: It is no such index, names files elsewhere, a shard or a weight in one is missing, or
            a weight lies in two shards.
    """
    places = _weight_map(path)
    if entry is not None:
        # Only the shards that hold such names: the others have nothing to read.
        places = under_prefix(places, entry) or places
    names = sorted(set(places.values()))
    # A file of strangers must not choose what else is read; an index in an index could go on without end.
    strangers = [name for name in names if _is_elsewhere(name)]
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
        tensors = read(path.parent / name, entry)
        lacking = sorted(key for key, place in places.items() if place == name and key not in tensors)
        if lacking:
            raise CheckpointError(f"{path} says that {name} holds {listed(lacking)}, and it does not")
        # What the index leaves out is kept: the model says whether it is wanted.
        kept = {key: value for key, value in tensors.items() if places.get(key, name) == name}
        twice = sorted(kept.keys() & state.keys())
        if twice:
            raise CheckpointError(
                f"{listed(twice)} lies in {name} and in another shard, and {path} does not say which counts: "
                "name one of the two in its weight_map"
            )
        state |= kept
    return state


def files_read(path: Path) -> list[Path]:
    """Return the files that loading a checkpoint reads: itself, and the shards that it names as an index.

    Raises:
        CheckpointError: It is called an index, and is none.
    """
    shards = set(_weight_map(path).values()) if is_index(path) and path.is_file() else set()
    return [path, *(path.parent / name for name in sorted(shards) if not _is_elsewhere(name))]


def _is_elsewhere(name: str) -> bool:
    """Return whether a name is not that of a file of weights beside the index."""
    return (
        re.search(r"[/\\:\0]", name) is not None
        or name in ("", ".", "..")
        or is_index(Path(name))
        or len(name.encode(errors="surrogatepass")) > _LONGEST
    )


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
    data = path.read_bytes()
    try:
        content = json.loads(data, object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:
        # What begins like JSON is a damaged index; anything else was saved under its name.
        kind = None if data.lstrip()[:1] == b"{" else kind_of_beginning(data[:512])
        reason = f", or is damaged: {one_line(error)}" if kind is None else f": it begins like {kind}"
        raise CheckpointError(f"{path} is no index of shards{reason}") from None
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not (isinstance(places, dict) and places and all(isinstance(each, str) for each in places.values())):
        raise CheckpointError(
            f"{path} is no index of shards: it must have a weight_map from names of weights to names of files"
        )
    return places


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object, whose last value of a name would count without a word."""
    names = [name for name, _ in pairs]
    twice = [name for name, number in Counter(names).items() if number > 1]
    if twice:
        raise ValueError(f"it names {listed(twice)} twice")
    return dict(pairs)


def _quoted(names: list[str]) -> str:
    return listed([repr(name)[:100] for name in names])
