"""Loading a checkpoint of any known kind, recognised by what it holds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from nonlocalnn._errors import one_line
from nonlocalnn.checkpoints import alexhex7, caffe2, mmaction2, slowfast
from nonlocalnn.checkpoints.architecture import CLIPS, clip_named, network_config, network_facts
from nonlocalnn.checkpoints.description import Description
from nonlocalnn.checkpoints.native import read_native
from nonlocalnn.checkpoints.source import Source
from nonlocalnn.checkpoints.state import (
    CheckpointError,
    State,
    check_fit,
    check_numbers,
    load_state,
    read_pickle,
)
from nonlocalnn.models import inflate_

SOURCES = (caffe2.SOURCE, slowfast.SOURCE, mmaction2.SOURCE)
OURS, _ALEXHEX7 = "nonlocalnn", "AlexHex7/Non-local_pytorch"


@dataclass(frozen=True)
class Imported:
    """A checkpoint that was read, and what was found.

    Args:
        model: With the weights, on the CPU when it was built here.
        source: The code base whose file it is.
        metadata: What a :class:`~nonlocalnn.classifier.Classifier` of it needs to know; empty where that is
            not known.
        num_tensors: How many tensors the file holds, momentum and counters not counted.
        gaps: With ``allow_partial``: which keys are missing or not used.
    """

    model: nn.Module
    source: str
    metadata: dict[str, Any]
    num_tensors: int
    gaps: list[str]


@dataclass(frozen=True)
class _Content:
    name: str
    state: State
    config: dict[str, Any] | None
    num_tensors: int
    source: Source | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


def load_checkpoint(
    path: str | os.PathLike[str], model: nn.Module | None = None, *, clip: str | None = None
) -> nn.Module:
    """Load a checkpoint: our own, or another code base's, recognised by its content.

    Known are safetensors files of :func:`save_checkpoint`, which say how the network is made again (by this
    library, torchvision or timm, and with which blocks), state dicts of our models written by
    ``torch.save``, the video networks of video-nonlocal-net (the paper's own code, in Caffe2), SlowFast and
    mmaction2, and the digit network of AlexHex7/Non-local_pytorch. Dot product and embedded Gaussian have the
    same keys everywhere, and the second is assumed: pass a dot-product model to load one as such. Reading
    never runs code that a file may hold.

    Args:
        path: The file.
        model: Receives the weights; None builds the model that the file tells of. A video network takes those
            of the Caffe2 image network by :func:`nonlocalnn.inflate_`.
        clip: For a video network of another code base: frames and stride of its clips, "8x8", "32x2", "32x4"
            or "128x1". By default the setting in the file's name, else what that code base publishes: "8x8"
            of SlowFast and "32x2" of mmaction2.

    Returns:
        The model, on the CPU when it was built here, in train mode as built.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: The file is damaged, holds more than tensors, does not say what builds its model,
            or does not fit ``model``; missing, unexpected and mis-shaped keys are named.
        ValueError: ``clip`` is unknown, or has no effect.

    Example:
        >>> import tempfile
        >>> from nonlocalnn.checkpoints import save_checkpoint
        >>> from nonlocalnn.models import create_model
        >>> path = tempfile.mkdtemp() + "/digits.safetensors"
        >>> save_checkpoint(create_model("nl_digits", instantiation="gaussian"), path)
        >>> load_checkpoint(path).nl_1.instantiation
        'gaussian'
    """
    return import_checkpoint(path, model, clip=clip).model


def import_checkpoint(
    path: str | os.PathLike[str],
    model: nn.Module | None = None,
    *,
    clip: str | None = None,
    dot_product: bool = False,
    allow_partial: bool = False,
) -> Imported:
    """Load a checkpoint and say what was found; see :func:`load_checkpoint`.

    Args:
        path: The file.
        model: Receives the weights; None builds the model that the file tells of.
        clip: Frames and stride of its clips.
        dot_product: The blocks are of the kind whose keys are those of the embedded Gaussian.
        allow_partial: Missing and unexpected keys are no error: what is missing keeps fresh weights.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: As :func:`load_checkpoint` says.
        ValueError: A setting has no effect.

    Example:
        >>> import tempfile
        >>> from nonlocalnn.checkpoints import save_checkpoint
        >>> from nonlocalnn.models import create_model
        >>> path = tempfile.mkdtemp() + "/digits.safetensors"
        >>> save_checkpoint(create_model("nl_digits"), path)
        >>> found = import_checkpoint(path)
        >>> found.source, found.gaps
        ('nonlocalnn', [])
    """
    path = Path(path)
    if model is not None and (clip is not None or dot_product):
        raise ValueError("clip and dot_product choose a model: leave them out where one is given")
    content = _read(path, clip, needs_config=model is None)
    if model is None:
        model = _build(content, path, dot_product=dot_product, allow_partial=allow_partial)
    if _is_of_images(content.state) and any(value.dim() == 5 for value in model.state_dict().values()):
        gaps = _inflate_(model, content.state, path)
    else:
        gaps = load_state(model, content.state, str(path), allow_partial=allow_partial)
    config = getattr(model, "config", None)
    if content.source is None or config is None:
        metadata = content.metadata
    else:
        metadata = network_facts(config, content.source)
    return Imported(model, content.name, metadata, content.num_tensors, gaps)


def _read(path: Path, clip: str | None, *, needs_config: bool) -> _Content:
    native = read_native(path)
    config, metadata, state = (None, {}, read_pickle(path)) if native is None else native
    check_numbers(state, str(path))
    source = next((source for source in SOURCES if source.recognises(state)), None)
    if source is not None:
        return _read_network(path, source, state, clip, needs_config=needs_config)
    if clip is not None:
        raise ValueError(f"clip is for video networks of other code bases; {path} holds none: leave it out")
    if not alexhex7.recognises(state):
        return _Content(OURS, state, config, len(state), metadata=metadata)
    try:
        config, renamed = alexhex7.translate(state)
    except CheckpointError as error:
        raise CheckpointError(f"{path} looks like AlexHex7's digit network, but {error}") from None
    return _Content(_ALEXHEX7, renamed, config, len(state))


def _read_network(
    path: Path, source: Source, state: State, clip: str | None, *, needs_config: bool
) -> _Content:
    try:
        renamed, told = source.to_ours(state)
        if not needs_config:
            return _Content(source.name, renamed, None, len(state), source)
        if _is_of_images(renamed):
            raise CheckpointError(
                "they are of an image network: name the video network that takes them over, as model"
            )
        clip = clip or clip_named(path.name) or source.clip
        if clip is None:
            raise CheckpointError(
                "neither they nor the file's name tell the clip setting: "
                f"give clip, one of {', '.join(CLIPS)}, or convert the file with --clip first"
            )
        config = network_config(renamed, source, told, clip)
    except CheckpointError as error:
        raise CheckpointError(f"{path} has the keys of {source.name}, but {error}") from None
    return _Content(source.name, renamed, config, len(state), source)


def _is_of_images(state: State) -> bool:
    stem = state.get("conv1.weight")
    return stem is not None and stem.dim() == 4


def _inflate_(model: nn.Module, state: State, path: Path) -> list[str]:
    try:
        kept = inflate_(model, state)
    except ValueError as error:
        raise CheckpointError(f"{path} is no image network that fits the model: {error}") from None
    return [f"not in the image network, and left as they were: {', '.join(kept)}"] if kept else []


def _build(content: _Content, path: Path, *, dot_product: bool, allow_partial: bool) -> nn.Module:
    config = content.config
    if config is None:
        raise CheckpointError(
            f"{path} does not say what builds its model: give load_checkpoint the model as well (the command "
            "line takes networks that create_model, torchvision or timm made, saved by save_checkpoint)"
        )
    try:
        description = Description.from_config(config)
        if dot_product:
            kind = {"instantiation": _dot_product(description.overrides, path)}
            description = replace(description, overrides={**description.overrides, **kind})
        # First without memory: a wrong configuration may ask for any amount of it.
        check_fit(description.sketch(), content.state, str(path), allow_partial=allow_partial)
        return description.build()
    except CheckpointError:
        raise
    except ImportError as error:
        raise ImportError(f"{path} cannot be loaded: {error}") from None
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError, AttributeError) as error:
        raise CheckpointError(f"{path} has a configuration that builds no model: {one_line(error)}") from None


def _dot_product(overrides: Mapping[str, Any], path: Path) -> str:
    found = overrides.get("instantiation", "embedded_gaussian")
    if found not in ("embedded_gaussian", "dot_product"):
        raise CheckpointError(f"{path} holds blocks of the kind {found!r}, not of the dot product")
    return "dot_product"
