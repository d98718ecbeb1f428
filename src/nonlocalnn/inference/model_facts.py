"""What is known of the samples that a model takes, and of its classes: by its file, or by its name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from nonlocalnn._errors import check_whole
from nonlocalnn._names import OLD_NAMES
from nonlocalnn.checkpoints import OURS, CheckpointError, Imported
from nonlocalnn.data.masks.masked import MEAN as PHOTOGRAPHS_MEAN
from nonlocalnn.data.masks.masked import STANDARD_DEVIATION as PHOTOGRAPHS_DEVIATION
from nonlocalnn.data.normalization import check_normalization
from nonlocalnn.data.video.clips import MEAN, STANDARD_DEVIATION, test_side
from nonlocalnn.data.volumes.reading import Reading
from nonlocalnn.models import (
    DetectionNetwork,
    DigitsNetwork,
    ResidualNetwork,
    SegmentationNetwork,
    UNet1d,
    UNet3d,
    clip_stride,
    list_models,
    sample_shape,
)
from nonlocalnn.models.libraries import library_facts
from nonlocalnn.tasks.choice import LOADERS, trained_task

# A frame's or an image's side, a clip's frames, a sequence's length: what is read is made this large.
_LONGEST = 2**20
# What a network takes whose settings ask for other sides than its name's.
_SIDES = {1: (1024,), 2: (224, 224), 3: (8, 224, 224)}
_SHAPES = {2: "sequences, [C, N]", 3: "images, [C, H, W]", 4: "clips or volumes, [C, T, H, W]"}
_OF_SAMPLES = ("sample_shape", "stride", "test_size", "mean", "standard_deviation")


def facts_of(
    path: Path, found: Imported, task: str, *, assumable: Collection[str] | None = None
) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    """Return what is known of an opened checkpoint of a task.

    Args:
        path: The checkpoint, for errors.
        found: What was opened.
        task: The task that it must be of.
        assumable: Names of the facts that are told where they were assumed; None is all.

    Returns:
        Everything that is said and implied; of it the checked facts; and the names of those that the file
        does not say.

    Raises:
        CheckpointError: It is of another task, a fact in it is wrong, or its network has other classes.
    """
    implied = implied_facts(found.model, found.metadata)
    known = {**implied, **found.metadata}
    if (own := trained_task(known)) != task:
        raise CheckpointError(
            f"{path} was trained for {own}: {LOADERS[own]} loads it in Python, and nonlocalnn predict and "
            f"evaluate take it"
        )
    facts = checked_facts(known, path)
    _check_sides(path, facts["sample_shape"], found.model)
    config: Any = found.model.config
    if config["num_classes"] != len(facts["classes"]):
        raise CheckpointError(
            f"{path} names {len(facts['classes'])} classes of a model with {config['num_classes']}"
        )
    is_ours = found.source == OURS
    # What is known of another code base's file is known of the code base: the file itself says nothing.
    taken = [name for name in (implied if is_ours else known) if assumable is None or name in assumable]
    return known, facts, assumed_facts(facts, taken, found.metadata if is_ours else ())


def _check_sides(path: Path, shape: Sequence[int], model: nn.Module) -> None:
    """Check that samples have as many sides as the network takes."""
    wanted = implied_facts(model, {}).get("sample_shape")
    if wanted is not None and len(wanted) != len(shape):
        raise CheckpointError(
            f"{path} says that samples have the shape {list(shape)}, and its network takes "
            f"{_SHAPES[len(wanted)]}: write sample_shape anew, by save_checkpoint(model, path, metadata=...)"
        )


def implied_facts(model: nn.Module, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts that a file leaves out and that its network implies: see :func:`checked_facts`.

    Numbers are names of classes. A network by name takes the samples that the name is meant for: videos as
    the paper normalises them, images and sequences with values from 0 to 1; a network of torchvision or timm
    takes those of its published weights. A file of ours that tells its samples tells all of them.

    Args:
        model: With its ``config``.
        metadata: What the file says.

    Returns:
        Of the facts those that the file leaves out; none where nothing is known of the network.

    Example:
        >>> from nonlocalnn.models import create_model
        >>> facts = implied_facts(create_model("nl5_i3d_r50_32x2", width=4), {"classes": ["run", "walk"]})
        >>> facts["sample_shape"], facts["stride"], facts["test_size"], facts["mean"]
        ([3, 32, 224, 224], 2, 256, 114.75)
    """
    config: Any = getattr(model, "config", None)
    if not isinstance(config, dict):
        return {}
    is_ours = isinstance(model, ResidualNetwork | DigitsNetwork)
    facts: dict[str, Any] = {"classes": [str(number) for number in range(config["num_classes"])]}
    if isinstance(model, SegmentationNetwork):
        scale = {"mean": list(PHOTOGRAPHS_MEAN), "standard_deviation": list(PHOTOGRAPHS_DEVIATION)}
        shape = [model.conv1.in_channels, *sample_shape(config["name"])[1:]]
        facts |= {"task": "segmentation", "sample_shape": shape, **scale}
    elif isinstance(model, DetectionNetwork):
        facts |= {"task": "detection", "sample_shape": list(sample_shape(config["name"]))}
    elif isinstance(model, UNet1d | UNet3d):
        shape = [model.in_channels, *sample_shape(config["name"])[1:]]
        facts |= {"task": "segmentation", "sample_shape": shape}
        if isinstance(model, UNet3d):
            facts["volume"] = Reading().to_dict()
    elif not is_ours:
        facts |= library_facts(config)
    elif "sample_shape" not in metadata and "image_size" not in metadata:
        facts |= _own_samples(model, config)
    if "sample_shape" in facts:
        facts["multi_label"] = False
    return {name: value for name, value in facts.items() if name not in metadata}


