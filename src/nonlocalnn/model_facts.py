"""What a checkpoint says of the samples that its model takes, and of its classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from nonlocalnn._errors import check_whole
from nonlocalnn.checkpoints import CheckpointError
from nonlocalnn.data.clips import check_normalization
from nonlocalnn.models import DigitsNetwork

# A frame's or an image's side, a clip's frames, a sequence's length: what is read is made this large.
_LONGEST = 2**20


def describe_images(model: nn.Module, path: Path) -> dict[str, Any]:
    """Return the facts that a checkpoint of another code base lacks: class numbers, 28x28 pixels.

    Raises:
        CheckpointError: The model is not the digit network, so that nothing is known of its input.
    """
    if not isinstance(model, DigitsNetwork):
        raise CheckpointError(f"{path} does not say which classes and image size its model was trained on")
    last = model.fc[-1]
    assert isinstance(last, nn.Linear)
    first = model.conv_1[0]
    assert isinstance(first, nn.Conv2d)
    return {
        "classes": [str(number) for number in range(last.out_features)],
        "image_size": [28, 28],
        "channels": first.in_channels,
    }


def checked_facts(metadata: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return what :class:`~nonlocalnn.classifier.Classifier` takes of a checkpoint's metadata, by its names.

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
        check_normalization(metadata.get("mean", 0.0), metadata.get("standard_deviation", 255.0))
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
    return value or {}
