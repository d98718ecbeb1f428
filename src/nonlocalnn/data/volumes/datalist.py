"""Lists of volumes with their masks in JSON, as the Medical Segmentation Decathlon and MONAI write them.

``dataset.json`` names the files and the classes::

    {"labels": {"0": "background", "1": "liver"},
     "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}],
     "validation": [...], "test": [...]}

Paths are below its folder. A list ``validation`` or ``test`` (or ``testing``) whose items have labels is that
split. What has no such list is taken from ``training``, divided by the paths of its images as files without
folders of splits are. Images without labels are in no split.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nonlocalnn._errors import one_line
from nonlocalnn.data.folder_files import divided
from nonlocalnn.data.split_lists import check_apart

DATALIST = "dataset.json"
_LISTS = {"train": ("training",), "validation": ("validation",), "test": ("test", "testing")}


def is_datalist(folder: Path) -> bool:
    """Return whether a folder has a ``dataset.json`` that lists volumes for training, or the folders of one.

    The Decathlon's folders are no classes: that their list is missing, damaged or of another kind, as nnU-Net
    writes it, is said where it is read.
    """
    path = folder / DATALIST
    if (folder / "imagesTr").is_dir() and (path.is_file() or (folder / "labelsTr").is_dir()):
        return True
    try:
        return path.is_file() and isinstance(_read(path).get("training"), list)
    except ValueError:
        return False


def read_datalist(folder: Path, split: str) -> tuple[list[tuple[Path, Path]], list[str]]:
    """Return the files of each volume of a split and of its mask, and the names of the classes.

    Args:
        folder: That of ``dataset.json``.
        split: "train", "validation" or "test".

    Raises:
        FileNotFoundError: A file that it names is missing.
        ValueError: It is no such list, the split has none, a volume of another split is of training too, or
            one has two labels.
    """
    path = folder / DATALIST
    found = _read(path)
    if "training" not in found:
        raise ValueError(
            f"{path} must have a list 'training' with an image and its label each, which nnU-Net's second "
            "version leaves out: add it"
        )
    classes = _classes(found.get("labels"), path)
    lists = {
        each: [item for name in names for item in _items(found.get(name, []), name, path)]
        for each, names in _LISTS.items()
    }
    train = lists["train"]
    if any("label" not in item for item in train):
        raise ValueError(f"each item of 'training' in {path} must have an image and its label")
    labelled = {each: [item for item in items if "label" in item] for each, items in lists.items()}
    names = [Path(item["image"]).as_posix() for item in train]
    _check_one_label(labelled.values(), path)
    places = divided(names, [0] * len(names))
    labelled["train"] = [
        item for item, place in zip(train, places, strict=True) if place == "train" or labelled[place]
    ]
    for each in ("validation", "test"):
        learnt, others = ([folder / item["image"] for item in items] for items in (train, labelled[each]))
        check_apart(learnt, others, path)
        if not labelled[each]:
            labelled[each] = [item for item, place in zip(train, places, strict=True) if place == each]
    if not labelled[split]:
        raise ValueError(
            f"none of the {len(train)} volumes that {path} lists for training falls to {split!r}: list some "
            f"under {_LISTS[split][0]!r}, with their labels"
        )
    return pairs_of(labelled[split], folder), classes


def _check_one_label(lists: Iterable[Sequence[Mapping[str, str]]], path: Path) -> None:
    """Check that no image has two labels, and no label two images; what is listed twice alike is one.

    Raises:
        ValueError: One has.
    """
    pairs = {(Path(item["image"]), Path(item["label"])): None for items in lists for item in items}
    times = Counter(each for pair in pairs for each in pair)
    twice = next((each for each in times if times[each] > 1), None)
    if twice is not None:
        raise ValueError(f"each image in {path} must have a label of its own; {twice} is listed with several")


def pairs_of(items: Sequence[Mapping[str, str]], folder: Path) -> list[tuple[Path, Path]]:
    """Return the files that MONAI's dictionaries name, as :class:`MaskedVolumes` takes them.

    Args:
        items: ``{"image": path, "label": path}`` each; other keys are left.
        folder: What relative paths are below.

    Raises:
        FileNotFoundError: A file is missing.
    """
    pairs = [(folder / item["image"], folder / item["label"]) for item in items]
    for path in (each for pair in pairs for each in pair):
        if not path.exists():
            raise FileNotFoundError(f"there is no file {path}, which the list of volumes names")
    return pairs


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.parent} must hold {path.name}, which names each image, its label and the classes; it is "
            "missing"
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {one_line(error)}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold an object with 'training' and 'labels'")
    return found


def _items(found: Any, name: str, path: Path) -> list[Mapping[str, str]]:
    """Return the dictionaries of a list; the Decathlon's images without labels are texts."""
    if not isinstance(found, list):
        raise ValueError(f"{name!r} of {path} must be a list of items with an image and a label")
    items = [{"image": each} if isinstance(each, str) else each for each in found]
    for each in items:
        values = [each.get("image"), each.get("label", "")] if isinstance(each, dict) else [None]
        if not all(isinstance(value, str) for value in values):
            raise ValueError(
                f"{name!r} of {path} must name one file for each image and label; got {str(each)[:80]}: "
                "volumes of several files are not read"
            )
    return [
        {**each, **{key: _here(each[key], path.parent) for key in ("image", "label") if key in each}}
        for each in items
    ]


def _here(name: str, folder: Path) -> str:
    """Return a path as this system has it: lists from Windows have backslashes."""
    return name if (folder / name).exists() else name.replace("\\", "/")


def _classes(labels: Any, path: Path) -> list[str]:
    """Return the names of the classes in the order of their ids: of id to name, or of name to id."""
    try:
        by_id = {
            int(key) if str(key).isdecimal() else int(value): str(value) if str(key).isdecimal() else str(key)
            for key, value in labels.items()
        }
    except (AttributeError, TypeError, ValueError):
        by_id = {}
    if not by_id or sorted(by_id) != list(range(len(labels))):
        raise ValueError(
            f"'labels' of {path} must name the class of each id from 0 on, as {{'0': 'background', '1': "
            f"'liver'}}; got {str(labels)[:80]}"
        )
    return [by_id[number] for number in range(len(by_id))]