def _own_samples(model: nn.Module, config: Mapping[str, Any]) -> dict[str, Any]:
    name, overrides = config["name"], config["overrides"]
    if name not in list_models():
        return {}
    if isinstance(model, DigitsNetwork):
        first: Any = model.conv_1[0]
        size = overrides.get("image_size", sample_shape(name)[-1])
        sides = [size, size] if isinstance(size, int) else list(size)
        return {"sample_shape": [first.in_channels, *sides]}
    assert isinstance(model, ResidualNetwork)
    sides = list(sample_shape(name)[1:])
    if len(sides) != model.num_sides:
        sides = list(_SIDES[model.num_sides])
    facts: dict[str, Any] = {"sample_shape": [model.conv1.in_channels, *sides]}
    if model.is_volume:
        facts["volume"] = Reading().to_dict()
    elif model.num_sides == 3:
        facts |= {
            "stride": clip_stride(name),
            "test_size": test_side(sides[-1]),
            "mean": MEAN,
            "standard_deviation": STANDARD_DEVIATION,
        }
    return facts


def in_words(facts: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return some of the checked facts of a model as one line for people.

    Args:
        facts: All of them; what is missing is as usual.
        names: Those to tell.

    Example:
        >>> facts = {"classes": ("0", "1"), "sample_shape": (3, 8, 224, 224), "stride": 8, "test_size": 256}
        >>> in_words(facts, ["classes", "sample_shape", "stride", "test_size"])
        'classes 0 to 1; clips of 8 frames, one in 8, of 256 pixels, 3 channels'
        >>> in_words(facts, ["standard_deviation"])
        'standard deviation 255'
    """
    parts = []
    if "classes" in names:
        parts.append(f"classes 0 to {len(facts['classes']) - 1}")
    if of_samples := _samples_in_words(facts, set(names)):
        parts.append(", ".join(of_samples))
    return "; ".join(parts)


def _samples_in_words(facts: Mapping[str, Any], names: set[str]) -> list[str]:
    # Each fact by itself: what the file does say must not be called assumed.
    channels, *sides = facts["sample_shape"]
    parts = []
    if facts.get("volume") is not None:
        return _volumes_in_words(facts, names)
    if "sample_shape" in names and len(sides) == 3:
        parts.append(f"clips of {sides[0]} frames")
    elif "sample_shape" in names:
        size = " x ".join(map(str, sides))
        parts.append(f"images of {size} pixels" if len(sides) == 2 else f"sequences of {size} steps")
    if len(sides) == 3 and "stride" in names:
        parts.append(f"one in {facts.get('stride', 1)}")
    if len(sides) == 3 and "test_size" in names:
        parts.append(f"of {facts.get('test_size', sides[-1])} pixels")
    if "sample_shape" in names:
        parts.append(f"{channels} channel{'' if channels == 1 else 's'}")
    mean, deviation = facts.get("mean", 0.0), facts.get("standard_deviation", 255.0)
    if {"mean", "standard_deviation"} <= names and (mean, deviation) == (0.0, 255.0):
        return [*parts, "values from 0 to 1"]
    if "mean" in names:
        parts.append(f"mean {_rounded(mean)}")
    if "standard_deviation" in names:
        parts.append(f"standard deviation {_rounded(deviation)}")
    return parts


def _volumes_in_words(facts: Mapping[str, Any], names: set[str]) -> list[str]:
    channels, *sides = facts["sample_shape"]
    parts = []
    if "sample_shape" in names:
        parts.append(f"volumes of {' x '.join(map(str, sides))} voxels")
        parts.append(f"{channels} channel{'' if channels == 1 else 's'}")
    if "volume" in names:
        parts.append("their own spacing, each normalised by itself")
    return parts


def assumed_facts(facts: Mapping[str, Any], taken: Collection[str], said: Collection[str]) -> tuple[str, ...]:
    """Return the names of the facts that a file does not say.

    Args:
        facts: All that are known.
        taken: Names of those that were taken from the network.
        said: Names of those that the file says. Where the shape of samples was taken, what else describes
            them and is as usual was assumed with it.
    """
    # Only clips have a stride and a size of the test.
    usual: Collection[str] = (
        _OF_SAMPLES if len(facts["sample_shape"]) == 4 else ("mean", "standard_deviation")
    )
    if facts.get("volume") is not None:
        usual = ()
    if "sample_shape" not in taken:
        usual = ()
    names = [name for name in taken if name in facts]
    return (*names, *(name for name in usual if name not in names and name not in said))


def _rounded(value: Any) -> str:
    numbers = value if isinstance(value, list | tuple) else [value]
    return " ".join(f"{number:.6g}" for number in numbers)


def checked_facts(metadata: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return what :class:`~nonlocalnn.inference.Classifier` takes of a checkpoint's metadata, by its names.

    Args:
        metadata: Names and JSON values; those that say something else are left out.
        path: The checkpoint, for errors.

    Raises:
        CheckpointError: A fact is missing or is no such fact.

    Example:
        >>> facts = checked_facts({"classes": ["a", "b"], "channels": 1, "image_size": [8, 9]}, Path("x"))
        >>> facts["classes"], facts["sample_shape"]
        (('a', 'b'), (1, 8, 9))
    """
    try:
        facts: dict[str, Any] = {
            "classes": _classes(metadata.get("classes")),
            "sample_shape": _sample_shape(metadata),
            "recipe": _recipe(metadata.get("recipe")),
        }
        check_normalization(
            metadata.get("mean", 0.0),
            metadata.get("standard_deviation", 255.0),
            channels=facts["sample_shape"][0],
            of_pixels=len(facts["sample_shape"]) > 2,
        )
        if metadata.get("volume") is not None:
            if len(facts["sample_shape"]) != 4:
                raise ValueError(f"volumes have three sides; got sample_shape {metadata['sample_shape']}")
            facts["volume"] = Reading.from_dict(metadata["volume"])
        if metadata.get("channel_names") and len(facts["sample_shape"]) == 2:
            facts["channel_names"] = _channel_names(metadata["channel_names"], facts["sample_shape"][0])
        for name in ("stride", "test_size"):
            if metadata.get(name) is not None:
                check_whole(name, metadata[name], most=_LONGEST)
        if not isinstance(metadata.get("multi_label", False), bool):
            raise ValueError(f"multi_label must be true or false; got {metadata['multi_label']!r:.100}")
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} does not say what its model takes: {error}") from None
    names = ("stride", "test_size", "mean", "standard_deviation", "multi_label")
    return {**facts, **{name: metadata[name] for name in names if metadata.get(name) is not None}}


