"""One's own images or volumes with their masks: two folders, whose files belong together by their names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nonlocalnn.data.folder_files import IMAGE_SUFFIXES, divide, is_ignored, warn_of_passed_over

# Names of the split, in the folders of all these sets.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid"),
    "test": ("test",),
}


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


def _is_mask(path: Path) -> bool:
    return path.suffix.lower() == ".png" and path.is_file()


IMAGE_FILES = PairedFiles("images", _is_image, _is_mask, lambda path: path.stem, ".png")


def find_pairs(root: Path, split: str, files: PairedFiles) -> tuple[list[tuple[Path, Path]], list[str]]:
    """Find images and masks by stem, divided by folders or by their paths, and the names of the classes.

    Args:
        root: It holds ``images``, ``masks`` and ``classes.txt``.
        split: "train", "validation" or "test".
        files: Which files are images and masks.

    Raises:
        FileNotFoundError: A folder, or ``classes.txt``, is missing.
        ValueError: A class is named twice, files do not belong together, or the split has none.
    """
    names = root / "classes.txt"
    if not names.is_file():
        raise FileNotFoundError(
            f"{root} must hold classes.txt, the name of a class a line, that of id 0 first; it is missing"
        )
    classes = [line.strip() for line in names.read_text(encoding="utf-8").splitlines() if line.strip()]
    if len(set(classes)) != len(classes):
        raise ValueError(f"{names} must name each class once; {_twice(classes)!r} is there twice")
    by_folders = [pair for each in SPLIT_NAMES for pair in _folders_of(root, each) if pair[0].is_dir()]
    if not by_folders:
        masks = dict(_pairs(root / "images", root / "masks", files))
        # One class for all: what matters is that each split has some.
        pairs = [(image, masks[image]) for image, _ in divide([(image, 0) for image in masks], root)[split]]
    else:
        there = [pair for pair in _folders_of(root, split) if pair[0].is_dir()]
        pairs = _pairs(*there[0], files) if there else []
    if not pairs:
        raise ValueError(
            f"none of the {files.kind} in {root} falls to {split!r}: add {files.kind}, or make the folders "
            "train/images, train/masks, validation/images and so on, and divide them yourself"
        )
    return pairs, classes


def _twice(names: Sequence[str]) -> str:
    return next(name for name in names if names.count(name) > 1)


def _folders_of(root: Path, split: str) -> list[tuple[Path, Path]]:
    """Return where a split's images and masks may lie: train/images, or images/train."""
    return [
        pair
        for name in SPLIT_NAMES[split]
        for pair in (
            (root / name / "images", root / name / "masks"),
            (root / "images" / name, root / "masks" / name),
        )
    ]


def _pairs(images: Path, masks: Path, files: PairedFiles) -> list[tuple[Path, Path]]:
    """Return each image of a folder with the mask of its stem.

    Raises:
        FileNotFoundError: A folder is missing.
        ValueError: An image has no mask, or a mask no image; or two images have one stem.
    """
    for folder in (images, masks):
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{files.kind} and their masks must lie in {images} and {masks}; there is no {folder}"
            )
    entries = [path for path in sorted(images.iterdir()) if not is_ignored(path)]
    found = [path for path in entries if files.is_image(path)]
    warn_of_passed_over(images, [path for path in entries if path not in set(found)], kind=files.kind)
    of_stem = {files.stem(path): path for path in sorted(masks.iterdir()) if files.is_mask(path)}
    stems = [files.stem(path) for path in found]
    what = files.kind.removesuffix("s")
    if len(set(stems)) != len(stems):
        raise ValueError(f"{images} must have one {what} of a name; there are two of {_twice(stems)!r}")
    for path, stem in zip(found, stems, strict=True):
        if stem not in of_stem:
            raise ValueError(f"{path} has no mask: {masks / stem}{files.mask_ending} is missing")
    alone = sorted(set(of_stem) - set(stems))
    if alone:
        raise ValueError(f"{of_stem[alone[0]]} has no {what} of its name in {images}")
    return [(path, of_stem[stem]) for path, stem in zip(found, stems, strict=True)]
