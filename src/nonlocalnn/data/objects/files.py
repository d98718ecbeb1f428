"""Images with objects in files: where a split of COCO's or VOC's layout lies, and its images."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PureWindowsPath

from torch import Tensor

from nonlocalnn._files import read_lines
from nonlocalnn.data.class_names import read_class_names
from nonlocalnn.data.folder_files import IMAGE_SUFFIXES, divided, walk
from nonlocalnn.data.image_folders import is_image
from nonlocalnn.data.images import read_image
from nonlocalnn.data.objects.annotated import AnnotatedImages, Sheet
from nonlocalnn.data.objects.coco import Annotations, read_coco
from nonlocalnn.data.objects.places import SPLIT_FOLDERS, Found, find_coco, key_of, located, names_in
from nonlocalnn.data.objects.voc_xml import class_names, image_name, read_voc
from nonlocalnn.data.split_lists import check_apart, lists_of_splits, no_list

# Where the archives of VOC unpack to.
_VOC_FOLDERS = (".", "VOC2012", "VOCdevkit/VOC2012", "VOC2007", "VOCdevkit/VOC2007")


class ObjectFiles(AnnotatedImages):
    """Images that are read from their files one at a time; see :class:`AnnotatedImages`.

    Args:
        annotations: What is marked on them.
        paths: The file of each image.
        is_training: As there.
        mirror: As there.
    """

    def __init__(
        self,
        annotations: Annotations,
        paths: Sequence[Path],
        *,
        is_training: bool = False,
        mirror: bool = False,
    ) -> None:
        super().__init__(
            classes=annotations.classes,
            sample_shape=(3, annotations.sheets[0].height, annotations.sheets[0].width),
            class_ids=annotations.class_ids,
            has_masks=annotations.has_masks,
            points=annotations.points,
            is_training=is_training,
            mirror=mirror,
        )
        self._sheets = list(annotations.sheets)
        self._paths = list(paths)

    def __len__(self) -> int:
        return len(self._sheets)

    def sheet(self, index: int) -> Sheet:
        """See :meth:`AnnotatedImages.sheet`."""
        return self._sheets[index]

    def sample_id(self, index: int) -> str:
        """Return the path of the image."""
        return str(self._paths[index])

    def image(self, index: int) -> Tensor:
        """See :meth:`AnnotatedImages.image`.

        Raises:
            ValueError: The file cannot be read, or has another size than its marks are of.
        """
        sheet, path = self._sheets[index], self._paths[index]
        image = read_image(path, image_size=None, channels=3)
        size = tuple(image.shape[1:])
        if size != (sheet.height, sheet.width):
            turned = size == (sheet.width, sheet.height)
            raise ValueError(
                f"{path} is {size[1]} x {size[0]} pixels, and its objects were marked on {sheet.width} x "
                f"{sheet.height}: "
                + ("it is turned, as by a camera's note: save it upright" if turned else "mark them anew")
            )
        return image


def load_coco(
    root: Path, split: str, *, max_broken: int = 0, mirror: bool = False, with_points: bool = False
) -> ObjectFiles:
    """Load a split of a folder with JSON of COCO's format; see :func:`.load_objects`."""
    official = "person_keypoints" if with_points else "instances"
    found = find_coco(root, split, official)
    annotations = read_coco(found.source, max_broken=max_broken, with_points=with_points)
    sheets = list(annotations.sheets)
    if found.own_part:
        splits = divided([sheet.name for sheet in sheets], [0] * len(sheets))
        sheets = [sheet for sheet, own in zip(sheets, splits, strict=True) if own == split]
    _check_any(sheets, found.source, split)
    if with_points and split == "train":
        sheets = _with_a_point(sheets, found.source)
    else:
        _tell_of_empty(sheets, found.source, split)
    paths = located([(sheet.name,) for sheet in sheets], found)
    if split == "train":
        _tell_of_unlisted(root, official, found, paths)
    else:
        check_apart(paths, _also_of_training(root, official, found, paths), found.source)
    chosen = replace(annotations, sheets=sheets)
    return ObjectFiles(chosen, paths, is_training=split == "train", mirror=mirror)


