"""Data sets of labelled samples under one contract, split the same way on every machine."""

import os

from nonlocalnn._errors import check_choice
from nonlocalnn.data.cue import load_cue
from nonlocalnn.data.digits import load_digits
from nonlocalnn.data.image_folders import load_image_folder
from nonlocalnn.data.images import IMAGE_SUFFIXES, read_image
from nonlocalnn.data.labelled import SPLITS, LabelledImages, LabelledSamples, augmentation
from nonlocalnn.data.shard_writing import write_shards
from nonlocalnn.data.shards import load_shards
from nonlocalnn.data.torchvision_sets import load_torchvision_set

__all__ = [
    "IMAGE_SETS",
    "IMAGE_SUFFIXES",
    "LabelledImages",
    "LabelledSamples",
    "augmentation",
    "list_datasets",
    "load_dataset",
    "read_image",
    "write_shards",
]

_DATASETS = ("digits", "mnist", "fashion-mnist", "images", "shards", "cue", "cue-sequence")
# Those of one's own files, which may be broken.
IMAGE_SETS = ("images", "shards")
_GENERATED = ("cue", "cue-sequence")


def list_datasets() -> list[str]:
    """Return the names that :func:`load_dataset` takes.

    Example:
        >>> list_datasets()
        ['digits', 'mnist', 'fashion-mnist', 'images', 'shards', 'cue', 'cue-sequence']
    """
    return list(_DATASETS)


def load_dataset(
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
    augment: bool = False,
    channels: int | None = None,
    max_broken: int = 0,
) -> LabelledSamples:
    """Load one split of a data set.

    ==================  =========================================  ===================================
    name                what                                       samples: train / validation / test
    ==================  =========================================  ===================================
    ``digits``          handwritten digits shipped with            1266 / 178 / 353
                        scikit-learn, 1 channel; no download
    ``mnist``           handwritten digits, 1 channel              55000 / 5000 / 10000
    ``fashion-mnist``   photographs of clothes, 1 channel          55000 / 5000 / 10000
    ``images``          your own folder, a sub-folder per class    as the folders say, else 80/10/10 %
    ``shards``          your own tar archives of images            as they are written
    ``cue``             generated clips of real digits, 3          4000 / 500 / 1000
                        channels, 8 frames; no download
    ``cue-sequence``    generated sequences of real digits, 3      4000 / 500 / 1000
                        channels, 384 positions; no download
    ==================  =========================================  ===================================

    Args:
        name: One of :func:`list_datasets`.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        data_dir: Where the files are. Required for ``images`` (see :mod:`nonlocalnn.data.image_folders`) and
            ``shards`` (see :mod:`nonlocalnn.data.shards`), an error for ``digits`` and what is generated.
            ``mnist`` and ``fashion-mnist`` default to ``data`` below the current folder, and are downloaded
            there when missing; ``fashion-mnist`` also looks where Debian's package
            ``dataset-fashion-mnist`` puts it.
        image_size: Side, or (height, width), in pixels, of the images returned, or of the frames of clips; an
            error for sequences. Default: 28, 224 for ``images`` and ``shards``, 32 for ``cue``. Images are
            stretched to fit, the aspect ratio is not kept.
        augment: Change each sample at random every time it is read; see :func:`augmentation`. Digits are
            turned, shifted and scaled; ``fashion-mnist``, ``images`` and ``shards`` are mirrored and shifted,
            which does not suit letters or left and right hands. Of what is generated only the class stays.
        channels: 3 for colour (default) or 1 for grey; for ``images`` and ``shards`` only.
        max_broken: Up to how many images that cannot be read are left out, see
            :class:`~nonlocalnn.data.stored_images.StoredImages`; for ``images`` and ``shards`` only.

    Returns:
        The split.

    Raises:
        ValueError: An argument is unknown, missing or would have no effect; or the files are damaged, empty
            or disagree, in which case the message names the file or folder.
        TypeError: ``image_size`` is neither an integer nor a pair of integers.
        FileNotFoundError: The files are not there and could not be downloaded.
        ImportError: A library of the extra ``data`` is missing.

    Example:
        >>> digits = load_dataset("digits", "test", image_size=(20, 24))
        >>> image, target = digits[0]
        >>> image.shape, digits.classes[target], digits.sample_id(0)
        (torch.Size([1, 20, 24]), '0', 'digits/72')
    """
    check_choice("name", name, _DATASETS)
    check_choice("split", split, SPLITS)
    if channels is not None and name not in IMAGE_SETS:
        number = 3 if name in _GENERATED else 1
        raise ValueError(
            f"channels applies to 'images' and 'shards' only; {name!r} always has {number}: leave it out"
        )
    if max_broken and name not in IMAGE_SETS:
        raise ValueError(f"max_broken applies to 'images' and 'shards' only; {name!r} is whole: leave it out")
    if data_dir is not None and name in ("digits", *_GENERATED):
        raise ValueError(f"{name!r} is made of scikit-learn's digits and reads no data_dir: leave it out")
    if name == "digits":
        return load_digits(split, image_size=image_size, augment=augment)
    if name in _GENERATED:
        return load_cue(name, split, image_size=image_size, augment=augment)
    if name in IMAGE_SETS:
        if data_dir is None:
            what = "one sub-folder per class" if name == "images" else "the tar archives"
            raise ValueError(f"{name!r} needs data_dir: the folder that holds {what}")
        return (load_image_folder if name == "images" else load_shards)(
            data_dir,
            split,
            image_size=image_size,
            channels=3 if channels is None else channels,
            augment=augment,
            max_broken=max_broken,
        )
    return load_torchvision_set(name, split, data_dir=data_dir, image_size=image_size, augment=augment)
