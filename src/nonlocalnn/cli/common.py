"""What several commands share: their parsers' form, and loading what a model takes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from nonlocalnn._device import resolve_device
from nonlocalnn.inference import Classifier, load_classifier


def command_parser(name: str, description: str, example: str) -> argparse.ArgumentParser:
    """Return a parser whose help ends with an example."""
    return argparse.ArgumentParser(
        prog=f"nonlocalnn {name}",
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--model``, ``--device`` and ``--precision``."""
    parser.add_argument(
        "--model", required=True, type=Path, help="a checkpoint, or the folder of a run (its best weights)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16", "fp16"), help="default: fp32")


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


def check_spares(output: Path | None, *read: Path) -> None:
    """Check that an output is none of the files that are read for it.

    Raises:
        ValueError: It is one; writing it would lose that.
    """
    for path in read:
        if output is not None and output.exists() and path.exists() and path.samefile(output):
            raise ValueError(f"--output {output} would overwrite {path}, which is read: choose another")


def check_classes(loaded: Classifier, classes: Sequence[str], name: str) -> str:
    """Check that a data set has a model's classes; numbers stand for as many classes of any name.

    Returns:
        What is taken for granted of them, in words; empty where the names are the same.

    Raises:
        ValueError: It has others.
    """
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