def _classes(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(each, str) for each in value):
        raise ValueError(f"classes must be a list of names; got {value!r:.100}")
    repeated = [name for name, number in Counter(value).items() if number > 1]
    if repeated:
        raise ValueError(f"classes must have different names; {repeated[0]!r:.100} is there more than once")
    return tuple(value)


def _channel_names(value: Any, number: int) -> tuple[str, ...]:
    is_list = isinstance(value, list) and all(isinstance(name, str) for name in value)
    if not is_list or len(set(value)) != number or len(value) != number:
        raise ValueError(f"channel_names must name each of its {number} channels, or none; got {value!r:.80}")
    return tuple(value)


def _sample_shape(metadata: Mapping[str, Any]) -> tuple[int, ...]:
    shape = metadata.get("sample_shape")
    if shape is None and "channels" in metadata and isinstance(metadata.get("image_size"), list):
        # Files written before there were clips give the two parts of an image's shape.
        shape = [metadata["channels"], *metadata["image_size"]]
    if not isinstance(shape, list) or len(shape) not in (2, 3, 4):
        raise ValueError(f"sample_shape must be [C, N], [C, H, W] or [C, T, H, W]; got {shape!r:.100}")
    for number in shape:
        check_whole("each number of sample_shape", number, most=_LONGEST)
    return tuple(shape)


def _recipe(value: Any) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"recipe must be an object of fields; got {value!r:.100}")
    found: dict[str, Any] = value or {}
    if isinstance(found.get("data"), str):
        # Without the warning of current_name: what a file says for itself nobody can mend.
        found = {**found, "data": OLD_NAMES.get(found["data"], found["data"])}
    return found