def _also_of_training(root: Path, official: str, found: Found, paths: Sequence[Path]) -> list[Path]:
    """Return the images of training that are called as some of another split."""
    names = {key_of(path.name) for path in paths}
    # What is wrong with the marks of training is said where they are read.
    with suppress(FileNotFoundError, ValueError):
        train = find_coco(root, "train", official)
        if train.source != found.source:
            alike = [name for name in names_in(train.source) if key_of(PureWindowsPath(name).name) in names]
            return located([(name,) for name in alike], train)
    return []


def _tell_of_unlisted(root: Path, official: str, found: Found, paths: Sequence[Path]) -> None:
    """Warn of images beside those of training that are in no list: nobody can tell why."""
    listed = set(names_in(found.source))
    for split in ("validation", "test"):
        with suppress(FileNotFoundError, ValueError):
            listed |= set(names_in(find_coco(root, split, official).source))
    keys = {key_of(PureWindowsPath(name).name) for name in listed}
    beside = (path for folder in sorted({path.parent for path in paths}) for path in sorted(folder.iterdir()))
    left = [path for path in beside if is_image(path) and key_of(path.name) not in keys]
    if left:
        warnings.warn(
            f"{found.source}: images beside those that it lists are left out, {len(left)} in all, such as "
            f"{left[0]}; an image without objects must be listed too",
            stacklevel=3,
        )


def _check_any(found: Sequence[object], source: Path, split: str) -> None:
    if not found:
        raise ValueError(
            f"none of the images of {source} falls to {split!r}: add images, or divide them yourself"
        )


def _tell_of_empty(sheets: Sequence[Sheet], source: Path, split: str) -> None:
    """Warn of training images on which nothing is marked: right for some, and a mistake for others."""
    number = sum(not sheet.objects for sheet in sheets)
    if number and split == "train":
        warnings.warn(
            f"{source}: {number} of {len(sheets)} images have no object; training takes them as empty ones",
            stacklevel=3,
        )


def _with_a_point(sheets: list[Sheet], source: Path) -> list[Sheet]:
    """Return the images on which a point is marked, and warn of the others; all where none has any.

    COCO's file of persons lists all of its images, and half of them show nobody: published networks were
    trained without these.
    """
    kept = [sheet for sheet in sheets if sheet.has_point]
    if kept and len(kept) < len(sheets):
        warnings.warn(
            f"{source}: {len(sheets) - len(kept)} of {len(sheets)} images have no marked keypoint; training "
            "leaves them out",
            stacklevel=3,
        )
    return kept or sheets


def load_voc_xml(root: Path, split: str, *, max_broken: int = 0, mirror: bool = False) -> ObjectFiles:
    """Load a split of a folder with XML of VOC's format; see :func:`.load_objects`."""
    base, everything, chosen = _find_voc(root, split)
    _check_any(chosen, root, split)
    listed = root / "classes.txt"
    # Of all splits, so that each has the same numbers.
    classes = read_class_names(listed) if listed.is_file() else class_names(everything)
    if not classes:
        raise ValueError(f"none of the {len(everything)} XML files in {base} has an <object>: mark some")
    if split == "train":
        _tell_of_unmarked(everything, base)
    annotations = read_voc(chosen, classes, source=root, max_broken=max_broken)
    _tell_of_empty(annotations.sheets, root, split)
    images = located(
        # Files that were renamed keep their first name in the XML: the XML's own name comes first.
        [(path.stem, image_name(path)) for path in chosen],
        Found(root, ()),
        beside=[_image_folders(path, root) for path in chosen],
    )
    return ObjectFiles(annotations, images, is_training=split == "train", mirror=mirror)


