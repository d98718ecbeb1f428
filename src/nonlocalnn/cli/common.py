"""What several commands share: loading a model, and comparing its classes with a data set's."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from nonlocalnn._device import resolve_device
from nonlocalnn.inference import Classifier, load_classifier
from nonlocalnn.tasks.inputs import ShownInput


def load_model(command: str, path: Path, *, device: str = "cpu") -> Classifier:
    """Load a classifier, and say on stderr what its file does not tell of its classes and samples.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: As :func:`nonlocalnn.load_classifier` says, or there is no such device.
    """
    place = resolve_device(device)
    loaded = load_classifier(path)
    if loaded.assumed:
        print(f"nonlocalnn {command}: {path} does not say, assumed: {loaded.assumptions}", file=sys.stderr)
    loaded.model.to(place)
    return loaded


def check_rate(rate: float | None, loaded: Classifier) -> None:
    """Check that steps a second were given of sequences only, and are a number above zero.

    Raises:
        ValueError: They were given of another kind, or are none.
    """
    if rate is None:
        return
    if loaded.kind.num_sides != 1:
        raise ValueError(f"rate is of sequences, and this model takes {loaded.kind.samples}: leave it out")
    if not 0 < rate < math.inf:
        raise ValueError(f"rate must be greater than zero, and finite; got {rate}")


def at_rate(shown: ShownInput, rate: float | None) -> ShownInput:
    """Return an input with its steps a second, where these were given."""
    return shown if rate is None else replace(shown, rate=rate)


def check_classes(loaded: Classifier, classes: Sequence[str], name: str) -> str:
    """Check that a data set has a model's classes; numbers stand for as many classes of any name.

    Returns:
        What is taken for granted of them, in words; empty where the names are the same.

    Raises:
        ValueError: It has others.
    """
    # Converted checkpoints know how many classes there are, and not what they are called.
    numbers = tuple(map(str, range(len(loaded.classes))))
    if loaded.classes == numbers != tuple(classes) and len(classes) == len(numbers):
        return f"the model has numbers for classes: 0 to {numbers[-1]} are those of {name} in its order, " + (
            ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
        )
    for number, (known, found) in enumerate(zip_longest(loaded.classes, classes)):
        if known != found:
            raise ValueError(
                f"the model knows {len(loaded.classes)} classes, {name} has {len(classes)}, and they must be "
                f"the same; the first that differ, number {number}, are {known!r} and {found!r}"
            )
    return ""
