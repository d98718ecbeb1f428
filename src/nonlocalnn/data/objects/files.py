"""Images with objects in files: where a split of COCO's or VOC's layout lies, and its images."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from nonlocalnn._files import read_lines, read_text
from nonlocalnn.data.folder_files import divided, walk
from nonlocalnn.data.images import read_image
from nonlocalnn.data.objects.annotated import AnnotatedImages, Sheet
from nonlocalnn.data.objects.coco import Annotations, read_coco
from nonlocalnn.data.objects.places import SPLIT_FOLDERS, Found, find_coco, located
from nonlocalnn.data.objects.voc_xml import class_names, image_name, read_voc

_VOC_LISTS = {"train": "train.txt", "validation": "val.txt", "test": "test.txt"}


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
    found = find_coco(root, split, "person_keypoints" if with_points else "instances")
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
    chosen = replace(annotations, sheets=sheets)
    return ObjectFiles(chosen, paths, is_training=split == "train", mirror=mirror)


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
    everything, chosen = _find_voc(root, split)
    _check_any(chosen, root, split)
    listed = root / "classes.txt"
    # Of all splits, so that each has the same numbers.
    classes = read_lines(listed) if listed.is_file() else class_names(everything)
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
    above = path.parent.parent
    return (path.parent, above / "JPEGImages", above / "images", root / "images", root)


def _find_voc(root: Path, split: str) -> tuple[list[Path], list[Path]]:
    """Return the XML files of all splits, and those of one."""
    for base in (
        root,
        root / "VOC2012",
        root / "VOCdevkit/VOC2012",
        root / "VOC2007",
        root / "VOCdevkit/VOC2007",
    ):
        if (base / "Annotations").is_dir():
            everything = sorted((base / "Annotations").glob("*.xml"))
            return everything, _listed(base, everything, split)
    everything = [path for path in walk(root) if path.suffix.lower() == ".xml" and path.is_file()]
    if not everything:
        raise FileNotFoundError(f"{root} holds no XML of VOC's format, one file an image")
    named = {name for names in SPLIT_FOLDERS.values() for name in names}
    firsts = {path.relative_to(root).parts[0] for path in everything}
    if firsts & named:
        chosen = [path for path in everything if path.relative_to(root).parts[0] in SPLIT_FOLDERS[split]]
    else:
        chosen = _own_part(everything, [path.relative_to(root).as_posix() for path in everything], split)
    return everything, chosen


def _own_part(paths: Sequence[Path], names: Sequence[str], split: str) -> list[Path]:
    """Return the files that fall to a split by their names."""
    return [path for path, own in zip(paths, divided(names, [0] * len(names)), strict=True) if own == split]


def _listed(base: Path, everything: Sequence[Path], split: str) -> list[Path]:
    """Return the files of a split by VOC's lists; where there are none, by their names."""
    lists = base / "ImageSets/Main"
    if not (lists / _VOC_LISTS["train"]).is_file():
        return _own_part(everything, [path.name for path in everything], split)
    # VOC 2012 publishes no marks of its test.
    there = (lists / _VOC_LISTS[split]).is_file()
    names = read_text(lists / _VOC_LISTS[split if there else "validation"]).split()
    of_stem = {path.stem: path for path in everything}
    lacking = [name for name in names if name not in of_stem]
    if lacking:
        raise FileNotFoundError(f"{base}/Annotations/{lacking[0]}.xml is missing, of which {lists} speaks")
    return [of_stem[name] for name in names]


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
