"""Images and masks in files: your own, and those of VOC, Cityscapes and ADE20K."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nonlocalnn._files import read_lines
from nonlocalnn.data.folder_files import IMAGE_SUFFIXES, divided, is_ignored
from nonlocalnn.data.images import read_image
from nonlocalnn.data.masks.crops import RandomCrops
from nonlocalnn.data.masks.ids import ADE20K, CITYSCAPES, CITYSCAPES_IDS, VOC
from nonlocalnn.data.masks.mask_file import Colour, named_colours, read_mask
from nonlocalnn.data.masks.masked import IGNORED, MEAN, MaskedImages, wrong_ids
from nonlocalnn.data.masks.pairs import IMAGE_FILES, find_pairs
from nonlocalnn.data.split_lists import lists_in, lists_of_splits, no_list

# So many masks are looked at before a training.
_LOOKED_AT = 8
# Published without masks of a test: the validation's images are what everybody tests on.
_NO_TEST = {"train": "train", "validation": "val", "test": "val"}


@dataclass(frozen=True)
class Found:
    """A split as it lies on the disk.

    Args:
        pairs: Files of each image and of its mask.
        classes: Names by id.
        ids: What the ids of the files become, where that differs; ids that are no key are ignored.
        colours: The id of each colour, where masks are painted.
    """

    pairs: Sequence[tuple[Path, Path]]
    classes: Sequence[str]
    ids: Mapping[int, int] | None = None
    colours: Mapping[Colour, int] | None = None


class MaskFiles(MaskedImages):
    """Images and masks that are read from their files one at a time; see :class:`MaskedImages`.

    Args:
        found: The split.
        sample_shape, crops, resize: As there.
    """

    def __init__(
        self,
        found: Found,
        *,
        sample_shape: Sequence[int],
        crops: RandomCrops | None = None,
        resize: int | None = None,
    ) -> None:
        super().__init__(classes=found.classes, sample_shape=sample_shape, crops=crops, resize=resize)
        self._pairs = list(found.pairs)
        self._colours = found.colours
        self._table = None if found.ids is None else _table(found.ids)

    def __len__(self) -> int:
        return len(self._pairs)

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """See :meth:`MaskedImages.read`.

        Raises:
            ValueError: A file cannot be read, the two differ in size, or an id is no class.
        """
        image_path, mask_path = self._pairs[index]
        image = read_image(image_path, image_size=None, channels=3)
        ids = read_mask(mask_path, self._colours)
        if ids.shape != image.shape[1:]:
            of_mask, of_image = (f"{size[1]} x {size[0]}" for size in (ids.shape, image.shape[1:]))
            # Upright both, by the notes in their own files.
            turned = ids.shape == image.shape[:0:-1]
            raise ValueError(
                f"{mask_path} must be as large as its image: it is {of_mask} pixels and {image_path} is "
                f"{of_image} (width x height)"
                + ("; one of both is turned, as by a camera's note: save it upright" if turned else "")
            )
        # Of 32 bits ids may be below 0, which is no class of any set.
        known = ids >= 0
        if self._table is None:
            known &= (ids < len(self.classes)) | (ids == IGNORED)
        if not bool(known.all()):
            raise wrong_ids(mask_path, ids[~known], len(self.classes))
        if self._table is None:
            return image, ids.to(torch.uint8)
        return image, self._table[ids.clamp(max=len(self._table) - 1)]

    def sample_id(self, index: int) -> str:
        """Return the path of the image."""
        return str(self._pairs[index][0])


def load_mask_files(
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike[str] | None,
    image_size: int | None = None,
    scales: tuple[float, float] | None = None,
    resize: int | None = None,
    augment: bool = False,
) -> MaskFiles:
    """Load a split of a data set in files; see :func:`nonlocalnn.data.masks.load_masks`."""
    finders = {"masks": _own, "voc": _voc, "cityscapes": _cityscapes, "ade20k": _ade20k}
    if data_dir is None:
        raise ValueError(f"{name!r} needs data_dir: the folder that holds its images and masks")
    root = Path(data_dir)
    if not root.is_dir():
        raise FileNotFoundError(f"data_dir must be a folder of images and masks; there is no folder {root}")
    found = finders[name](root, split)
    crops = None
    if image_size is not None:
        if scales is None:
            scales = (0.5, 2.0) if augment else (1.0, 1.0)
        crops = RandomCrops(
            image_size,
            scales=scales,
            resize=resize,
            random=augment,
            fill=[value / 255 for value in MEAN],
            ignored=IGNORED,
        )
    elif augment or scales is not None:
        raise ValueError("augment and scales are of crops: they need an image_size")
    side = 512 if image_size is None else image_size
    return MaskFiles(found, sample_shape=(3, side, side), crops=crops, resize=resize)


def _own(root: Path, split: str) -> Found:
    pairs, lines = find_pairs(root, split, IMAGE_FILES)
    classes, colours = named_colours(lines)
    if colours is None and split == "train":
        _check_not_black_and_white([mask for _, mask in pairs])
    return Found(pairs, classes, colours=colours)


def _check_not_black_and_white(masks: Sequence[Path]) -> None:
    """Check that masks are not of 0 and 255 alone, as programs save two classes: 255 would be ignored.

    Raises:
        ValueError: They are, those that are looked at.
    """
    looked_at = masks[:: max(1, len(masks) // _LOOKED_AT)]
    ids: set[int] = set()
    for path in looked_at:
        ids |= set(read_mask(path).unique().tolist())
        if ids - {0, IGNORED}:
            return
    if IGNORED in ids:
        raise ValueError(
            f"{looked_at[0]} and the others hold 0 and {IGNORED} alone, and {IGNORED} is ignored: nothing "
            f"would be learnt; name the colours in classes.txt, such as background:0,0,0 and leaf:255,255,255"
        )


def _voc(root: Path, split: str) -> Found:
    """Find VOC 2012, with or without the folders that its archive unpacks to."""
    base = next(
        (each for each in (root, root / "VOC2012", root / "VOCdevkit/VOC2012") if _is_voc(each)), root
    )
    lists, labels = base / "ImageSets/Segmentation", base / "labelmap.txt"
    if labels.is_file():
        return _cvat(base, labels, split)
    there, wanted = lists_of_splits(lists), "train" if split == "train" else "validation"
    if wanted not in there:
        raise no_list(lists, wanted, there, "fetch VOC's archive again")
    return Found(_voc_pairs(base, there[wanted]), VOC)


def _voc_pairs(base: Path, listing: Path) -> Sequence[tuple[Path, Path]]:
    pairs = []
    for name in read_lines(listing):
        images = [base / "JPEGImages" / f"{name}{suffix}" for suffix in (".jpg", *IMAGE_SUFFIXES)]
        image = next((path for path in images if path.is_file()), images[0])
        pairs.append((image, base / "SegmentationClass" / f"{name}.png"))
    return _all_there(pairs, listing)


def _cvat(base: Path, labels: Path, split: str) -> Found:
    """Find one's own classes in VOC's layout, as CVAT exports them: a file names their colours.

    Raises:
        FileNotFoundError: There is no list of the split's images.
        ValueError: The file names no colours.
    """
    classes, colours = named_colours([line for line in read_lines(labels) if not line.startswith("#")])
    if colours is None:
        raise ValueError(
            f"{labels} must have a class a line and its colour, as road:128,64,128::; it has not"
        )
    folder = base / "ImageSets/Segmentation"
    lists, of_split = lists_in(folder), lists_of_splits(folder)
    if split in of_split:
        return Found(_voc_pairs(base, of_split[split]), classes, colours=colours)
    if of_split or len(lists) != 1:
        raise no_list(folder, split, of_split, "keep one list of all images, which is divided by their names")
    pairs = _voc_pairs(base, lists[0])
    splits = divided([mask.stem for _, mask in pairs], [0] * len(pairs))
    own = [pair for pair, each in zip(pairs, splits, strict=True) if each == split]
    return Found(own, classes, colours=colours)


def _is_voc(folder: Path) -> bool:
    return (folder / "JPEGImages").is_dir() and (folder / "SegmentationClass").is_dir()


def _cityscapes(root: Path, split: str) -> Found:
    """Find Cityscapes: 34 ids in the files, 19 of them classes."""
    images, masks = (root / kind / _NO_TEST[split] for kind in ("leftImg8bit", "gtFine"))
    found = _shown(images, "*/*_leftImg8bit.png")
    pairs = [
        (path, masks / path.parent.name / path.name.replace("_leftImg8bit", "_gtFine_labelIds"))
        for path in found
    ]
    return Found(_all_there(pairs, images), CITYSCAPES, CITYSCAPES_IDS)


def _ade20k(root: Path, split: str) -> Found:
    """Find ADE20K: 0 in a file is no class, and the rest are the classes from 1 on."""
    folder = "training" if split == "train" else "validation"
    images = root / "images" / folder
    pairs = [(path, root / "annotations" / folder / f"{path.stem}.png") for path in _shown(images, "*.jpg")]
    return Found(_all_there(pairs, images), ADE20K, {number + 1: number for number in range(len(ADE20K))})


def _shown(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a pattern that are not hidden: macOS leaves a ``._a.jpg`` beside ``a.jpg``."""
    return sorted(path for path in folder.glob(pattern) if not is_ignored(path))


def _all_there(pairs: Sequence[tuple[Path, Path]], source: Path) -> Sequence[tuple[Path, Path]]:
    if not pairs:
        raise FileNotFoundError(f"there is no image in {source}")
    for path in (path for pair in pairs for path in pair):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing, of which {source} speaks")
    return pairs


def _table(ids: Mapping[int, int]) -> Tensor:
    """Return the class of each id of a file; one more stands for all that are larger."""
    table = torch.full((max(ids) + 2,), IGNORED, dtype=torch.uint8)
    for before, after in ids.items():
        table[before] = after
    return table
