"""Your own images: a folder with a sub-folder per class.

Either the splits are folders, and files are used as they lie::

    data_dir/train/cat/1.png    data_dir/validation/cat/7.png    data_dir/test/cat/9.png

or there are only classes (``data_dir/cat/1.png``), and each file's place below ``data_dir`` decides its
split: the SHA-256 of that path, in UTF-8 with forward slashes, modulo 10, gives train for 0 to 7, validation
for 8 and test for 9. So a file keeps its split on every machine and when others are added. A folder named
after a split makes ``data_dir`` the first kind.

Classes are the names of the folders, sorted. Other files and folders further down are passed over with one
warning that counts them; hidden files and leftovers of systems, such as ``Thumbs.db``, without.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from torch import Tensor

from nonlocalnn._names import SPLITS
from nonlocalnn.data.folder_files import is_ignored, split_of, walk, warn_of_passed_over
from nonlocalnn.data.images import IMAGE_SUFFIXES, read_image
from nonlocalnn.data.labelled import augmentation
from nonlocalnn.data.stored_images import StoredImages, check_reading


class ImageFolder(StoredImages):
    """Images that are read from their files one at a time; see :class:`StoredImages`.

    Args:
        paths: The file of each image; also its ``sample_id``.
        targets, classes, channels, image_size, transform, max_broken, replace_broken: As there.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        targets: Sequence[int],
        classes: Sequence[str],
        channels: int,
        image_size: tuple[int, int],
        transform: Callable[[Tensor], Tensor] | None = None,
        max_broken: int = 0,
        replace_broken: bool = False,
    ) -> None:
        super().__init__(
            classes=classes,
            channels=channels,
            image_size=image_size,
            targets=targets,
            transform=transform,
            max_broken=max_broken,
            replace_broken=replace_broken,
        )
        self._paths = list(paths)

    def read(self, index: int) -> Tensor:
        """See :meth:`LabelledImages.read`; raises as :func:`read_image` does."""
        return read_image(self._paths[index], image_size=self.image_size, channels=self.channels)

    def sample_id(self, index: int) -> str:
        """Return the path of the file: ``data_dir`` as it was given, and the place below it."""
        return str(self._paths[index])


def _class_names(folder: Path) -> list[str]:
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not is_ignored(entry))
    if not names:
        raise ValueError(f"{folder} must hold one folder per class; it holds no folder")
    return names


def _image_paths(folder: Path, passed_over: list[Path]) -> list[Path]:
    """Return the images of a class, sorted, and add what else lies there to a list."""
    paths: list[Path] = []
    for entry in sorted(folder.iterdir()):
        is_image = entry.suffix.lower() in IMAGE_SUFFIXES and not is_ignored(entry) and entry.is_file()
        (paths if is_image else passed_over).append(entry)
    if not paths:
        raise ValueError(
            f"the class folder {folder} holds no image ({', '.join(IMAGE_SUFFIXES)}): fill or remove it"
        )
    return paths


def _check_same_classes(root: Path, splits: list[str]) -> None:
    """Check that every split's folder has the same classes; a target would mean different things otherwise.

    Raises:
        ValueError: They differ; the message says where.
    """
    first, *others = splits
    expected = _class_names(root / first)
    for other in others:
        found = _class_names(root / other)
        if found != expected:
            differences = [
                f"only in {owner!r}: {', '.join(map(repr, sorted(extra)))}"
                for owner, extra in ((first, set(expected) - set(found)), (other, set(found) - set(expected)))
                if extra
            ]
            raise ValueError(
                f"the splits of {root} must have the same class folders; {'; '.join(differences)}"
            )


def load_image_folder(
    data_dir: str | os.PathLike[str],
    split: str,
    *,
    image_size: int | tuple[int, int] | None = None,
    channels: int = 3,
    augment: bool = False,
    max_broken: int = 0,
) -> ImageFolder:
    """Load a split of a folder of images; the module describes the folder.

    Args:
        data_dir: The folder.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        image_size: Side, or (height, width), in pixels; default 224. Images are stretched to it.
        channels: 3 for RGB or 1 for grey.
        augment: Mirror and shift each image at random when it is read.
        max_broken: Up to how many images that cannot be read are left out; in training another image stands
            in, see :class:`~nonlocalnn.data.stored_images.StoredImages`.

    Returns:
        The split. Reading an image raises as :func:`~nonlocalnn.data.images.read_image` does, where more than
        ``max_broken`` of them do.

    Raises:
        FileNotFoundError: ``data_dir`` is not a folder.
        ValueError: An argument is out of range; there is no class folder, or one without images; the split
            has no folder or no image; or the splits have different classes.
        TypeError: ``image_size`` is neither an integer nor a pair of integers.
        ImportError: torchvision is missing, which ``augment`` needs.
    """
    size = check_reading(split, channels=channels, image_size=image_size)
    root = Path(data_dir)
    if not root.is_dir():
        raise FileNotFoundError(f"data_dir must be a folder of images; there is no folder {root}")
    split_folders = [name for name in SPLITS if (root / name).is_dir()]
    if split_folders and split not in split_folders:
        raise ValueError(f"{root} has no folder {split!r}; it has {', '.join(map(repr, _class_names(root)))}")
    if split_folders:
        _check_same_classes(root, split_folders)
    base = root / split if split_folders else root
    classes = _class_names(base)
    # Images beside the class folders have no class, and folders beside those of the splits are no split.
    passed_over = [entry for entry in sorted(base.iterdir()) if entry.suffix.lower() in IMAGE_SUFFIXES]
    if split_folders:
        passed_over += [root / name for name in _class_names(root) if name not in SPLITS]
    samples = [
        (path, target)
        for target, name in enumerate(classes)
        for path in _image_paths(base / name, passed_over)
        if split_folders or split_of(path.relative_to(root).as_posix()) == split
    ]
    warn_of_passed_over(root, passed_over, kind="images")
    if not samples:
        raise ValueError(
            f"none of the images in {root} falls to {split!r}: add images, or make the folders "
            f"{', '.join(SPLITS)} and divide them yourself"
        )
    return ImageFolder(
        [path for path, _ in samples],
        targets=[target for _, target in samples],
        classes=classes,
        channels=channels,
        image_size=size,
        transform=augmentation("objects", size) if augment else None,
        max_broken=max_broken,
        replace_broken=split == "train",
    )


def find_images(inputs: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return the image files that are named, and those in the folders that are named, at any depth.

    Files that are named are taken whatever their ending; in folders those with an image's ending, sorted. All
    else in them is passed over with one warning that counts it, hidden files and leftovers of systems
    without. What is not there, and a folder without an image, are taken as they are named: reading them says
    what is wrong, and the others can be read.
    """
    found: list[Path] = []
    for name in inputs:
        path = Path(name)
        if not path.is_dir():
            found.append(path)
            continue
        files = [entry for entry in walk(path) if not entry.is_dir()]
        inside = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
        left = [file for file in files if file.suffix.lower() not in IMAGE_SUFFIXES]
        warn_of_passed_over(path, left, kind="images")
        found += inside or [path]
    return found
