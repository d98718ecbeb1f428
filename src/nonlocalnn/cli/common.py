"""What several commands share: loading a model, and comparing its classes with a data set's."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from nonlocalnn._device import resolve_device
from nonlocalnn.checkpoints import read_metadata
from nonlocalnn.checkpoints.run_folder import weights_file
from nonlocalnn.data.class_names import first_difference
from nonlocalnn.inference import Classifier, Segmenter
from nonlocalnn.inference.loading import Loaded, load_trained
from nonlocalnn.tasks.choice import trained_task
from nonlocalnn.tasks.inputs import InputKind, ShownInput


def load_model(command: str, path: Path, *, device: str = "cpu") -> Loaded:
    """Load a classifier, a segmentation network or a detector, whichever a file holds.

    What its file does not tell of its classes and samples is said on stderr.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: As :func:`nonlocalnn.load_classifier` says, or there is no such device.
    """
    place = resolve_device(device)
    loaded = load_trained(path)
    if loaded.assumptions:
        print(f"nonlocalnn {command}: {path} does not say, assumed: {loaded.assumptions}", file=sys.stderr)
    loaded.model.to(place)
    return loaded


def is_classifier(path: Path) -> bool:
    """Return whether a checkpoint, or a run's folder, is of a classifier.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: It is damaged.
    """
    return trained_task(read_metadata(weights_file(path))) == "classification"


def taker(loaded: Loaded, args: argparse.Namespace) -> Callable[[int], ShownInput]:
    """Return what gives a sample of ``--data`` by its place in the split."""
    dataset: Any = loaded.load_dataset(args.data, args.split, data_dir=args.data_dir)
    return partial(loaded.take, dataset, split=args.split)


def read_input(loaded: Loaded, path: Path, *, whole: bool) -> ShownInput:
    """Return a file as a network takes it, and as it looks; only a classifier may see less than the whole."""
    return loaded.show(path, whole=whole) if isinstance(loaded, Classifier) else loaded.show(path)


def kind_in_words(loaded: Loaded) -> str:
    """Return what a network that is no classifier is called in errors."""
    return "a segmentation network" if isinstance(loaded, Segmenter) else "a detector"


def refuse(args: argparse.Namespace, *names: str, what: str = "a segmentation network") -> None:
    """Refuse settings that have no effect on what was loaded.

    Raises:
        ValueError: One is given.
    """
    for name in names:
        if getattr(args, name) not in (None, False):
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(f"{flag} has no effect on {what}: leave it out")


def check_rate(rate: float | None, *kinds: InputKind) -> None:
    """Check that steps a second were given of sequences, and are a number above zero.

    Args:
        rate: What was given.
        kinds: What each model takes.

    Raises:
        ValueError: They are no such number, or no model takes sequences.
    """
    if rate is None:
        return
    if not 0 < rate < math.inf:
        raise ValueError(f"rate must be greater than zero, and finite; got {rate}")
    if kinds and all(kind.num_sides != 1 for kind in kinds):
        who = "this model takes" if len(kinds) == 1 else "these models take"
        others = " and ".join(sorted({kind.samples for kind in kinds}))
        raise ValueError(f"rate is of sequences, and {who} {others}: leave it out")


def at_rate(shown: ShownInput, rate: float | None) -> ShownInput:
    """Return an input with its steps a second, where these were given."""
    return shown if rate is None else replace(shown, rate=rate)


def stem_of(shown: ShownInput) -> str:
    """Return the name of an input without its ending; that of a compressed file has two."""
    return Path(shown.name.removesuffix(".gz")).stem


def check_classes(known: Sequence[str], classes: Sequence[str], name: str) -> str:
    """Check that a data set has a model's classes; numbers stand for as many classes of any name.

    Returns:
        What is taken for granted of them, in words; empty where the names are the same.

    Raises:
        ValueError: It has others.
    """
    # Converted checkpoints know how many classes there are, and not what they are called.
    own = tuple(known)
    numbers = tuple(map(str, range(len(own))))
    if own == numbers != tuple(classes) and len(classes) == len(numbers):
        return f"the model has numbers for classes: 0 to {numbers[-1]} are those of {name} in its order, " + (
            ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
        )
    difference = first_difference(own, classes)
    if difference is not None:
        raise ValueError(
            f"the model knows {len(own)} classes, {name} has {len(classes)}, and they must be the same; "
            f"{difference}"
        )
    return ""


def beside(model: Path, name: str) -> Path:
    """Return a folder in a run's, or beside a checkpoint and named after it as well."""
    # Several checkpoints may lie in one folder, and their results must not overwrite one another.
    return model / name if model.is_dir() else model.with_name(f"{model.stem}-{name}")


def check_own(output: Path, about: dict[str, Any], *, files: Sequence[str]) -> None:
    """Check that a folder holds no result but an earlier one of the same evaluation.

    Args:
        output: The folder.
        about: What the evaluation is of, and tells it from others.
        files: What evaluations write, the report first.

    Raises:
        ValueError: It holds the metrics of a training, or of another evaluation.
    """
    report = output / files[0]
    there = [name for name in files if (output / name).exists()]
    if not there:
        return
    try:
        found = json.loads(report.read_text(encoding="utf-8"))
        is_evaluation = {"model", "data", "split"} <= found.keys()
    except (OSError, ValueError, AttributeError):
        is_evaluation = False
    if not is_evaluation:
        raise ValueError(
            f"{output} holds a {there[0]} that evaluate did not write, such as a training's: choose another "
            "--output"
        )
    for name, value in about.items():
        was = found.get(name)
        if name in ("model", "data_dir"):
            # Reports of before 0.1.0 say no folder of the data.
            is_same = name not in found or _resolved(was) == _resolved(value)
        else:
            is_same = was == value
        if not is_same:
            raise ValueError(
                f"{output} holds the result of another evaluation, whose {name} was {was!r} and is {value!r} "
                "now: choose another --output"
            )


def _resolved(path: str | None) -> Path | None:
    return None if path is None else Path(path).resolve()
