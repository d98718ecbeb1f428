"""Which of one's own data sets a folder is, by what lies in it."""

from pathlib import Path

from nonlocalnn.data.archives.index import find_archives, read_index
from nonlocalnn.data.folder_files import (
    ALL_SPLIT_NAMES,
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    counted_endings,
    is_ignored,
    walk,
)
from nonlocalnn.data.masks.pairs import MASK_FOLDERS
from nonlocalnn.data.objects.places import coco_file
from nonlocalnn.data.sequences.files import ONE_SUFFIXES
from nonlocalnn.data.sequences.step_files import has_class_of_sequences, is_step_file
from nonlocalnn.data.sequences.ts_file import is_text
from nonlocalnn.data.volumes.datalist import is_datalist
from nonlocalnn.data.volumes.recognising import holds_volume

_ONLY_VIDEOS = frozenset(VIDEO_SUFFIXES) - frozenset(IMAGE_SUFFIXES)
_LIKE_SPLITS = (*ALL_SPLIT_NAMES, "training", "testing")
# By which folders known sets of images with masks are recognised.
_MASK_FOLDERS = (
    ("voc", ("JPEGImages", "SegmentationClass")),
    ("voc", ("VOCdevkit/VOC2012/JPEGImages",)),
    ("voc", ("VOC2012/JPEGImages",)),
    ("cityscapes", ("leftImg8bit", "gtFine")),
    ("ade20k", ("images/training", "annotations/training")),
)


def recognised_data(folder: Path) -> str:
    """Return the data set that a folder is, such as "images" or "volumes"; or one of masks or objects.

    Of images with objects it is "coco" where it holds JSON of COCO's format, "coco-keypoints" where that
    tells of keypoints, and "voc-xml" where more than half of its images have an XML file.

    Of volumes with masks it is "volume-masks", also where ``dataset.json`` lists them. Arrays are told apart
    by their axes, one or two of a sequence and three or more of a volume, and TIFF files by their pages.

    Of images with masks it is "masks" where it holds folders ``images`` and ``masks``, or one for each split
    that do, and "voc", "cityscapes" or "ade20k" where it holds the folders that these sets have.

    Of sequences it is "sequence-labels" where the first file says the class of each step. A table in long
    form does not where it has several sequences, in each of which all rows have the same class.

    Archives are "archives" where they hold images and "videos" where they hold videos. Of files the more
    numerous kind decides; CSV files beside images or videos are lists of them, and no sequences. Images below
    a folder for each video, further down than a folder for each class, are the frames of videos.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds neither images nor videos nor sequences nor volumes.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder} of images or videos or sequences or volumes")
    coco = coco_file(folder)
    if coco is not None:
        # Objects of COCO's other files have none, and reading these takes long.
        is_official = coco.name.startswith("instances_")
        return "coco-keypoints" if not is_official and b'"keypoints"' in coco.read_bytes() else "coco"
    with_masks = _with_masks(folder)
    if with_masks is None and is_datalist(folder):
        return "volume-masks"
    if with_masks is not None:
        return with_masks
    archives = [path for split in ALL_SPLIT_NAMES for path in find_archives(folder, split).values()]
    if archives:
        return _of_archive(archives[0])
    entries = walk(folder)
    volumes = set(filter(holds_volume, entries))
    files = [path.relative_to(folder) for path in entries if path not in volumes]
    # GIFs are both; among photographs they are photographs.
    texts = {path for path in files if path.suffix.lower() == ".ts" and is_text(folder / path)}
    videos = [path for path in files if path.suffix.lower() in _ONLY_VIDEOS and path not in texts]
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    marks = [path for path in files if path.suffix.lower() == ".xml"]
    # One an image: a stray file of settings makes no data set.
    if images and 2 * len(marks) > len(images):
        return "voc-xml"
    boxes = [path for path in files if path.suffix.lower() == ".txt" and "labels" in path.parts[:-1]]
    if images and 2 * len(boxes) > len(images):
        raise ValueError(
            f"{folder} has marks as YOLO writes them, such as {boxes[0]}, which are not read: write them as "
            "JSON of COCO or as XML of VOC"
        )
    sequences = [path for path in files if path.suffix.lower() in ONE_SUFFIXES or path in texts]
    if videos or images or volumes:
        sequences = [path for path in sequences if path.suffix.lower() != ".csv"]
    elif not sequences:
        there = [path for path in entries if not path.is_dir()]
        raise ValueError(
            f"{folder} holds no image, no video, no sequence and no volume: it must hold a "
            "folder for each class, with the files of the class"
            + (f"; endings that are there are not read: {counted_endings(there)}" if there else "")
            + (
                "; archives must be called train-000000.tar, validation-000000.tar and so on"
                if any(path.suffix.lower() == ".tar" for path in there)
                else ""
            )
        )
    if len(volumes) >= max(len(videos), len(images), len(sequences)):
        return "volumes"
    if len(sequences) > max(len(videos), len(images)):
        # A class folder's files say no classes of their own.
        # Where splits are folders, what lies beside them is of none.
        first = next((each for each in sequences if each.parts[0] in ALL_SPLIT_NAMES), sequences[0])
        above = [each for each in first.parts[:-1] if each not in ALL_SPLIT_NAMES]
        of_steps = is_step_file(folder / first) and not has_class_of_sequences(folder / first)
        return "sequence-labels" if of_steps and not above else "sequences"
    # As archives are unpacked. A list beside it would name the files; one class alone is nothing to learn.
    beside = [entry for entry in folder.iterdir() if not is_ignored(entry)]
    is_alone = len(beside) == 1 and beside[0].name.lower() not in _LIKE_SPLITS
    if is_alone and all(len(path.parts) > 2 for path in (*videos, *images)):
        raise ValueError(
            f"all that {folder} holds lies in {beside[0]}: give that folder, if the folders of the classes "
            "are in it"
        )
    if len(videos) >= len(images):
        return "videos"
    # class/image, or train/class/image; the folders of frames are one further down. Of Train and training,
    # whoever reads the images says how it must be called.
    deep = [path for path in images if len(path.parts) > 2 + (path.parts[0].lower() in _LIKE_SPLITS)]
    return "videos" if 2 * len(deep) > len(images) else "images"


def _with_masks(folder: Path) -> str | None:
    """Return which data set of images with masks a folder is, by the folders in it; None for none."""
    known = next(
        (name for name, needed in _MASK_FOLDERS if all((folder / each).is_dir() for each in needed)), None
    )
    # ADE20K's folders could be one's own, which have a file of classes.
    if known is not None and not (folder / "classes.txt").is_file():
        return known
    places = [folder, *(folder / split for split in ALL_SPLIT_NAMES)]
    if any((place / "images").is_dir() and _has_masks(place) for place in places):
        images = [each for place in places if (place / "images").is_dir() for each in walk(place / "images")]
        return "volume-masks" if any(map(holds_volume, images)) else "masks"
    return known


def _has_masks(place: Path) -> bool:
    """Return whether a folder ``masks`` is there, or one of its other names with something that masks are."""
    first, *others = MASK_FOLDERS
    if (place / first).is_dir():
        return True
    found = [path for name in others if (place / name).is_dir() for path in walk(place / name)]
    return any(path.suffix.lower() in IMAGE_SUFFIXES or holds_volume(path) for path in found)


def _of_archive(archive: Path) -> str:
    try:
        read_index(archive, kind="images")
    except ValueError:
        # What is wrong with an archive that is neither is said where it is read.
        return "videos"
    return "archives"
