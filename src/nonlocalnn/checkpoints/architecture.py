"""Which network of ours another code base's state dict, under our names, is of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nonlocalnn._errors import check_choice
from nonlocalnn.checkpoints.sources.source import Source
from nonlocalnn.checkpoints.state import CheckpointError, State
from nonlocalnn.models import clip_stride, preset_settings, sample_shape
from nonlocalnn.models.placement import STAGES, block_places

CLIPS = ("8x8", "32x2", "32x4", "128x1")
_LONG_CLIPS = ("32x4", "128x1")
_DEPTHS: dict[tuple[int, ...], int] = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101}
_PREFIXES = {1: "nl1_", 5: "nl5_", 10: "nl10_"}
_KINDS = {None: "c2d", "3x1x1": "i3d", "3x3x3": "i3d333"}
_TESTED = 256  # pixels: the side of the squares of the paper's test


def clip_named(file_name: str) -> str | None:
    """Return the clip setting in a file's name, as the official files have it; None where there is none.

    Example:
        >>> clip_named("i3d_nonlocal_32x2_IN_pretrain_400k.pkl")
        '32x2'
    """
    found = re.search(rf"(?<![0-9A-Za-z])({'|'.join(CLIPS)})(?![0-9A-Za-z])", file_name)
    return found[1] if found else None


def network_config(state: State, source: Source, told: Mapping[str, Any], clip: str) -> dict[str, Any]:
    """Return what builds the network: the name nearest to it, and the settings that differ from the name's.

    Args:
        state: Under our names.
        source: Where it is from.
        told: Settings that its keys told.
        clip: Frames and stride of a clip, such as ``"8x8"``.

    Raises:
        ValueError: ``clip`` is unknown.
        CheckpointError: A tensor that tells the sizes is missing.
    """
    check_choice("clip", clip, CLIPS)
    stem = _shape(state, "conv1.weight")
    lengths = tuple(_length(state, stage) for stage in STAGES)
    inflation = _inflation(state, stem)
    # Stages of other lengths have no name: the nearest is taken, and the lengths are a setting.
    depth = _DEPTHS.get(lengths)
    name = f"{_KINDS[inflation]}_r{depth or 50}_{clip}"
    places = _places(state)
    wanted: dict[str, Any] = {
        "depth": depth or list(lengths),
        "in_channels": stem[1],
        "width": stem[0],
        **source.settings,
        "layer2_extent": 4 if source.groups_frames and clip in _LONG_CLIPS else None,
        **told,
    }
    if source.early_settings is None:
        wanted["halves_time_early"] = False
    elif preset_settings(name)["halves_time_early"]:
        wanted |= source.early_settings
    wanted |= {"norm": "batch"} if "norm" not in told else {}
    if places:
        wanted["instantiation"] = _instantiation(state, places)
        number = _paper_number(places, depth, lengths)
        if number is None:
            wanted["blocks"] = places
        else:
            name = _PREFIXES[number] + name
    else:
        for setting in ("sub_sample", "use_scale", "layer2_extent"):
            wanted.pop(setting, None)
    # Only what differs is written down, so that files say what is special about them.
    own = preset_settings(name)
    overrides = {setting: value for setting, value in wanted.items() if value != own[setting]}
    # Without its last layer, of which a partial file may lack both, it is one for Kinetics.
    num_classes = next((len(state[key]) for key in ("fc.weight", "fc.bias") if key in state), 400)
    return {"name": name, "num_classes": num_classes, "overrides": overrides}


def network_facts(config: Mapping[str, Any], source: Source) -> dict[str, Any]:
    """Return the metadata with which a converted network's file is asked about videos."""
    name = config["name"]
    _, frames, *sides = sample_shape(name)
    mean, deviation = source.mean, source.standard_deviation
    return {
        "source": source.name,
        "classes": [str(number) for number in range(config["num_classes"])],
        "multi_label": False,
        "sample_shape": [config["overrides"].get("in_channels", 3), frames, *sides],
        "stride": clip_stride(name),
        "test_size": _TESTED,
        "mean": list(mean) if isinstance(mean, tuple) else mean,
        "standard_deviation": list(deviation) if isinstance(deviation, tuple) else deviation,
    }


def _shape(state: State, key: str) -> tuple[int, ...]:
    if key not in state:
        raise CheckpointError(f"it lacks {key}, which tells the network's sizes")
    if state[key].dim() != 5:
        raise CheckpointError(f"{key} must have 5 sides, of a video network; it has {state[key].dim()}")
    return tuple(state[key].shape)


def _length(state: State, stage: str) -> int:
    places = {int(key.split(".")[1]) for key in state if re.match(rf"{stage}\.\d+\.conv", key)}
    if places != set(range(len(places))) or not places:
        raise CheckpointError(f"{stage} must have bottlenecks from 0 on; it has {sorted(places)[:8]}")
    return len(places)


def _inflation(state: State, stem: tuple[int, ...]) -> str | None:
    if stem[2] == 1:
        return None
    return "3x3x3" if _shape(state, "layer1.0.conv2.weight")[2] == 3 else "3x1x1"


def _places(state: State) -> dict[str, list[int]]:
    """Return the bottlenecks that blocks follow, for the stages that have any."""
    places: dict[str, list[int]] = {}
    for stage in STAGES:
        found = {int(key.split(".")[1]) for key in state if re.match(rf"{stage}\.\d+\.nl\.", key)}
        if found:
            places[stage] = sorted(found)
    return places


def _paper_number(places: dict[str, list[int]], depth: int | None, lengths: tuple[int, ...]) -> int | None:
    """Return how many blocks the paper's placement has that this is; None where it is none of them."""
    if depth is None:
        return None
    given = block_places(places, depth, lengths)
    return next((number for number in _PREFIXES if block_places(number, depth, lengths) == given), None)


def _instantiation(state: State, places: dict[str, list[int]]) -> str:
    # All blocks of these code bases are of one kind.
    stage, (place, *_) = next(iter(places.items()))
    block = f"{stage}.{place}.nl."
    if f"{block}w_f" in state:
        return "concatenation"
    return "embedded_gaussian" if f"{block}theta.weight" in state else "gaussian"
