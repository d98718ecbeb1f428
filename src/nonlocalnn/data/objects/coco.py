"""COCO's JSON: images, classes and what is marked, read whole and checked by name."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nonlocalnn.data.objects.annotated import Marked, Sheet
from nonlocalnn.data.objects.marks import (
    Box,
    check_in_pixels,
    checked_box,
    checked_shape,
    exceeds,
    tell_of_cut_boxes,
)
from nonlocalnn.data.objects.numbers import as_flag, as_number, as_whole
from nonlocalnn.data.objects.points import PointNames, checked_points, points_of_categories

_MOST_NAMED = 3
# What reading an annotation of any content raises.
_ANY_FAULT = (ValueError, TypeError, KeyError, OverflowError)


@dataclass(frozen=True)
class Annotations:
    """What a file, or a folder of files, says of some images.

    Args:
        classes: Names of the classes, in the order of their numbers.
        class_ids: Their numbers in the file.
        sheets: The images, and what is marked on each.
        has_masks: Whether every object has a mask.
        points: What the points of each object are called; None where they were not asked for.
    """

    classes: Sequence[str]
    class_ids: Sequence[int]
    sheets: Sequence[Sheet]
    has_masks: bool
    points: PointNames | None = None


@dataclass
class Faults:
    """What is wrong with single marks of a file: an error, unless so many may be left out.

    Args:
        source: The file.
        most: How many may be left out.
    """

    source: Path
    most: int = 0
    found: list[str] = field(default_factory=list)

    def settle(self) -> None:
        """Warn of what was left out.

        Raises:
            ValueError: There is more than may be left out.
        """
        if not self.found:
            return
        shown = "; ".join(self.found[:_MOST_NAMED])
        more = len(self.found) - _MOST_NAMED
        words = f"{self.source}: {shown}{f'; and {more} more' if more > 0 else ''}"
        if len(self.found) > self.most:
            raise ValueError(
                f"{words}: mend it, or set max_broken={len(self.found)} to leave such objects out"
            )
        warnings.warn(f"left out, {len(self.found)} in all: {words}", stacklevel=2)


def read_coco(path: Path, *, max_broken: int = 0, with_points: bool = False) -> Annotations:
    """Read a file of COCO's format.

    Numbers of classes and images stay what they are. A class that stands for all others, as Roboflow writes
    one, and that nothing is of, is left out.

    Args:
        path: The file.
        max_broken: Up to how many objects with a fault are left out.
        with_points: Read the points of objects, and no masks: ``num_keypoints`` is counted anew.

    Raises:
        ValueError: It is no such file, or cut; it names no points, and they are asked for; or more objects
            have a fault than may be left out: a box without an area or beyond its image, a polygon of two
            points, a mask without a pixel, a number that nothing has; or boxes are fractions of the image.
    """
    content = _content(path)
    names = _classes(content, path)
    sheets, labels = _images(content, path), {number: place for place, number in enumerate(names, start=1)}
    objects: dict[int, list[Marked]] = {number: [] for number in sheets}
    kept = [each for each in content["categories"] if as_whole(each["id"]) in names]
    points = points_of_categories(kept, path) if with_points else None
    check_in_pixels(path, _boxes(content["annotations"], sheets))
    faults, beyond = Faults(path, max_broken), []
    for place, entry in enumerate(content["annotations"]):
        called = f"annotation {entry.get('id', f'at place {place}') if isinstance(entry, dict) else place}"
        try:
            number, marked = _marked(entry, sheets, labels, points)
        except _ANY_FAULT as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            faults.found.append(f"{called}: {reason}")
            continue
        if exceeds(marked.box, sheets[number]):
            beyond.append(f"{called} of {sheets[number].name}")
        objects[number].append(marked)
    has_masks = points is None and _all_have_masks(objects, faults)
    faults.settle()
    tell_of_cut_boxes(path, beyond)
    found = [
        Sheet(number, sheet.name, sheet.height, sheet.width, tuple(objects[number]))
        for number, sheet in sheets.items()
    ]
    return Annotations(list(names.values()), list(names), found, has_masks, points)


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text in UTF-8: it must be JSON as COCO's, written so") from None
    # Of a number of thousands of digits Python refuses to make one, with an error of its own.
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no whole JSON, it may be cut: {error}") from None
    for part in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise ValueError(
                f"{path} must be JSON as COCO's, with lists images, annotations and categories; it has no "
                f"list {part}"
            )
    return content


def _classes(content: Mapping[str, Any], path: Path) -> dict[int, str]:
    """Return the names of the classes by their numbers, in the order of the numbers."""
    entries = content["categories"]
    try:
        names = {as_whole(each["id"]): str(each["name"]) for each in entries}
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: each of categories must have an id and a name: {error}") from None
    if len(names) != len(entries):
        raise ValueError(f"{path}: two of the categories have the same id")
    twice = sorted({name for name in names.values() if list(names.values()).count(name) > 1})
    if twice:
        raise ValueError(
            f"{path}: two of the categories are called {twice[0]!r:.80}: rename one, or join them"
        )
    used = set()
    for each in content["annotations"]:
        with suppress(*_ANY_FAULT):
            used.add(as_whole(each["category_id"]))
    parents = [each.get("supercategory") for each in entries]
    for each in entries:
        # Roboflow's first category is the name of the project, of which all others are kinds.
        number, parent = as_whole(each["id"]), each.get("supercategory")
        if parent == "none" and each["name"] in parents and number not in used:
            del names[number]
    if not names:
        raise ValueError(f"{path} must name a class at least; its categories are empty")
    return dict(sorted(names.items()))


def _images(content: Mapping[str, Any], path: Path) -> dict[int, Sheet]:
    sheets: dict[int, Sheet] = {}
    number_of: dict[str, int] = {}
    for place, each in enumerate(content["images"]):
        try:
            number, name = as_whole(each["id"]), each["file_name"]
            height, width = as_whole(each["height"]), as_whole(each["width"])
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(
                f"{path}: each of images must have id, file_name, height and width; the one at place {place} "
                f"has not: {error}"
            ) from None
        if not isinstance(name, str) or min(height, width) < 1:
            raise ValueError(f"{path}: image {number} must have a file_name, and sides of a pixel at least")
        if number in sheets:
            raise ValueError(f"{path}: two images have the id {number}, {sheets[number].name} and {name}")
        if name in number_of:
            raise ValueError(
                f"{path}: two images have the file_name {name}, of the ids {number_of[name]} and {number}: "
                "join what is marked on them under one"
            )
        number_of[name] = number
        sheets[number] = Sheet(number, name, height, width)
    return sheets


def _boxes(entries: Sequence[Any], sheets: Mapping[int, Sheet]) -> Iterator[tuple[Box, Sheet]]:
    """Yield the boxes that have no fault, each with its image."""
    for entry in entries:
        with suppress(*_ANY_FAULT):
            sheet = sheets[as_whole(entry["image_id"])]
            yield checked_box(entry["bbox"], sheet), sheet


def _marked(
    entry: Mapping[str, Any],
    sheets: Mapping[int, Sheet],
    labels: Mapping[int, int],
    points: PointNames | None,
) -> tuple[int, Marked]:
    """Return the image of an annotation and what it marks.

    Raises:
        ValueError: It has a fault.
    """
    number, class_id = as_whole(entry["image_id"]), as_whole(entry["category_id"])
    if number not in sheets:
        raise ValueError(f"there is no image {number!r:.40}")
    sheet = sheets[number]
    if class_id not in labels:
        raise ValueError(f"{sheet.name} has category {class_id!r:.40}, which is none of the categories")
    box = checked_box(entry["bbox"], sheet)
    # Left empty is as left out.
    crowd, area = entry.get("iscrowd"), entry.get("area")
    try:
        is_crowd = crowd is not None and as_flag(crowd)
    except ValueError as error:
        raise ValueError(f"{sheet.name}: its iscrowd {error}") from None
    try:
        area = None if area is None else as_number(area)
    except ValueError:
        raise ValueError(f"{sheet.name}: its area must be a number; got {area!r:.40}") from None
    if points is None:
        shape, own = checked_shape(entry.get("segmentation"), sheet), None
    else:
        shape = None
        own = checked_points(entry.get("keypoints"), len(points.names), sheet.name, sheet.width, sheet.height)
    return number, Marked(labels[class_id], box, shape, is_crowd, area, own)


def _all_have_masks(objects: dict[int, list[Marked]], faults: Faults) -> bool:
    """Return whether objects have masks; those that alone have none are faults, and a crowd's is its box."""
    marked = [(number, each) for number, found in objects.items() for each in found if not each.is_crowd]
    without = [(number, each) for number, each in marked if each.shape is None]
    if len(without) == len(marked):
        return False
    for number, each in without:
        faults.found.append(f"an object of image {number} has no segmentation, and others have one")
        objects[number].remove(each)
    for number, found in objects.items():
        # Figures leave out what is found there: they need a place, and no outline.
        objects[number] = [
            each if each.shape is not None else replace(each, shape=[_outline(each.box)]) for each in found
        ]
    return True


def _outline(box: Sequence[float]) -> list[float]:
    left, top, width, height = box
    return [left, top, left + width, top, left + width, top + height, left, top + height]
