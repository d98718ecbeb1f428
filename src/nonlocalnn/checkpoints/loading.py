"""Loading a checkpoint of any known kind, recognised by what it holds."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from nonlocalnn._errors import check_choice, check_module, one_line
from nonlocalnn.blocks import nonlocal_blocks
from nonlocalnn.checkpoints.architecture import CLIPS, clip_named, network_config, network_facts
from nonlocalnn.checkpoints.description import Description
from nonlocalnn.checkpoints.fitting import check_fit, fitted, load_state
from nonlocalnn.checkpoints.images import STAYED, fill_, images_for, is_of_images
from nonlocalnn.checkpoints.kinds import ALIKE, are_alike, check_said, kind_named, kind_written
from nonlocalnn.checkpoints.native import read_native
from nonlocalnn.checkpoints.sources import alexhex7, caffe2, mmaction2, slowfast
from nonlocalnn.checkpoints.sources.source import Source
from nonlocalnn.checkpoints.state import CheckpointError, State, check_numbers, read_weights
from nonlocalnn.checkpoints.wrapped import plain_names, unwrapped, variants
from nonlocalnn.functional import INSTANTIATIONS

SOURCES = (caffe2.SOURCE, slowfast.SOURCE, mmaction2.SOURCE)
OURS, _ALEXHEX7 = "nonlocalnn", "AlexHex7/Non-local_pytorch"


@dataclass(frozen=True)
class Imported:
    """A checkpoint that was read, and what was found.

    Args:
        model: With the weights, on the CPU when it was built here.
        source: The code base whose file it is.
        metadata: What a :class:`~nonlocalnn.inference.Classifier` of it needs to know; empty where that is
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
    said: str | None = None


def load_checkpoint(
    path: str | os.PathLike[str],
    model: nn.Module | None = None,
    *,
    clip: str | None = None,
    entry: str | None = None,
    instantiation: str | None = None,
) -> nn.Module:
    """Load a checkpoint: our own, or another code base's, recognised by its content.

    Known are safetensors files of :func:`save_checkpoint`, which say how the network is made again (by this
    library, torchvision or timm, and with which blocks), state dicts of our models written by
    ``torch.save``, the video networks of video-nonlocal-net (the paper's own code, in Caffe2), SlowFast and
    mmaction2, and the digit network of AlexHex7/Non-local_pytorch. Dot product and embedded Gaussian have the
    same keys everywhere; the second is assumed, unless the file's name or a configuration in it says
    otherwise, which is an error until ``instantiation`` or ``model`` tells. Reading never runs code that a
    file may hold.

    Words that wrappers put before keys are ignored, such as ``module.`` and ``_orig_mod.``; so are wrappers
    of ``model``. What it has on the meta device gets memory on the CPU.

    Args:
        path: The file; of weights in several, as Hugging Face saves them, the index beside them.
        model: Receives the weights; None builds the model that the file tells of. A video network takes those
            of the Caffe2 image network by :func:`nonlocalnn.inflate_`.
        clip: For a video network of another code base: frames and stride of its clips, "8x8", "32x2", "32x4"
            or "128x1". By default the setting in the file's name, else what that code base publishes: "8x8"
            of SlowFast and "32x2" of mmaction2.
        entry: Under which name a training's checkpoint holds the weights. By default the one of ``model``,
            ``state_dict`` and the like; averages, as under ``ema``, where there is no such. Or what stands
            before the names of one of several networks: "teacher" for ``teacher.conv1.weight``.
        instantiation: The kind of the blocks that another code base's file holds.

    Returns:
        The model, on the CPU when it was built here, in train mode as built.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: The file is damaged, holds no weights, does not say what builds its model, does not
            fit ``model``, or may be of two kinds; missing, unexpected and mis-shaped keys are named.
        ValueError: A setting is unknown, or has no effect.
        TypeError: ``model`` is no module.

    Warns:
        UserWarning: The file holds weights and averages of them, or is of another kind than ``model``, as its
            name says; or it is an image network's, and a layer of the video network stays as it was, such as
            a last layer of another number of classes.

    Example:
        >>> import tempfile
        >>> from nonlocalnn.checkpoints import save_checkpoint
        >>> from nonlocalnn.models import create_model
        >>> path = tempfile.mkdtemp() + "/digits.safetensors"
        >>> save_checkpoint(create_model("nl_digits", instantiation="gaussian"), path)
        >>> load_checkpoint(path).nl_1.instantiation
        'gaussian'
    """
    found = import_checkpoint(path, model, clip=clip, entry=entry, instantiation=instantiation)
    for gap in found.gaps:
        if gap.startswith(STAYED):
            warnings.warn(f"{path}: {gap}", stacklevel=2)
    return found.model


