"""What several commands share: their parsers' form, and loading a model together with what it expects."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from nonlocalnn._errors import missing_extra
from nonlocalnn.checkpoints import CheckpointError, load_checkpoint, read_metadata
from nonlocalnn.models import DigitsNetwork


@dataclass(frozen=True)
class ImageModel:
    """A classifier of images and what it was trained on.

    Args:
        model: In eval mode, on the CPU.
        classes: Names of its outputs.
        image_size: (H, W) of its input, in pixels.
        channels: 1 for grey, 3 for colour.
        recipe: The recipe that trained it; empty for other code bases' checkpoints.
    """

    model: nn.Module
    classes: tuple[str, ...]
    image_size: tuple[int, int]
    channels: int
    recipe: dict[str, Any]


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


def load_image_model(path: Path) -> ImageModel:
    """Load a classifier of images from a checkpoint or a run's folder.

    Raises:
        FileNotFoundError: There is no such file, or the folder holds no run.
        CheckpointError: The file does not fit, or does not say which images its model takes.
    """
    if path.is_dir():
        path = path / "best.safetensors"
        if not path.is_file():
            raise FileNotFoundError(f"{path.parent} holds no finished epoch: there is no {path.name} in it")
    metadata = read_metadata(path)
    model = load_checkpoint(path).eval()
    if "classes" not in metadata:
        metadata = {**describe_images(model, path), **metadata}
    return ImageModel(
        model=model,
        classes=tuple(metadata["classes"]),
        image_size=(metadata["image_size"][0], metadata["image_size"][1]),
        channels=metadata["channels"],
        recipe=metadata.get("recipe", {}),
    )


def describe_images(model: nn.Module, path: Path) -> dict[str, Any]:
    """Return the metadata that a checkpoint of another code base lacks: class numbers, 28x28 pixels.

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


def progress(items: Iterable[Any], *, total: int, label: str) -> Iterable[Any]:
    """Return ``items`` under a progress bar on stderr, shown on a terminal only."""
    try:
        from tqdm import tqdm
    except ImportError:
        raise missing_extra("tqdm", "train", "the progress bar") from None
    return tqdm(items, total=total, desc=label, file=sys.stderr, disable=None, leave=False)
