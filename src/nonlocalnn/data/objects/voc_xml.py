"""XML files of Pascal VOC's format, one an image, as LabelImg, Roboflow and others write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from nonlocalnn.data.objects.annotated import Marked, Sheet
from nonlocalnn.data.objects.coco import Annotations, Faults
from nonlocalnn.data.objects.marks import Box, check_in_pixels, checked_box, exceeds, tell_of_cut_boxes
from nonlocalnn.data.objects.numbers import as_flag, as_number

# A file's objects as they stand there: name, box, whether it is difficult.
_Named = tuple[str, Box, bool]
# What tools write where nobody said whether an object is difficult.
_UNSAID = ("", "unspecified")


def class_names(files: Sequence[Path]) -> list[str]:
    """Return the names of the classes in some files, in the order of the alphabet.

    Raises:
        ValueError: A file is no such XML.
    """
    return sorted({_text(each, "name", path) for path in files for each in _root(path).iter("object")})


def read_voc(
    files: Sequence[Path], classes: Sequence[str], *, source: Path, max_broken: int = 0
) -> Annotations:
    """Read a file an image; numbers of images are their places in the list.

    Corners are pixels counted from 1, both of them inside the box, as VOC defines it; a corner of 0, as
    tools write it that count from 0, is taken for 1. Objects marked as difficult are as crowds: training
    leaves them out, and in evaluation they count neither way.

    Args:
        files: The XML files.
        classes: Names of the classes.
        source: Where they lie, for errors.
        max_broken: Up to how many objects with a fault are left out.

    Raises:
        ValueError: A file is no such XML, or cut; more objects have a fault than may be left out; or boxes
            are fractions of the image.
    """
    sheets, faults, beyond = [], Faults(source, max_broken), []
    boxes: list[tuple[Box, Sheet]] = []
    for number, path in enumerate(files, start=1):
        root = _root(path)
        height, width = (_whole(root, f"size/{side}", path) for side in ("height", "width"))
        sheet, objects = Sheet(number, path.name, height, width), []
        for place, (name, box, is_difficult) in enumerate(_objects(root, path)):
            try:
                if name not in classes:
                    raise ValueError(f"{path.name}: {name!r} is none of the classes")
                checked = checked_box(box, sheet)
            except ValueError as error:
                faults.found.append(f"object {place + 1}: {error}")
                continue
            boxes.append((checked, sheet))
            if exceeds(checked, sheet):
                beyond.append(f"object {place + 1} of {path.name}")
            objects.append(Marked(classes.index(name) + 1, checked, None, is_difficult))
        sheets.append(Sheet(number, path.name, height, width, tuple(objects)))
    check_in_pixels(source, boxes)
    faults.settle()
    tell_of_cut_boxes(source, beyond)
    return Annotations(list(classes), list(range(1, len(classes) + 1)), sheets, has_masks=False)


def image_name(path: Path) -> str:
    """Return the name of the image that a file is of, as it says; else its own stem."""
    return _root(path).findtext("filename") or path.stem


def _root(path: Path) -> ElementTree.Element:
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise ValueError(f"{path} is no whole XML, it may be cut: {error}") from None
    if root.tag != "annotation":
        raise ValueError(f"{path} must be XML as VOC's, an <annotation>; it is a <{root.tag}>")
    return root


def _objects(root: ElementTree.Element, path: Path) -> list[_Named]:
    found = []
    for each in root.iter("object"):
        left, top, right, bottom = (
            _number(each, f"bndbox/{name}", path) for name in ("xmin", "ymin", "xmax", "ymax")
        )
        left, top = max(left, 1.0), max(top, 1.0)
        # Both corners lie inside: a box from pixel 1 to pixel 1 is a pixel wide.
        box = (left - 1, top - 1, right - left + 1, bottom - top + 1)
        found.append((_text(each, "name", path), box, _is_difficult(each, path)))
    return found


def _is_difficult(element: ElementTree.Element, path: Path) -> bool:
    text = (element.findtext("difficult") or "").strip()
    try:
        return text.lower() not in _UNSAID and as_flag(text)
    except ValueError as error:
        raise ValueError(f"{path}: <difficult> {error}") from None


def _text(element: ElementTree.Element, name: str, path: Path) -> str:
    text = (element.findtext(name) or "").strip()
    if not text:
        raise ValueError(f"{path}: an <{element.tag}> must have <{name}>; it lacks it")
    return text


def _number(element: ElementTree.Element, name: str, path: Path) -> float:
    text = _text(element, name, path)
    try:
        return float(as_number(text))
    except ValueError:
        raise ValueError(f"{path}: <{name}> must be a number; got {text!r:.40}") from None


def _whole(root: ElementTree.Element, name: str, path: Path) -> int:
    value = _number(root, name, path)
    if not (value >= 1 and value == int(value)):
        raise ValueError(f"{path}: <{name}> must be a whole number of pixels; got {value:g}")
    return int(value)