def _image_folders(path: Path, root: Path) -> tuple[Path, ...]:
    """Return the folders in which the image of an XML file may lie."""
    own = (each for each in path.parents if each.name == "Annotations" and each.is_relative_to(root))
    marks = next(own, path.parent)
    # JPEGImages has the folders that Annotations has.
    above, inside = marks.parent, path.parent.relative_to(marks)
    return (path.parent, above / "JPEGImages" / inside, above / "images" / inside, root / "images", root)


def _find_voc(root: Path, split: str) -> tuple[Path, list[Path], list[Path]]:
    """Return the folder of the data set, the XML files of all splits, and those of one."""
    base = next((root / each for each in _VOC_FOLDERS if (root / each / "Annotations").is_dir()), None)
    marks = root if base is None else base / "Annotations"
    everything = [path for path in walk(marks) if path.suffix.lower() == ".xml" and path.is_file()]
    if not everything:
        raise FileNotFoundError(f"{marks} holds no XML of VOC's format, one file an image")
    if base is not None:
        return base, everything, _listed(base, everything, split)
    named = {name for names in SPLIT_FOLDERS.values() for name in names}
    firsts = {path.relative_to(root).parts[0] for path in everything}
    if firsts & named:
        chosen = [path for path in everything if path.relative_to(root).parts[0] in SPLIT_FOLDERS[split]]
    else:
        chosen = _own_part(everything, [path.relative_to(root).as_posix() for path in everything], split)
    return root, everything, chosen


def _tell_of_unmarked(marks: Sequence[Path], base: Path) -> None:
    """Warn of images that no XML file is of: nobody can tell those without objects from forgotten ones."""
    images = [path for path in walk(base) if path.suffix.lower() in IMAGE_SUFFIXES]
    known = {key_of(path.stem) for path in marks}
    left = [path for path in images if key_of(path.name) not in known]
    if left:
        known = {key_of(PureWindowsPath(image_name(path)).name) for path in marks}
        left = [path for path in left if key_of(path.name) not in known]
    if left:
        warnings.warn(
            f"{base}: {len(left)} of {len(images)} images have no XML file and are left out, such as "
            f"{left[0]}; an image without objects needs a file that says so",
            stacklevel=3,
        )


def _own_part(paths: Sequence[Path], names: Sequence[str], split: str) -> list[Path]:
    """Return the files that fall to a split by their names."""
    return [path for path, own in zip(paths, divided(names, [0] * len(names)), strict=True) if own == split]


def _listed(base: Path, everything: Sequence[Path], split: str) -> list[Path]:
    """Return the files of a split by VOC's lists; where there are none, by their names."""
    names = {path.relative_to(base / "Annotations").as_posix(): path for path in everything}
    folder = base / "ImageSets/Main"
    lists = lists_of_splits(folder)
    if not lists:
        return _own_part(everything, list(names), split)
    # VOC 2012 publishes no marks of its test.
    source = lists.get(split) or (lists.get("validation") if split == "test" else None)
    if source is None:
        raise no_list(folder, split, lists, "take the lists away, and images are divided by their names")
    of_name = {name[: -len(path.suffix)]: path for name, path in names.items()}
    listed = read_lines(source)
    lacking = [name for name in listed if name not in of_name]
    if lacking:
        raise FileNotFoundError(f"{base}/Annotations/{lacking[0]}.xml is missing, of which {source} speaks")
    return [of_name[name] for name in listed]


def folder_of(data_dir: str | os.PathLike[str] | None, name: str) -> Path:
    """Return the folder of a data set.

    Raises:
        ValueError: None is given.
        FileNotFoundError: There is none.
    """
    if data_dir is None:
        raise ValueError(
            f"{name!r} needs data_dir: the folder that holds its images and what is marked on them"
        )
    root = Path(data_dir)
    if not root.is_dir():
        raise FileNotFoundError(
            f"data_dir must be a folder of images with objects; there is no folder {root}"
        )
    return root
