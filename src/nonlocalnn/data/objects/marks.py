"""What each mark of an image must be: a box with an area, a mask with a pixel."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from operator import mul
from pathlib import Path
from typing import Any

from nonlocalnn.data.objects.annotated import Sheet
from nonlocalnn.data.objects.numbers import as_number, as_whole
from nonlocalnn.data.objects.runs import holds_pixel, lengths_of

# A box may end so many pixels beyond its image: tools round, and some count from 1.
_SLACK = 1.0
_FEWEST_NUMBERS = 6  # three points of a polygon
# pycocotools ends the process where memory does not suffice for a line so long.
_FARTHEST = 1e6
# In images of so few pixels a side, boxes of a pixel may be all that there are.
_FEW_PIXELS = 4

Box = tuple[float, float, float, float]


def checked_box(value: Any, sheet: Sheet) -> Box:
    """Return a box (left, top, width, height) that has an area, some of it on its image.

    Raises:
        ValueError: It has none.
    """
    numbers = _numbers(value)
    if len(numbers) != 4:
        raise ValueError(f"{sheet.name}: a box must be four numbers; got {value!r:.60}")
    left, top, width, height = map(float, numbers)
    if width <= 0 or height <= 0:
        raise ValueError(f"{sheet.name}: its box {numbers} has no area")
    if left >= sheet.width or top >= sheet.height or left + width <= 0 or top + height <= 0:
        raise ValueError(
            f"{sheet.name}: its box {numbers} lies outside the image, {sheet.width} x {sheet.height}"
        )
    return left, top, width, height


def exceeds(box: Sequence[float], sheet: Sheet) -> bool:
    """Return whether a box ends more than a pixel beyond its image."""
    left, top, width, height = box
    return (
        min(left, top) < -_SLACK
        or left + width > sheet.width + _SLACK
        or top + height > sheet.height + _SLACK
    )


def tell_of_cut_boxes(source: Path, beyond: Sequence[str]) -> None:
    """Warn of boxes that end beyond their images."""
    if beyond:
        warnings.warn(
            f"{source}: {len(beyond)} boxes end beyond their image and are cut off there, such as "
            f"{beyond[0]}",
            stacklevel=3,
        )


def check_in_pixels(source: Path, boxes: Iterable[tuple[Box, Sheet]]) -> None:
    """Check that boxes are not fractions of their images, all of whose numbers are 1 at most.

    Args:
        source: Their file, for errors.
        boxes: Each box and its image.

    Raises:
        ValueError: All boxes are.
    """
    first = None
    for box, sheet in boxes:
        if max(box) > 1:
            return
        if first is None and min(sheet.height, sheet.width) > _FEW_PIXELS:
            first = box, sheet
    if first is not None:
        box, sheet = first
        raise ValueError(
            f"{source}: its boxes are fractions of the image, such as {list(box)} of {sheet.name}, and "
            f"must be in pixels: multiply them by its sides, {sheet.width} x {sheet.height}"
        )


def _numbers(values: Any) -> list[float]:
    """Return the numbers of a list; an empty list where one is none."""
    try:
        return [as_number(each) for each in values] if isinstance(values, list | tuple) else []
    except ValueError:
        return []


def checked_shape(value: Any, sheet: Sheet) -> Any:
    """Return polygons or run lengths that are whole; None of an object that has a box only.

    Raises:
        ValueError: They are not, or no pixel of the image is inside.
    """
    if not value:
        return None
    shape = _runs(value, sheet) if isinstance(value, dict) else _polygons(value, sheet)
    # COCO has close to a million objects: only polygons that may be too small or too thin are drawn.
    is_wide = isinstance(shape, list) and any(_is_wide(each, sheet) for each in shape)
    if not (is_wide or holds_pixel(shape, sheet.height, sheet.width)):
        raise ValueError(f"{sheet.name}: its mask has no pixel of the image, {sheet.width} x {sheet.height}")
    return shape


def _runs(value: dict[str, Any], sheet: Sheet) -> dict[str, Any]:
    size, counts = value.get("size"), value.get("counts")
    sides = [sheet.height, sheet.width]
    if _numbers(size) != sides or not isinstance(counts, list | str):
        raise ValueError(
            f"{sheet.name}: run lengths must have counts, and a size of {sides}; got {size!r:.40}"
        )
    # Decoders trust these: of too few, pixels hold whatever the memory held before.
    try:
        lengths = lengths_of([as_whole(each) for each in counts] if isinstance(counts, list) else counts)
    except ValueError:
        lengths = [-1]
    if min(lengths, default=-1) < 0 or sum(lengths) != sheet.height * sheet.width:
        raise ValueError(f"{sheet.name}: the run lengths of a mask must add up to its image's pixels")
    return {"size": sides, "counts": counts if isinstance(counts, str) else lengths}


def _polygons(value: Any, sheet: Sheet) -> list[list[float]]:
    # A polygon that is not in a list of polygons is the only one.
    if isinstance(value, list) and not any(isinstance(each, list) for each in value):
        value = [value]
    found = []
    for polygon in value if isinstance(value, list) else [value]:
        # Of four numbers pycocotools makes a box, in silence.
        if not isinstance(polygon, list) or len(polygon) < _FEWEST_NUMBERS or len(polygon) % 2:
            raise ValueError(f"{sheet.name}: a polygon must have three points at least; got {polygon!r:.60}")
        numbers = _numbers(polygon)
        if not numbers:
            raise ValueError(f"{sheet.name}: a polygon must be of numbers; got {polygon!r:.60}")
        if max(map(abs, numbers)) > _FARTHEST:
            raise ValueError(f"{sheet.name}: a polygon ends far beyond the image; got {polygon!r:.60}")
        found.append(numbers)
    return found


def _is_wide(polygon: list[float], sheet: Sheet) -> bool:
    """Return whether a polygon lies on its image, and is a pixel wide and high in the mean."""
    x, y = polygon[::2], polygon[1::2]
    width, height = max(x) - min(x), max(y) - min(y)
    if min(x) < 0 or min(y) < 0 or max(x) > sheet.width or max(y) > sheet.height:
        return False
    twice = sum(map(mul, x, y[1:] + y[:1])) - sum(map(mul, y, x[1:] + x[:1]))
    return abs(twice) > 2 * (width + height)
