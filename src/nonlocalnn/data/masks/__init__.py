"""Data sets of images with masks, the class of each pixel."""

from __future__ import annotations

import os

from nonlocalnn._errors import check_choice
from nonlocalnn._names import GENERATED_MASK_SETS, MASK_SETS, SPLITS
from nonlocalnn.data.masks.files import load_mask_files
from nonlocalnn.data.masks.masked import IGNORED, MaskedImages, palette, resize_short
from nonlocalnn.data.masks.scenes import MaskedScenes

__all__ = ["IGNORED", "MaskedImages", "load_masks", "palette", "resize_short"]


def load_masks(
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
    scales: tuple[float, float] | None = None,
    resize: int | None = None,
    augment: bool = False,
) -> MaskedImages:
    """Load one split of a data set of images with masks.

    ==================  ===============================================================================
    name                what
    ==================  ===============================================================================
    ``masks``           your own folder: ``images``, ``masks`` and ``classes.txt``
    ``voc``             Pascal VOC 2012: the folder that holds ``JPEGImages`` and ``SegmentationClass``
    ``cityscapes``      the folder that holds ``leftImg8bit`` and ``gtFine``
    ``ade20k``          the folder that holds ``images`` and ``annotations``, of 150 classes
    ``segment-cue``     generated scenes of real digits, 96 x 128 pixels; no download
    ``segment-legend``  the same, but what decides is another place for each digit
    ==================  ===============================================================================

    Args:
        name: One of these.
        split: ``"train"``, ``"validation"`` or ``"test"``. ``voc``, ``cityscapes`` and ``ade20k`` publish no
            masks of their test: there the test is the validation's images.
        data_dir: Where the files are; an error for generated scenes.
        image_size: Side of the squares that training cuts out, in pixels; None gives whole images.
        scales: By how much training scales an image at random, before it cuts; None is (0.5, 2) with
            ``augment``, else (1, 1).
        resize: Short side to which images are brought first, in pixels; None keeps their own.
        augment: Scale, cut and mirror at random every time an image is read; of scenes, draw them anew.

    Raises:
        ValueError: An argument is unknown, missing or would have no effect; or the files disagree, in which
            case the message names one.
        FileNotFoundError: The files are not there.
        ImportError: torchvision is missing, which cuts, or scikit-learn, for scenes.

    Example:
        >>> scenes = load_masks("segment-cue", "test")
        >>> image, mask = scenes[0]
        >>> image.shape, mask.shape, scenes.classes
        (torch.Size([3, 96, 128]), torch.Size([96, 128]), ('background', 'cue', 'other'))
    """
    check_choice("name", name, MASK_SETS)
    check_choice("split", split, SPLITS)
    if name not in GENERATED_MASK_SETS:
        return load_mask_files(
            name,
            split,
            data_dir=data_dir,
            image_size=image_size,
            scales=scales,
            resize=resize,
            augment=augment,
        )
    given = {"data_dir": data_dir, "image_size": image_size, "scales": scales, "resize": resize}
    for setting, value in given.items():
        if value is not None:
            raise ValueError(f"{setting} has no effect on {name!r}, which is generated: leave it out")
    return MaskedScenes(name, split, augment=augment)
