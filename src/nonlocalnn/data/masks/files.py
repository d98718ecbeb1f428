"""Images and masks in files: your own, and those of VOC, Cityscapes and ADE20K."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from nonlocalnn._errors import needs
from nonlocalnn.data.images import read_image
from nonlocalnn.data.masks.crops import RandomCrops
from nonlocalnn.data.masks.ids import ADE20K, CITYSCAPES, CITYSCAPES_IDS, VOC
from nonlocalnn.data.masks.masked import IGNORED, MEAN, MaskedImages
from nonlocalnn.data.masks.pairs import IMAGE_FILES, find_pairs

# Published without masks of a test: the validation's images are what everybody tests on.
_NO_TEST = {"train": "train", "validation": "val", "test": "val"}


@dataclass(frozen=True)
class Found:
    """A split as it lies on the disk.

    Args:
        pairs: Files of each image and of its mask.
        classes: Names by id.
        ids: What the ids of the files become, where that differs; ids that are no key are ignored.
    """

    pairs: Sequence[tuple[Path, Path]]
    classes: Sequence[str]
    ids: Mapping[int, int] | None = field(default=None)


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
        ids = read_mask(mask_path)
        if ids.shape != image.shape[1:]:
            of_mask, of_image = (f"{size[1]} x {size[0]}" for size in (ids.shape, image.shape[1:]))
            raise ValueError(
                f"{mask_path} must be as large as its image: it is {of_mask} pixels and {image_path} is "
                f"{of_image} (width x height)"
            )
        if self._table is not None:
            return image, self._table[ids.clamp(max=len(self._table) - 1)]
        known = (ids < len(self.classes)) | (ids == IGNORED)
        if not bool(known.all()):
            wrong = sorted(set(ids[~known].tolist()))
            listed = ", ".join(map(str, wrong[:8])) + (", ..." if len(wrong) > 8 else "")
            raise ValueError(
                f"{mask_path} has the ids {listed}, and there are {len(self.classes)} classes, 0 to "
                f"{len(self.classes) - 1}; {IGNORED} is ignored: name more classes, or mend the mask"
            )
        return image, ids.to(torch.uint8)

    def sample_id(self, index: int) -> str:
        """Return the path of the image."""
        return str(self._pairs[index][0])


def read_mask(path: Path) -> Tensor:
    """Return the ids in a PNG file, int32 (H, W): indices of its palette, or its grey values.

    Raises:
        ValueError: It cannot be read, or holds colours in place of ids.
        ImportError: Pillow is missing.
    """
    with needs("pillow", "data", "reading masks"):
        from PIL import Image
    try:
        # Of this one format: Pillow hands files of some others to programs, whatever their names.
        with Image.open(path, formats=("PNG",)) as opened:
            opened.load()
            mode, (width, height) = opened.mode, opened.size
            values = None
            if mode in ("L", "P"):
                # A palette is of colours for people; what lies in the file is the index.
                values = torch.frombuffer(bytearray(opened.tobytes()), dtype=torch.uint8).to(torch.int32)
            elif mode in ("1", "I") or mode.startswith("I;16"):
                values = torch.frombuffer(bytearray(opened.convert("I").tobytes()), dtype=torch.int32)
    # On damaged bytes Pillow's decoders raise nearly anything.
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ValueError(f"cannot read mask {path}: {' '.join(reason.split())}") from error
    if values is None:
        raise ValueError(
            f"{path} must hold an id for each pixel, in grey or by a palette; it has colours (Pillow's mode "
            f"{mode!r}): save the ids of classes.txt as a grey PNG"
        )
    # Of one bit a pixel Pillow makes 0 and 255.
    return (values.clamp(max=1) if mode == "1" else values).reshape(height, width)


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
    pairs, classes = find_pairs(root, split, IMAGE_FILES)
    return Found(pairs, classes)


def _voc(root: Path, split: str) -> Found:
    """Find VOC 2012, with or without the folders that its archive unpacks to."""
    base = next(
        (each for each in (root, root / "VOC2012", root / "VOCdevkit/VOC2012") if _is_voc(each)), root
    )
    listing = base / "ImageSets/Segmentation" / f"{_NO_TEST[split]}.txt"
    if not listing.is_file():
        raise FileNotFoundError(f"VOC must have {listing}, a name a line; it is missing")
    names = listing.read_text(encoding="utf-8").split()
    pairs = [
        (base / "JPEGImages" / f"{name}.jpg", base / "SegmentationClass" / f"{name}.png") for name in names
    ]
    return Found(_all_there(pairs, listing), VOC)


def _is_voc(folder: Path) -> bool:
    return (folder / "JPEGImages").is_dir() and (folder / "SegmentationClass").is_dir()


def _cityscapes(root: Path, split: str) -> Found:
    """Find Cityscapes: 34 ids in the files, 19 of them classes."""
    images, masks = (root / kind / _NO_TEST[split] for kind in ("leftImg8bit", "gtFine"))
    found = sorted(images.glob("*/*_leftImg8bit.png"))
    pairs = [
        (path, masks / path.parent.name / path.name.replace("_leftImg8bit", "_gtFine_labelIds"))
        for path in found
    ]
    return Found(_all_there(pairs, images), CITYSCAPES, CITYSCAPES_IDS)


def _ade20k(root: Path, split: str) -> Found:
    """Find ADE20K: 0 in a file is no class, and the rest are the classes from 1 on."""
    folder = "training" if split == "train" else "validation"
    images = root / "images" / folder
    pairs = [
        (path, root / "annotations" / folder / f"{path.stem}.png") for path in sorted(images.glob("*.jpg"))
    ]
    return Found(_all_there(pairs, images), ADE20K, {number + 1: number for number in range(len(ADE20K))})


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
