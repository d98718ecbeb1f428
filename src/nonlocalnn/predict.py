"""Class probabilities for image files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from nonlocalnn._device import Precision, autocast_for
from nonlocalnn.data import read_image
from nonlocalnn.data.clips import ChannelValues, normalize_image


@torch.no_grad()
def predict(
    model: nn.Module,
    paths: Iterable[str | os.PathLike[str]],
    *,
    classes: Sequence[str],
    image_size: tuple[int, int],
    channels: int,
    mean: ChannelValues = 0.0,
    standard_deviation: ChannelValues = 255.0,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
    top: int = 3,
) -> Iterator[dict[str, Any]]:
    """Yield, for each image file in turn, its most probable classes, or why it could not be read.

    The model is left in eval mode.

    Args:
        model: Takes (B, C, H, W) and returns scores (B, K).
        paths: Image files.
        classes: The K class names.
        image_size: (H, W) to which images are stretched, in pixels.
        channels: 1 for grey, 3 for colour.
        mean: What becomes 0, of pixel values from 0 to 255; one number, or one for each channel.
        standard_deviation: What becomes a distance of 1, of the same. By default values are from 0 to 1.
        batch_size: Images a forward pass.
        device: Where the model is.
        precision: "fp32", "bf16" or "fp16".
        top: How many classes to report, at most K.

    Yields:
        ``{"path", "class", "probability", "top": [{"class", "probability"}, ...]}``, or
        ``{"path", "error"}`` for a file that is missing or damaged.
    """
    model.eval()
    remaining = iter(paths)
    while chunk := list(islice(remaining, batch_size)):
        images = [read_or_reason(path, image_size=image_size, channels=channels) for path in chunk]
        readable = [image for image in images if isinstance(image, Tensor)]
        rows: Iterator[Tensor] = iter(())
        if readable:
            batch = normalize_image(torch.stack(readable), mean=mean, standard_deviation=standard_deviation)
            rows = iter(image_probabilities(model, batch, device=device, precision=precision))
        for path, image in zip(chunk, images, strict=True):
            if isinstance(image, Tensor):
                yield {"path": str(path), **answer(next(rows), classes, top=top)}
            else:
                yield {"path": str(path), "error": image}


@torch.no_grad()
def image_probabilities(
    model: nn.Module, images: Tensor, *, device: torch.device | str, precision: Precision = "fp32"
) -> Tensor:
    """Return the class probabilities of a batch of images, float32 (B, K), on the CPU.

    Args:
        model: Takes (B, C, H, W) and returns scores (B, K).
        images: (B, C, H, W), normalised as the model takes them.
        device: Where the model is.
        precision: "fp32", "bf16" or "fp16".
    """
    with autocast_for(precision, device):
        scores: Tensor = model(images.to(device))
    return scores.float().softmax(1).cpu()


def read_or_reason(
    path: str | os.PathLike[str], *, image_size: tuple[int, int], channels: int
) -> Tensor | str:
    """Return an image, float32 (C, H, W) from 0 to 1, or why it cannot be read; see :func:`predict`."""
    try:
        return read_image(path, image_size=image_size, channels=channels)
    except (OSError, ValueError) as error:
        return str(error)


def answer(probabilities: Tensor, classes: Sequence[str], *, top: int) -> dict[str, Any]:
    """Return :func:`most_probable`, or ``{"error": reason}`` where there is no answer."""
    try:
        return most_probable(probabilities, classes, top=top)
    except ValueError as error:
        return {"error": str(error)}


def most_probable(probabilities: Tensor, classes: Sequence[str], *, top: int) -> dict[str, Any]:
    """Return the most probable class, and those that follow.

    Args:
        probabilities: One a class, (K,).
        classes: The K class names.
        top: How many classes to list, at most K.

    Raises:
        ValueError: A probability is not finite.

    Example:
        >>> most_probable(torch.tensor([0.25, 0.75]), ["run", "walk"], top=1)
        {'class': 'walk', 'probability': 0.75, 'top': [{'class': 'walk', 'probability': 0.75}]}
    """
    if not bool(probabilities.isfinite().all()):
        raise ValueError(
            "the model's answer is not finite (NaN or infinity): its weights are damaged, or its values grew "
            "beyond the precision"
        )
    values, indices = probabilities.topk(min(top, len(classes)))
    listed = [
        {"class": classes[index], "probability": value}
        for value, index in zip(values.tolist(), indices.tolist(), strict=True)
    ]
    return {**listed[0], "top": listed}
