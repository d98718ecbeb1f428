"""Images with objects in files: where a split of COCO's or VOC's layout lies, and its images."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from nonlocalnn.data.folder_files import IMAGE_SUFFIXES, is_ignored, split_of, walk
from nonlocalnn.data.images import read_image
from nonlocalnn.data.objects.annotated import AnnotatedImages, Sheet
from nonlocalnn.data.objects.coco import Annotations, read_coco
from nonlocalnn.data.objects.voc_xml import class_names, image_name, read_voc

# What folders and files of a split are called, the first first; COCO publishes no marks of its test, and
# everybody tests on the validation's images.
_FOLDERS = {
    "train": ("train",),
    "validation": ("valid", "validation", "val"),
    "test": ("test",),
}
_COCO_YEARS = ("2017", "2014", "")
_ROBOFLOW = "_annotations.coco.json"
_OWN = ("annotations.json", _ROBOFLOW)
_VOC_LISTS = {"train": "train.txt", "validation": "val.txt", "test": "test.txt"}


@dataclass(frozen=True)
class Found:
    """A split as it lies on the disk.

    Args:
        source: Its file, or folder of files.
        images: Folders that may hold its images, the first first.
        own_part: Whether the file is of all splits, and images are divided by their names.
    """

    source: Path
    images: Sequence[Path]
    own_part: bool = False


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
    found = _find_coco(root, split, "person_keypoints" if with_points else "instances")
    annotations = read_coco(found.source, max_broken=max_broken, with_points=with_points)
    sheets = [sheet for sheet in annotations.sheets if not found.own_part or split_of(sheet.name) == split]
    _check_any(sheets, found.source, split)
    if with_points and split == "train":
        sheets = _with_a_point(sheets, found.source)
    else:
        _tell_of_empty(sheets, found.source, split)
    paths = _located([sheet.name for sheet in sheets], found)
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


def _find_coco(root: Path, split: str, official_name: str) -> Found:
    for name in _FOLDERS[split]:
        # Roboflow's: a folder a split, images beside the file.
        if (root / name / _ROBOFLOW).is_file():
            return Found(root / name / _ROBOFLOW, (root / name,))
        # One's own: a file a split, and images together or in a folder of its name.
        for source in (root / f"{name}.json", root / "annotations" / f"{name}.json"):
            if source.is_file():
                return Found(source, (root / "images" / name, root / name, root / "images", root))
    official = "train" if split == "train" else "val"
    for year in _COCO_YEARS:
        source = root / "annotations" / f"{official_name}_{official}{year}.json"
        if source.is_file():
            name = f"{official}{year}"
            return Found(source, (root / name, root / "images" / name, root / "images", root))
    for name in _OWN:
        if (root / name).is_file():
            return Found(root / name, (root / "images", root), own_part=True)
    raise FileNotFoundError(
        f"{root} holds no marks of {split!r}: neither {_FOLDERS[split][0]}/{_ROBOFLOW}, nor "
        f"annotations/{official_name}_{official}2017.json, nor {split}.json or annotations.json"
    )


def load_voc_xml(root: Path, split: str, *, max_broken: int = 0, mirror: bool = False) -> ObjectFiles:
    """Load a split of a folder with XML of VOC's format; see :func:`.load_objects`."""
    everything, chosen = _find_voc(root, split)
    _check_any(chosen, root, split)
    listed = root / "classes.txt"
    if listed.is_file():
        lines = listed.read_text(encoding="utf-8").splitlines()
        classes = [line.strip() for line in lines if line.strip()]
    else:
        # Of all splits, so that each has the same numbers.
        classes = class_names(everything)
    annotations = read_voc(chosen, classes, source=root, max_broken=max_broken)
    _tell_of_empty(annotations.sheets, root, split)
    images = _located(
        [image_name(path) for path in chosen],
        Found(root, ()),
        beside=[(path.parent, path.parent.parent / "JPEGImages", root / "images") for path in chosen],
    )
    return ObjectFiles(annotations, images, is_training=split == "train", mirror=mirror)


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
    named = {name for names in _FOLDERS.values() for name in names}
    firsts = {path.relative_to(root).parts[0] for path in everything}
    if firsts & named:
        chosen = [path for path in everything if path.relative_to(root).parts[0] in _FOLDERS[split]]
    else:
        chosen = [path for path in everything if split_of(path.relative_to(root).as_posix()) == split]
    return everything, chosen


def _listed(base: Path, everything: Sequence[Path], split: str) -> list[Path]:
    """Return the files of a split by VOC's lists; where there are none, by their names."""
    lists = base / "ImageSets/Main"
    if not (lists / _VOC_LISTS["train"]).is_file():
        return [path for path in everything if split_of(path.name) == split]
    # VOC 2012 publishes no marks of its test.
    there = (lists / _VOC_LISTS[split]).is_file()
    names = (lists / _VOC_LISTS[split if there else "validation"]).read_text(encoding="utf-8").split()
    of_stem = {path.stem: path for path in everything}
    lacking = [name for name in names if name not in of_stem]
    if lacking:
        raise FileNotFoundError(f"{base}/Annotations/{lacking[0]}.xml is missing, of which {lists} speaks")
    return [of_stem[name] for name in names]


def _located(
    names: Sequence[str], found: Found, *, beside: Sequence[Sequence[Path]] | None = None
) -> list[Path]:
    """Return the file of each image.

    Raises:
        FileNotFoundError: One is missing.
    """
    paths, missing = [], []
    for place, name in enumerate(names):
        folders = found.images if beside is None else beside[place]
        path = next((path for folder in folders if (path := _image_in(folder, name)) is not None), None)
        if path is None:
            missing.append(folders[0] / name)
        else:
            paths.append(path)
    if missing:
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise FileNotFoundError(f"{missing[0]} is missing, of which {found.source} speaks{more}")
    return paths


def _image_in(folder: Path, name: str) -> Path | None:
    """Return an image of a folder by its name, or by its stem where tools changed the ending."""
    # A file must not name what lies outside of the data set.
    relative = Path(name)
    if relative.is_absolute() or ".." in relative.parts:
        relative = Path(relative.name)
    path = folder / relative
    if path.is_file():
        return path
    for suffix in IMAGE_SUFFIXES:
        other = path.with_suffix(suffix)
        if other.is_file() and not is_ignored(other):
            return other
    return None


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
