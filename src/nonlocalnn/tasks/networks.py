"""The network that a recipe names: one of ours, or one of torchvision or timm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from inspect import signature
from typing import Any, Protocol

import torch
from torch import nn

from nonlocalnn._errors import check_choice
from nonlocalnn.data.normalization import ChannelValues
from nonlocalnn.models import (
    DetectionNetwork,
    clip_stride,
    list_models,
    model_input,
    model_settings,
    model_task,
    sample_shape,
)
from nonlocalnn.models.libraries import LIBRARIES, build_named, import_library, library_facts, listed_names
from nonlocalnn.surgery.insertion import insert_nonlocal_
from nonlocalnn.tasks.settings import ModelSettings

# Which block is inserted; where, the recipe says by itself.
_INSERT_SETTINGS = [
    name
    for name in signature(insert_nonlocal_).parameters
    if name not in ("model", "after", "pattern", "example_input")
]


@dataclass(frozen=True)
class NamedNetwork:
    r"""A network by name, and the samples that it is meant for.

    Args:
        library: "nonlocalnn", "torchvision" or "timm".
        name: What its library calls it.
        sample_shape: (C, \*sides) of one sample.
        stride: Video only: frames from one of a clip to the next.
        mean: What becomes 0, of pixel values from 0 to 255; None leaves that to the kind of data.
        standard_deviation: What becomes a distance of 1, of the same.
        task: What it is for.
    """

    library: str
    name: str
    sample_shape: tuple[int, ...]
    stride: int = 1
    mean: ChannelValues | None = None
    standard_deviation: ChannelValues | None = None
    task: str = "classification"

    @property
    def num_sides(self) -> int:
        """1 where it takes sequences, 2 images, 3 clips or volumes."""
        return len(self.sample_shape) - 1

    @property
    def input(self) -> str:
        """What it takes: "sequence", "image", "video" or "volume"."""
        if self.is_ours:
            return model_input(self.name)
        return ("sequence", "image", "video")[self.num_sides - 1]

    def scale_for(self, channels: int) -> dict[str, ChannelValues]:
        """Return ``mean`` and ``standard_deviation`` for samples of so many channels; ours have none."""
        scale = {"mean": self.mean, "standard_deviation": self.standard_deviation}
        given = {name: value for name, value in scale.items() if value is not None}
        # Grey pictures are scaled by the mean of the colours.
        return {
            name: value if isinstance(value, float) or len(value) == channels else sum(value) / len(value)
            for name, value in given.items()
        }

    @property
    def is_ours(self) -> bool:
        """Whether it is one of :func:`nonlocalnn.list_models`."""
        return self.library == "nonlocalnn"


@lru_cache
def named_network(model: str) -> NamedNetwork:
    """Return the network of a name, as :class:`~nonlocalnn.tasks.settings.ModelSettings` takes it.

    Raises:
        ValueError: There is none of that name.
        ImportError: Its library is not installed.

    Example:
        >>> named_network("torchvision/resnet18").sample_shape, named_network("nl_digits").library
        ((3, 224, 224), 'nonlocalnn')
    """
    library, slash, name = model.partition("/")
    if not slash:
        _check_ours(model)
        return NamedNetwork(
            "nonlocalnn", model, sample_shape(model), clip_stride(model), task=model_task(model)
        )
    check_choice("library of a model", library, LIBRARIES)
    import_library(library, name)
    check_choice(f"a network of {library}", name, listed_names(library))
    facts = library_facts({"library": library, "name": name, "overrides": {}})
    shape = tuple(facts["sample_shape"])
    return NamedNetwork(
        library,
        name,
        shape,
        facts.get("stride", 1),
        facts["mean"],
        facts["standard_deviation"],
        task=facts.get("task", "classification"),
    )


def _check_ours(model: str) -> None:
    """Refuse a name that a library has and we have not by the name to type; other names are not looked at.

    Raises:
        ValueError: A library has a network of that name.
    """
    if model in list_models():
        return
    found = []
    for library in LIBRARIES[1:]:
        try:
            import_library(library, model)
        except ImportError:
            continue
        if model in listed_names(library):
            found.append(f"{library}/{model}")
    if found:
        raise ValueError(
            f"model {model!r} is none of our own, which nonlocalnn models lists: did you mean "
            f"{' or '.join(map(repr, found))}?"
        )


class TrainingData(Protocol):
    """What a network must know of the data that it is trained on."""

    classes: tuple[str, ...]
    sample_shape: tuple[int, ...]

    @property
    def channels(self) -> int:
        """C of the samples."""
        ...


def check_unset(recipe: Any, names: Sequence[str], what: str) -> None:
    """Check that settings are left open that have no effect on ``what``.

    Raises:
        ValueError: One is set.
    """
    for name in names:
        if getattr(recipe, name) is not None:
            raise ValueError(f"{name} has no effect on {what}: leave it out")


def check_task(model: str, task: str, *, of: str = "image") -> None:
    """Check that a network is for a task.

    Args:
        model: Its name.
        task: "classification" or "segmentation".
        of: Of segmentation, what it labels: "image" or "volume".

    Raises:
        ValueError: It is for another.

    Example:
        >>> check_task("nl_fcn_tiny", "segmentation")
    """
    own = named_network(model).task
    if own != task:
        answers = {
            "classification": "one answer a sample",
            "segmentation": "a class for each pixel",
            "detection": "boxes of objects",
        }
        others = [name for name in list_models() if model_task(name) == task and _labels(name, task, of)]
        raise ValueError(
            f"model {model!r} is for {own} and gives {answers[own]}; {task} needs {answers[task]}: choose "
            f"another, such as {others[-1]}, see nonlocalnn models"
        )
    if task == "segmentation" and not _labels(model, task, of):
        others = [name for name in list_models() if model_task(name) == task and _labels(name, task, of)]
        raise ValueError(
            f"model {model!r} labels {named_network(model).input}s, and this data is of {of}s: choose "
            f"another, such as {others[-1]}, see nonlocalnn models"
        )


def _labels(model: str, task: str, of: str) -> bool:
    return task != "segmentation" or named_network(model).input == of


def build_network(settings: ModelSettings, data: TrainingData) -> nn.Module:
    """Return the network of a recipe with one output a class, for samples of the data's size and channels.

    Args:
        settings: Their ``model_overrides`` win over what the data says.
        data: The training data.

    Raises:
        ValueError: A setting, or the number of channels, is refused by the network; or there is no module to
            insert a block after.
        TypeError: The network has no setting of that name.
    """
    assert settings.model is not None, "the task fills it in"
    network = named_network(settings.model)
    if network.is_ours:
        known = model_settings(network.name)
        fitting: dict[str, Any] = {"in_channels": data.channels, "image_size": list(data.sample_shape[-2:])}
        overrides = {name: value for name, value in fitting.items() if name in known}
    else:
        overrides = {} if data.channels == 3 else _other_channels(network, data)
    overrides |= settings.model_overrides
    for name in ("in_channels", "in_chans"):
        # The first layer would refuse the samples in PyTorch's words, which name its weights alone.
        if overrides.get(name, data.channels) != data.channels:
            raise ValueError(
                f"model_overrides must not set {name} to {overrides[name]}: the samples have "
                f"{data.channels}; leave it out"
            )
    model = build_named(network.library, network.name, len(data.classes), overrides)
    if settings.insert is not None:
        # The sizes of the maps show only in a run; zeros do for that.
        names = [name.strip() for name in settings.insert.split(",")]
        for each in settings.insert_settings:
            check_choice("a setting of insert_settings", each, _INSERT_SETTINGS)
        example: object = torch.zeros(1, *data.sample_shape)
        if isinstance(model, DetectionNetwork):
            example = [torch.zeros(data.sample_shape)]
        insert_nonlocal_(model, after=names, example_input=example, **settings.insert_settings)
    return model


def _other_channels(network: NamedNetwork, data: TrainingData) -> dict[str, Any]:
    if network.library != "timm":
        raise ValueError(
            f"{network.library}/{network.name} takes images of 3 channels; these have {data.channels}: set "
            "channels=3 for your own images, or choose a network of timm or of ours"
        )
    return {"in_chans": data.channels}
