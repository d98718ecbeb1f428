"""Masks as COCO writes them: polygons, or lengths of runs of pixels, down one column after another."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nonlocalnn._errors import needs


def decoded(shape: Any, height: int, width: int) -> Tensor:
    """Return a mask, uint8 (height, width), of polygons or run lengths.

    Args:
        shape: Polygons, lists of x, y, x, y and so on; or ``{"size", "counts"}``, whose lengths add up to the
            pixels of the image.
        height: Of the image.
        width: Of the image.

    Raises:
        ImportError: It is of polygons, and pycocotools is missing, which alone knows which pixels COCO means.

    Example:
        >>> decoded({"size": [2, 3], "counts": [1, 2, 3]}, 2, 3).tolist()
        [[0, 1, 0], [1, 0, 0]]
    """
    if isinstance(shape, list):
        with needs("pycocotools", "detection", "masks of objects"):
            from pycocotools import mask as coder
        shape = coder.merge(coder.frPyObjects(shape, height, width))
    lengths = torch.tensor(lengths_of(shape["counts"]))
    # The first run is of pixels outside.
    values = torch.arange(len(lengths)).remainder(2).to(torch.uint8)
    return values.repeat_interleave(lengths).view(width, height).t().contiguous()


def holds_pixel(shape: Any, height: int, width: int) -> bool:
    """Return whether a pixel lies inside of polygons or run lengths; arguments and errors are of `decoded`.

    Example:
        >>> holds_pixel({"size": [2, 3], "counts": [6]}, 2, 3)
        False
    """
    if isinstance(shape, list):
        with needs("pycocotools", "detection", "masks of objects"):
            from pycocotools import mask as coder
        return bool(coder.area(coder.frPyObjects(shape, height, width)).any())
    # Every other run is of pixels inside.
    return sum(lengths_of(shape["counts"])[1::2]) > 0


def encoded(mask: Tensor) -> dict[str, Any]:
    """Return a mask, uint8 (H, W), as compressed run lengths, JSON-ready.

    Raises:
        ImportError: pycocotools is missing.

    Example:
        >>> encoded(torch.ones(2, 3, dtype=torch.uint8))
        {'size': [2, 3], 'counts': '06'}
    """
    with needs("pycocotools", "detection", "masks of objects"):
        from pycocotools import mask as coder
    import numpy

    runs = coder.encode(numpy.asfortranarray(mask.numpy()))
    return {"size": runs["size"], "counts": runs["counts"].decode("ascii")}


def lengths_of(counts: list[int] | str | bytes) -> list[int]:
    """Return run lengths, which COCO also packs into letters: five bits in each, from the lowest on.

    From the third on each is a difference to the one before the last. What is no such text gives a length
    below 0.

    Example:
        >>> lengths_of("06"), lengths_of([3, 4]), lengths_of("o")
        ([0, 6], [3, 4], [-1])
    """
    if isinstance(counts, list):
        return counts
    letters = counts if isinstance(counts, bytes) else counts.encode("latin-1", "replace")
    lengths: list[int] = []
    value = shift = 0
    for letter in letters:
        bits = letter - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
            value = shift = 0
    return [*lengths, -1] if shift else lengths
