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
from nonlocalnn.data import LabelledSamples, load_dataset
from nonlocalnn.models import DigitsNetwork


@dataclass(frozen=True)
class Classifier:
    """A classifier and what it was trained on.

    Args:
        model: In eval mode, on the CPU.
        classes: Names of its outputs.
        sample_shape: Shape of one sample: (C, N), (C, H, W) or (C, T, H, W).
        recipe: The recipe that trained it; empty for other code bases' checkpoints.
    """

    model: nn.Module
    classes: tuple[str, ...]
    sample_shape: tuple[int, ...]
    recipe: dict[str, Any]

    @property
    def channels(self) -> int:
        """Channels of its input; of images, 1 for grey and 3 for colour."""
        return self.sample_shape[0]

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of its images or of the frames of its clips, in pixels."""
        assert len(self.sample_shape) > 2, "sequences have no image size"
        return self.sample_shape[-2], self.sample_shape[-1]

    def load_dataset(self, name: str, split: str, *, data_dir: str | Path | None) -> LabelledSamples:
        """Load a split of a data set with samples of the model's shape.

        Raises:
            ValueError: The data set's samples have another shape; or as
                :func:`nonlocalnn.data.load_dataset` says.
        """
        # A model of sequences has no image size to ask for, and sequences have none to give.
        has_size = len(self.sample_shape) > 2 and name != "cue-sequence"
        dataset = load_dataset(
            name,
            split,
            data_dir=data_dir,
            image_size=self.image_size if has_size else None,
            channels=self.channels if name == "images" else None,
        )
        if dataset.sample_shape != self.sample_shape:
            raise ValueError(
                f"the model was trained on samples of shape {self.sample_shape}; "
                f"those of {name!r} have {dataset.sample_shape}"
            )
        return dataset


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


def load_classifier(path: Path) -> Classifier:
    """Load a classifier from a checkpoint or a run's folder.

    Raises:
        FileNotFoundError: There is no such file, or the folder holds no run.
        CheckpointError: The file does not fit, or does not say which samples its model takes.
    """
    if path.is_dir():
        path = path / "best.safetensors"
        if not path.is_file():
            raise FileNotFoundError(f"{path.parent} holds no finished epoch: there is no {path.name} in it")
    metadata = read_metadata(path)
    model = load_checkpoint(path).eval()
    if "classes" not in metadata:
        metadata = {**describe_images(model, path), **metadata}
    # Files written before there were clips give the two parts of an image's shape.
    shape = metadata.get("sample_shape") or [metadata["channels"], *metadata["image_size"]]
    return Classifier(
        model=model,
        classes=tuple(metadata["classes"]),
        sample_shape=tuple(shape),
        recipe=metadata.get("recipe", {}),
    )


def load_image_model(path: Path) -> Classifier:
    """Load a classifier of images; see :func:`load_classifier`.

    Raises:
        ValueError: It classifies something else.
    """
    loaded = load_classifier(path)
    if len(loaded.sample_shape) != 3:
        raise ValueError(
            f"this command takes models of images, (C, H, W); {path} was trained on samples of shape "
            f"{loaded.sample_shape}, of which evaluate gives the accuracy"
        )
    return loaded


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
