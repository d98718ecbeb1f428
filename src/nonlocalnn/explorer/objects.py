"""Pictures of the objects that a detector finds: boxes, masks, points and names over the image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nonlocalnn.data.labelled import resize_image
from nonlocalnn.data.masks import palette
from nonlocalnn.data.objects import PointNames
from nonlocalnn.explorer.labels import image_of, in_latin, save_picture
from nonlocalnn.tasks.objects import Found

# How much of a mask is the object's colour.
_OPACITY = 0.45
# Names are in one size: smaller pictures are enlarged and larger ones made smaller until they can be read.
_LEAST_WIDTH, _MOST_WIDTH = 640, 1600
_LINE = 2
_NAME_HEIGHT = 11
# Radius of a point. It has a rim, so that it is seen on the object's colour too.
_DOT = 4


def colour_of(label: int) -> tuple[int, int, int]:
    """Return the colour of a class, from 0 to 255: VOC's, without its black.

    Example:
        >>> colour_of(1), colour_of(2)
        ((128, 0, 0), (0, 128, 0))
    """
    return palette(label + 1)[label]


def above(found: Found, least: float) -> Found:
    """Return the objects whose score is so high at least.

    Example:
        >>> found = {"scores": torch.tensor([0.9, 0.2]), "labels": torch.tensor([1, 2])}
        >>> above(found, 0.5)["labels"].tolist()
        [1]
    """
    kept = found["scores"] >= least
    return {name: value[kept] for name, value in found.items()}


def described_objects(
    found: Found, classes: Sequence[str], points: PointNames | None = None
) -> list[dict[str, Any]]:
    """Return ``{"class", "score", "box"}`` of each object, JSON-ready, the best first.

    A box is left, top, right and bottom in pixels. With the names of points "keypoints" has x and y of each.

    Example:
        >>> found = {"boxes": torch.tensor([[1.0, 2.0, 3.0, 4.0]]), "labels": torch.tensor([2])}
        >>> described_objects({**found, "scores": torch.tensor([0.5])}, ["cat", "dog"])
        [{'class': 'dog', 'score': 0.5, 'box': [1.0, 2.0, 3.0, 4.0]}]
    """
    described: list[dict[str, Any]] = [
        {"class": classes[label - 1], "score": score, "box": box}
        for label, score, box in zip(
            found["labels"].tolist(), found["scores"].tolist(), found["boxes"].tolist(), strict=True
        )
    ]
    if points is not None:
        for each, own in zip(described, found["keypoints"].tolist(), strict=True):
            each["keypoints"] = dict(zip(points.names, own, strict=True))
    return described


def drawn_objects(
    image: Tensor, found: Found, classes: Sequence[str], points: PointNames | None = None
) -> Tensor:
    """Return an image with the objects drawn over it, (3, h, w) in [0, 1], in a size in which names are read.

    Args:
        image: (3, H, W) in [0, 1].
        found: Boxes in its pixels, labels from 1 on, scores, and perhaps masks or keypoints.
        classes: Names of the classes.
        points: Which of the keypoints are joined; None draws none.

    Raises:
        ImportError: Pillow is missing.
    """
    height, width = image.shape[1:]
    shown = image.clone()
    if "masks" in found:
        # The best last, so that it lies on top.
        for mask, label in zip(found["masks"].flip(0), found["labels"].flip(0).tolist(), strict=True):
            colour = torch.tensor(colour_of(label)).view(3, 1, 1) / 255
            shown = torch.where(mask, (1 - _OPACITY) * shown + _OPACITY * colour, shown)
    scale = min(max(width, _LEAST_WIDTH), _MOST_WIDTH) / width
    size = (max(1, round(height * scale)), round(width * scale))
    canvas = image_of(resize_image(shown, size))
    from PIL import ImageDraw

    draw = ImageDraw.Draw(canvas)
    objects = described_objects(found, classes, points)
    for label, each in reversed(list(zip(found["labels"].tolist(), objects, strict=True))):
        left, top, right, bottom = (side * scale for side in each["box"])
        draw.rectangle(
            (left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour_of(label), width=_LINE
        )
        if points is not None:
            # A point is the middle of its pixel.
            places = [((x + 0.5) * scale, (y + 0.5) * scale) for x, y in each["keypoints"].values()]
            for number, (first, second) in enumerate(points.skeleton):
                bone = (*places[first], *places[second])
                draw.line(bone, fill=colour_of(number + 1), width=2 * _LINE)
            for number, (x, y) in enumerate(places):
                around = (x - _DOT, y - _DOT, x + _DOT, y + _DOT)
                draw.ellipse(around, fill=colour_of(number + 1), outline="white")
        words = in_latin(f"{each['class']} {each['score']:.2f}")
        place = (left + _LINE, max(0.0, top - _NAME_HEIGHT - 1))
        draw.rectangle(draw.textbbox(place, words), fill=colour_of(label))
        draw.text(place, words, fill="white")
    values = torch.frombuffer(bytearray(canvas.tobytes()), dtype=torch.uint8)
    return values.view(*size, 3).permute(2, 0, 1).float() / 255


def write_objects(
    image: Tensor,
    found: Found,
    path: str | os.PathLike[str],
    *,
    classes: Sequence[str],
    points: PointNames | None = None,
) -> None:
    """Write an image with the objects drawn over it as a PNG; an existing file is replaced."""
    save_picture(image_of(drawn_objects(image, found, classes, points)), path)
