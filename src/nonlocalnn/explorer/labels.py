"""Pictures of the classes of an image's pixels: ids in a file, and colours over the image."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nonlocalnn._errors import needs
from nonlocalnn._files import atomic_path
from nonlocalnn.data.masks import palette

# How much of an overlay is the class's colour.
_OPACITY = 0.55
# Small images are enlarged until they are as wide; the legend below needs that.
_LEAST_WIDTH = 320
_LINE, _SWATCH, _MARGIN = 18, 12, 8


def colours_of(classes: Sequence[str]) -> list[tuple[int, int, int]]:
    """Return a colour for each class, from 0 to 255; black is the background's alone.

    Example:
        >>> colours_of(["background", "cat"]), colours_of(["road", "car"])
        ([(0, 0, 0), (128, 0, 0)], [(128, 0, 0), (0, 128, 0)])
    """
    first = 0 if classes[0].lower() == "background" else 1
    return palette(len(classes) + first)[first:]


def overlay(image: Tensor, labels: Tensor, classes: Sequence[str]) -> Tensor:
    """Return an image with its classes as colours over it, (3, H, W) in [0, 1]; the background stays clear.

    Args:
        image: (3, H, W) in [0, 1].
        labels: The class of each pixel, int64 (H, W).
        classes: Their names.

    Example:
        >>> drawn = overlay(torch.ones(3, 1, 2), torch.tensor([[0, 1]]), ["background", "cat"])
        >>> [round(value, 2) for value in drawn[:, 0, 1].tolist()]
        [0.73, 0.45, 0.45]
    """
    colours = torch.tensor(colours_of(classes), dtype=image.dtype) / 255
    tinted = colours[labels].permute(2, 0, 1)
    is_clear = (colours.sum(1) == 0)[labels]
    return torch.where(is_clear, image, (1 - _OPACITY) * image + _OPACITY * tinted)


def write_labels(labels: Tensor, path: str | os.PathLike[str], classes: Sequence[str]) -> None:
    """Write the ids of an image's pixels as a PNG with a palette: ids for programs, colours for people.

    Args:
        labels: int64 (H, W).
        path: The file, ending in .png; an existing one is replaced.
        classes: Names of the ids.

    Raises:
        ImportError: Pillow is missing.
    """
    # A copy: what is made of an array shares its memory, and a palette is put in place.
    image = pillow().fromarray(labels.to(torch.uint8).contiguous().numpy()).copy()
    image.putpalette([part for colour in colours_of(classes) for part in colour])
    save_picture(image, path)


def write_overlay(
    image: Tensor,
    labels: Tensor,
    path: str | os.PathLike[str],
    *,
    classes: Sequence[str],
    shares: Sequence[Mapping[str, Any]],
) -> None:
    """Write an image with its classes as colours over it, and their names and shares below.

    Args:
        image: (3, H, W) in [0, 1].
        labels: int64 (H, W).
        path: The file, ending in .png; an existing one is replaced.
        classes: Names of the ids.
        shares: ``{"class", "id", "share"}`` of each class that is there, in the order of the legend.

    Raises:
        ImportError: Pillow is missing.
    """
    images = pillow()
    from PIL import ImageDraw

    drawn = image_of(overlay(image, labels, classes))
    enlarge = max(1, math.ceil(_LEAST_WIDTH / drawn.width))
    drawn = drawn.resize((drawn.width * enlarge, drawn.height * enlarge), images.Resampling.NEAREST)
    canvas = images.new("RGB", (drawn.width, drawn.height + _LINE * len(shares) + 2 * _MARGIN), "white")
    canvas.paste(drawn, (0, 0))
    draw, colours = ImageDraw.Draw(canvas), colours_of(classes)
    for number, each in enumerate(shares):
        top = drawn.height + _MARGIN + number * _LINE
        box = (_MARGIN, top, _MARGIN + _SWATCH, top + _SWATCH)
        # The background is left clear, and so is its field.
        fill = colours[each["id"]] if any(colours[each["id"]]) else "white"
        draw.rectangle(box, fill=fill, outline="black")
        words = in_latin(f"{each['class']}  {each['share']:.1%}")
        draw.text((2 * _MARGIN + _SWATCH, top), words, fill="black")
    save_picture(canvas, path)


def pillow() -> Any:
    """Return Pillow's module of images."""
    with needs("pillow", "data", "pictures and pages"):
        from PIL import Image
    return Image


def image_of(pixels: Tensor) -> Any:
    """Return (C, H, W) in [0, 1], of one channel or three, as an image of Pillow."""
    values = (pixels.clamp(0, 1) * 255).round().to(torch.uint8)
    values = values[0] if len(values) == 1 else values.permute(1, 2, 0)
    return pillow().fromarray(values.contiguous().numpy())


def in_latin(words: str) -> str:
    """Return words without what the font that every Pillow has cannot draw: it knows Latin letters only."""
    return words.encode("latin-1", "replace").decode("latin-1")


def save_picture(image: Any, path: str | os.PathLike[str]) -> None:
    """Write an image of Pillow as a PNG, whole or not at all."""
    with atomic_path(Path(path)) as temporary, temporary.open("wb") as file:
        image.save(file, "PNG", optimize=True)
