"""One's own images or volumes with their masks: two folders, whose files belong together by their names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from nonlocalnn.data.class_names import read_class_names
from nonlocalnn.data.folder_files import IMAGE_SUFFIXES, divide, is_ignored, warn_of_passed_over
from nonlocalnn.data.split_lists import SPLIT_NAMES

# What the folder of the masks is called, the first first.
MASK_FOLDERS = ("masks", "labels", "annotations")


@dataclass(frozen=True)
class PairedFiles:
    """Which files are images and which are masks.

    Args:
        kind: What the images are called: "images".
        is_image: Whether a file is one.
        is_mask: Whether a file in the folder of the masks is one.
        stem: The name by which the two belong together.
        mask_ending: What a mask's name ends in, for errors.
    """

    kind: str
    is_image: Callable[[Path], bool]
    is_mask: Callable[[Path], bool]
    stem: Callable[[Path], str]
    mask_ending: str


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


IMAGE_FILES = PairedFiles("images", _is_image, _is_image, lambda path: path.stem, ".png")


def find_pairs(root: Path, split: str, files: PairedFiles) -> tuple[list[tuple[Path, Path]], list[str]]:
    """Find images and masks by stem, divided by folders or by their paths, and the names of the classes.

    Args:
        root: It holds ``images``, ``masks`` and ``classes.txt``; ``labels`` and ``annotations`` are names of
            the second folder too.
        split: "train", "validation" or "test".
        files: Which files are images and masks.

    Raises:
        FileNotFoundError: A folder, or ``classes.txt``, is missing.
        ValueError: A class is named twice, or not in the place of its number; files do not belong together;
            or the split has none, or two folders.
    """
    names = root / "classes.txt"
    if not names.is_file():
        raise FileNotFoundError(
            f"{root} must hold classes.txt, the name of a class a line, that of id 0 first; it is missing"
        )
    classes = read_class_names(names)
    _check_numbers(classes, names)
    by_folders = {
        each: [pair for pair in _folders_of(root, each) if pair[0].is_dir()] for each in SPLIT_NAMES
    }
    if not any(by_folders.values()):
        masks = dict(_pairs(root / "images", _mask_folder(root), files))
        # One class for all: what matters is that each split has some.
        pairs = [(image, masks[image]) for image, _ in divide([(image, 0) for image in masks], root)[split]]
    else:
        there = by_folders[split]
        if len(there) > 1:
            raise ValueError(
                f"{root} must have one folder of {split!r}; it has {there[0][0]} and {there[1][0]}: join them"
            )
        pairs = _pairs(*there[0], files) if there else []
        of_splits = {pair[0] for pairs_there in by_folders.values() for pair in pairs_there}
        beside = sorted((root / "images").iterdir()) if (root / "images").is_dir() else []
        warn_of_passed_over(root, (path for path in beside if path not in of_splits), kind=files.kind)
    if not pairs:
        raise ValueError(
            f"none of the {files.kind} in {root} falls to {split!r}: add {files.kind}, or make the folders "
            "train/images, train/masks, validation/images and so on, and divide them yourself"
        )
    return pairs, classes


def _check_numbers(classes: Sequence[str], path: Path) -> None:
    """Check that lines of classes that all begin with a number begin with their ids: their places count.

    Where names without the numbers would not differ, as of 1 cent and 2 cent, these are no ids.

    Raises:
        ValueError: They do not.
    """
    numbers = [re.match(r"(\d+)[\s:;,.=)-]+(\D[^:]*)", name) for name in classes]
    are_ids = all(numbers) and len({each[2] for each in numbers if each}) == len(classes)
    wrong = next((place for place, each in enumerate(numbers) if each and int(each[1]) != place), None)
    if wrong is not None and are_ids:
        raise ValueError(
            f"{path} must name the class of id 0 first, then those of 1, 2 and so on; {classes[wrong]!r} "
            f"would be that of id {wrong}: put the lines in order, and leave the numbers out"
        )


def _mask_folder(base: Path) -> Path:
    """Return the folder of the masks in a folder: the first of the names that is there."""
    return next((base / name for name in MASK_FOLDERS if (base / name).is_dir()), base / MASK_FOLDERS[0])


def _folders_of(root: Path, split: str) -> list[tuple[Path, Path]]:
    """Return where a split's images and masks may lie: train/images, or images/train."""
    return [
        pair
        for name in SPLIT_NAMES[split]
        for pair in (
            (root / name / "images", _mask_folder(root / name)),
            (root / "images" / name, _mask_folder(root) / name),
        )
    ]


def _pairs(images: Path, masks: Path, files: PairedFiles) -> list[tuple[Path, Path]]:
    """Return each image of a folder, and of folders in it, with the mask of its place and stem.

    Raises:
        FileNotFoundError: A folder is missing.
        ValueError: An image has no mask, or a mask no image; or two images have one stem.
    """
    for folder in (images, masks):
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{files.kind} and their masks must lie in {images} and {masks}; there is no {folder}"
            )
    found, left = _inside(images, files.is_image)
    warn_of_passed_over(images, left, kind=files.kind)
    what = files.kind.removesuffix("s")
    of_stem = _by_place(_inside(masks, files.is_mask)[0], masks, files, "mask")
    stems = list(_by_place(found, images, files, what))
    ending = _ending(stems, set(of_stem))
    wanted = [stem + ending for stem in stems]
    for path, stem in zip(found, wanted, strict=True):
        if stem not in of_stem:
            raise ValueError(f"{path} has no mask: {masks / stem}{files.mask_ending} is missing")
    alone = sorted(set(of_stem) - set(wanted))
    if alone:
        raise ValueError(f"{of_stem[alone[0]]} has no {what} of its name in {images}")
    return [(path, of_stem[stem]) for path, stem in zip(found, wanted, strict=True)]


def _inside(folder: Path, is_wanted: Callable[[Path], bool]) -> tuple[list[Path], list[Path]]:
    """Return what is wanted in a folder and in folders in it, sorted, and what else lies there."""
    found: list[Path] = []
    left: list[Path] = []
    for path in sorted(folder.iterdir()):
        if is_ignored(path):
            continue
        # A folder may be wanted as a whole: a series of slices.
        if is_wanted(path):
            found.append(path)
        elif path.is_dir():
            inside, others = _inside(path, is_wanted)
            found += inside
            left += others
        else:
            left.append(path)
    return found, left


def _by_place(paths: Sequence[Path], folder: Path, files: PairedFiles, what: str) -> dict[str, Path]:
    """Return files by their place in a folder and their stem, by which images and masks belong together.

    Raises:
        ValueError: Two have one, such as a.png and a.tif: which of them is meant would be a guess.
    """
    found: dict[str, Path] = {}
    for path in paths:
        # macOS writes letters and their accents apart, and others as one.
        place = unicodedata.normalize("NFC", (path.parent.relative_to(folder) / files.stem(path)).as_posix())
        if place in found:
            raise ValueError(
                f"{folder} must have one {what} of a name; there are two of {place!r}, {found[place].name} "
                f"and {path.name}: take one away"
            )
        found[place] = path
    return found


def _ending(stems: Sequence[str], there: Set[str]) -> str:
    """Return what a mask's name has after its image's, such as "_mask"; nothing where names agree."""
    if not stems or stems[0] in there:
        return ""
    endings = sorted(each.removeprefix(stems[0]) for each in there if each.startswith(stems[0]))
    fitting = [ending for ending in endings if all(stem + ending in there for stem in stems)]
    return fitting[0] if len(fitting) == 1 else ""