def import_checkpoint(
    path: str | os.PathLike[str],
    model: nn.Module | None = None,
    *,
    clip: str | None = None,
    entry: str | None = None,
    instantiation: str | None = None,
    dot_product: bool = False,
    allow_partial: bool = False,
) -> Imported:
    """Load a checkpoint and say what was found; see :func:`load_checkpoint`.

    Args:
        path: The file.
        model: Receives the weights; None builds the model that the file tells of.
        clip: Frames and stride of its clips.
        entry: Under which name the file holds the weights.
        instantiation: The kind of its blocks.
        dot_product: The same as ``instantiation="dot_product"``.
        allow_partial: Missing and unexpected keys are no error: what is missing keeps fresh weights.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: As :func:`load_checkpoint` says.
        ValueError: A setting has no effect.
        TypeError: ``model`` is no module.

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
    instantiation = "dot_product" if dot_product else instantiation
    if model is not None and (clip is not None or instantiation is not None):
        raise ValueError("clip and instantiation choose a model: leave them out where one is given")
    if instantiation is not None:
        check_choice("instantiation", instantiation, INSTANTIATIONS)
    if model is not None:
        check_module(model)
    content = _read(path, clip, entry, model)
    if model is None:
        model = _build(content, path, instantiation, allow_partial=allow_partial)
    else:
        _warn_of_kind(model, content, path)
    images = images_for(model, content.state)
    if images is None:
        gaps = load_state(model, content.state, str(path), allow_partial=allow_partial)
    else:
        gaps = fill_(model, images, path)
    config = getattr(unwrapped(model), "config", None)
    if content.source is None or config is None:
        metadata = content.metadata
    else:
        metadata = network_facts(config, content.source)
    return Imported(model, content.name, metadata, content.num_tensors, gaps)


def _read(path: Path, clip: str | None, entry: str | None, model: nn.Module | None) -> _Content:
    config, metadata, state, said = _read_file(path, entry)
    # Before anything is renamed or computed with them.
    check_numbers(state, str(path))
    ours = _Content(OURS, state, config, len(state), metadata=metadata, said=said)
    # A file that says how its network is made is ours, and a model that has its names needs no translation.
    if config is not None or (model is not None and _has_names(model, state)):
        _refuse_clip(clip, path)
        return ours
    # Wrappers put words before keys: the names are looked for with fewer and fewer of them.
    for variant in variants(state):
        source = next((source for source in SOURCES if source.recognises(variant)), None)
        if source is not None:
            return _read_network(path, source, variant, clip, said, needs_config=model is None)
        if alexhex7.recognises(variant):
            _refuse_clip(clip, path)
            try:
                config, renamed = alexhex7.translate(variant)
            except CheckpointError as error:
                raise CheckpointError(f"{path} looks like AlexHex7's digit network, but {error}") from None
            return _Content(_ALEXHEX7, renamed, config, len(state), said=said)
    _refuse_clip(clip, path)
    return ours


def _refuse_clip(clip: str | None, path: Path) -> None:
    if clip is not None:
        raise ValueError(f"clip is for video networks of other code bases; {path} holds none: leave it out")


def _read_file(
    path: Path, entry: str | None
) -> tuple[dict[str, Any] | None, dict[str, Any], State, str | None]:
    """Return configuration, metadata, state dict, and what the file says of the kind of its blocks."""
    native = read_native(path, entry)
    if isinstance(native, str):
        state, content = read_weights(path, entry, refusal=native)
        return None, {}, state, kind_named(path.name) or kind_written(content)
    config, metadata, state = native
    return config, metadata, state, kind_named(path.name) if config is None else None


def _has_names(model: nn.Module, state: State) -> bool:
    """Return whether a state dict has a model's own names, which then need no translation."""
    given = fitted(model, state)
    return all(key in given for key in plain_names(model, model.state_dict()))


def _warn_of_kind(model: nn.Module, content: _Content, path: Path) -> None:
    """Warn where a model's blocks are of another kind than the file says, which no key can tell."""
    kinds = {block.instantiation for block in nonlocal_blocks(model).values()}
    if content.said in ALIKE and kinds and kinds <= set(ALIKE) - {content.said}:
        warnings.warn(
            f"{path} says {content.said!r} by its name or its configuration, and the model's blocks are "
            f"{kinds.pop()!r}: both have the same keys, and the model's kind is kept",
            stacklevel=4,
        )


def _read_network(
    path: Path, source: Source, state: State, clip: str | None, said: str | None, *, needs_config: bool
) -> _Content:
    try:
        renamed, told = source.to_ours(state)
        if not needs_config:
            return _Content(source.name, renamed, None, len(state), source, said=said)
        if is_of_images(renamed):
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
    return _Content(source.name, renamed, config, len(state), source, said=said)


def _build(content: _Content, path: Path, instantiation: str | None, *, allow_partial: bool) -> nn.Module:
    config = content.config
    if config is None:
        raise CheckpointError(
            f"{path} does not say what builds its model: give load_checkpoint the model as well; or write a "
            f"file that says it, nonlocalnn convert {path} NEW.safetensors --model NAME, one of nonlocalnn "
            "models; or train from it, nonlocalnn train FOLDER --model torchvision/NAME --start-from "
            f"{path} (what save_checkpoint writes of networks of create_model, torchvision or timm says it "
            "itself)"
        )
    try:
        description = Description.from_config(config)
        if content.name != OURS and are_alike(content.state):
            check_said(content.said, instantiation, path)
        if instantiation is not None:
            kind = {"instantiation": _chosen(description.overrides, instantiation, path)}
            description = replace(description, overrides={**description.overrides, **kind})
        # First without memory: a wrong configuration may ask for any amount of it.
        check_fit(description.sketch(), content.state, str(path), allow_partial=allow_partial)
        return description.build()
    except CheckpointError:
        raise
    except ImportError as error:
        # Not a fault of the file: what makes its network is not installed here.
        raise ImportError(f"{path} cannot be loaded: {error}") from None
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError, AttributeError) as error:
        raise CheckpointError(f"{path} has a configuration that builds no model: {one_line(error)}") from None


def _chosen(overrides: Mapping[str, Any], asked: str, path: Path) -> str:
    found = overrides.get("instantiation", "embedded_gaussian")
    if found != asked and not {found, asked} <= set(ALIKE):
        raise CheckpointError(f"{path} holds blocks of the kind {found!r}, not {asked!r}")
    return asked
