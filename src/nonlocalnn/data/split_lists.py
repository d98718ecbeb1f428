"""Lists of the images of each split, as VOC has them and CVAT writes them: ``train.txt``, a name a line."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from nonlocalnn._files import read_lines
from nonlocalnn.data.folder_files import is_ignored

# Names of the splits in the folders of images with masks, and of these lists.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid"),
    "test": ("test",),
}


def lists_in(folder: Path) -> list[Path]:
    """Return the lists in a folder, of a split or not, sorted."""
    return sorted(path for path in folder.glob("*") if path.suffix.lower() == ".txt" and not is_ignored(path))


def lists_of_splits(folder: Path) -> dict[str, Path]:
    """Return the list of each split in a folder that has one, under any of its names and in any case.

    Raises:
        ValueError: Two lists are of one split, one names an image twice, or an image is of training and of
            another split: a network would be tested on what it was trained on. Sets without a test of their
            own have one list for validation and test.
    """
    splits = {name: split for split, names in SPLIT_NAMES.items() for name in names}
    found: dict[str, Path] = {}
    listed: dict[str, list[Path]] = {}
    for path in lists_in(folder):
        split = splits.get(path.stem.lower())
        if split is None:
            continue
        if split in found:
            raise ValueError(
                f"{folder} must have one list of {split!r}; it has {found[split].name} and {path.name}: take "
                "one away"
            )
        found[split] = path
        for name in read_lines(path):
            before = listed.setdefault(name, [])
            if path in before:
                raise ValueError(f"{path} must list each image once; {name!r} is there twice")
            before.append(path)
    train = found.get("train")
    for name, of_name in listed.items():
        if train in of_name and len(of_name) > 1:
            raise ValueError(
                f"{folder} must list nothing of training for another split; {name!r} is in "
                f"{' and in '.join(path.name for path in of_name)}: leave it in one of them"
            )
    return found


def no_list(folder: Path, split: str, lists: Mapping[str, Path], instead: str) -> FileNotFoundError:
    """Return the error for a folder that has lists of other splits and none of this one.

    Args:
        folder: That of the lists.
        split: What was asked for.
        lists: Those that are there.
        instead: What else may be done.
    """
    names = " or ".join(f"{name}.txt" for name in SPLIT_NAMES[split])
    has = "; it has " + ", ".join(path.name for path in lists.values()) if lists else ""
    return FileNotFoundError(
        f"{folder} must have a list of {split!r}, {names}, the name of an image a line{has}: add it, or "
        f"{instead}"
    )


def check_apart(train: Iterable[object], others: Iterable[object], source: Path) -> None:
    """Check that nothing of another split is of training: a network would be tested on what it learnt.

    Files are told apart by where they lie, whichever path or link leads there.

    Args:
        train: What training has.
        others: What the other split has.
        source: The list of the other split, for errors.

    Raises:
        ValueError: Something is of both.
    """
    folders: dict[Path, Path] = {}
    learnt = {_place(each, folders) for each in train}
    common = next((each for each in others if _place(each, folders) in learnt), None)
    if common is not None:
        raise ValueError(
            f"{source} must list nothing that training has; {common} is of both: take it out of one of them"
        )


def _place(each: object, folders: dict[Path, Path]) -> object:
    """Return where a file lies; what is no path as it is.

    A folder is followed once: of a hundred thousand files each would ask for every folder above it.
    """
    if not isinstance(each, Path):
        return each
    if each.is_symlink():
        return each.resolve()
    if each.parent not in folders:
        folders[each.parent] = each.parent.resolve()
    return folders[each.parent] / each.name
