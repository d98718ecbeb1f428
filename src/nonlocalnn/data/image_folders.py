"""Your own images: a folder with a sub-folder per class.

Either the splits are folders, and files are used as they lie::

    data_dir/train/cat/1.png    data_dir/validation/cat/7.png    data_dir/test/cat/9.png

where ``val`` and ``valid`` are taken for ``validation``; or there are only classes
(``data_dir/cat/1.png``), and each file's place below ``data_dir`` decides its split: the SHA-256 of that
path, in UTF-8 (NFC) with forward slashes, modulo 10, gives train for 0 to 7, validation for 8 and test for 9.
So a file keeps its split on every machine and when others are added. Only where a class of three files or
more would have none in a split, one is moved there, until others of it come. A folder named after a split
makes ``data_dir`` the first kind.

Classes are the names of the folders, sorted. Other files and folders further down are passed over with one
warning that counts them; hidden files and leftovers of systems, such as ``Thumbs.db``, without.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from nonlocalnn._names import SPLITS
from nonlocalnn.data.folder_files import (
    IMAGE_SUFFIXES,
    check_same_classes,
    class_folders,
    divide,
    files_by_class,
    find_files,
    is_ignored,
    split_folder,
    warn_of_passed_over,
    warn_of_unlearnt,
)
from nonlocalnn.data.stored_images import StoredImages, check_reading


def is_image(entry: Path) -> bool:
    """Return whether a file has an image's ending; a link that leads nowhere has it too."""
    return entry.suffix.lower() in IMAGE_SUFFIXES and not is_ignored(entry) and not entry.is_dir()


def _is_readable(entry: Path) -> bool:
    return is_image(entry) and entry.is_file()


def _class_names(root: Path) -> list[str]:
    return [folder.name for folder in class_folders(root)]


def labelled_files(
    root: Path, split: str, is_data: Callable[[Path], bool], *, kind: str, what: str
) -> tuple[list[Path], list[int], list[str]]:
    """Return the files of a split of a folder with a sub-folder per class, which the module describes.

    Args:
        root: The folder.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        is_data: Whether a file in a class folder is one of the class.
        kind: What the files are, such as "images".
        what: What a class folder lacks where it holds none, for errors.

    Returns:
        The paths, the number of the class of each, and the names of the classes.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: There is no class folder, or one without files; the split has no folder or no file; or the
            splits have different classes.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"data_dir must be a folder of {kind}; there is no folder {root}")
    folders = {name: split_folder(root, name) for name in SPLITS}
    split_folders = [folder.name for folder in folders.values() if folder is not None]
    own = folders[split]
    if split_folders and own is None:
        raise ValueError(
            f"{root} has no folder {split!r}; it has {', '.join(map(repr, _class_names(root)))}: make it, "
            f"with the same class folders, and move some of the {kind} there; or ask for another split; or "
            f"join the class folders of all splits in {root}, which is then divided by itself"
        )
    if split_folders:
        check_same_classes(root, split_folders)
    base = root if own is None else own
    found, passed_over = files_by_class(base, is_data, what=what)
    if split_folders:
        # Folders beside those of the splits are no split.
        passed_over += [root / name for name in _class_names(root) if name not in split_folders]
    samples = found if split_folders else divide(found, root)[split]
    warn_of_passed_over(root, passed_over, kind=kind)
    if not samples:
        raise ValueError(
            f"none of the {kind} in {root} falls to {split!r}: add {kind}, or make the folders "
            f"{', '.join(SPLITS)} and divide them yourself"
        )
    paths, targets, classes = [path for path, _ in samples], [each for _, each in samples], _class_names(base)
    if split == "train":
        taught = {classes[target] for target in targets}
        warn_of_unlearnt(root, classes, taught, what=kind)
    return paths, targets, classes


def load_image_folder(
    data_dir: str | os.PathLike[str],
    split: str,
    *,
    image_size: int | tuple[int, int] | None = None,
    channels: int = 3,
    augment: bool = False,
    max_broken: int = 0,
) -> StoredImages:
    """Load a split of a folder of images, which the module describes.

    Args: See :func:`nonlocalnn.data.load_dataset`.

    Raises:
        FileNotFoundError: ``data_dir`` is not a folder.
        ValueError: An argument is out of range; there is no class folder, or one without images; the split
            has no folder or no image; or the splits have different classes.
        TypeError: ``image_size`` is neither an integer nor a pair of integers.
        ImportError: torchvision is missing, which ``augment`` needs.
    """
    size = check_reading(split, channels=channels, image_size=image_size)
    what = f"no image ({', '.join(IMAGE_SUFFIXES)})"
    paths, targets, classes = labelled_files(Path(data_dir), split, _is_readable, kind="images", what=what)
    return StoredImages(
        paths,
        ids=list(map(str, paths)),
        targets=targets,
        classes=classes,
        split=split,
        channels=channels,
        image_size=size,
        augment=augment,
        max_broken=max_broken,
    )


def find_images(inputs: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return the images that are named, and those in the folders that are named; see ``find_files``."""
    return find_files(inputs, is_image, kind="images")
