"""Data sets of labelled samples under one contract, split the same way on every machine."""

import os
from typing import Any

from nonlocalnn._errors import check_choice
from nonlocalnn._names import DATASETS, GENERATED_SETS, IMAGE_SETS, SPLITS, VIDEO_SETS, current_name
from nonlocalnn.data.archives.images import load_archives
from nonlocalnn.data.archives.writing import write_archives
from nonlocalnn.data.cue import load_cue
from nonlocalnn.data.digits import load_digits
from nonlocalnn.data.folder_files import IMAGE_SUFFIXES
from nonlocalnn.data.image_folders import load_image_folder
from nonlocalnn.data.images import read_image
from nonlocalnn.data.labelled import LabelledImages, LabelledSamples, augmentation
from nonlocalnn.data.sequences.dataset import load_sequences
from nonlocalnn.data.torchvision_sets import load_torchvision_set
from nonlocalnn.data.video.dataset import load_videos
from nonlocalnn.data.volumes.dataset import load_volumes
from nonlocalnn.data.volumes.reading import Reading

__all__ = [
    "IMAGE_SETS",
    "IMAGE_SUFFIXES",
    "VIDEO_SETS",
    "LabelledImages",
    "LabelledSamples",
    "augmentation",
    "list_datasets",
    "load_dataset",
    "read_image",
    "write_archives",
]

_OF_VIDEOS = ("stride", "views", "decoder")
_OF_VOLUMES = ("spacing", "intensity")
# What the folders of one's own files hold.
_FOLDERS = {
    "images": "one sub-folder per class",
    "archives": "the tar archives",
    "sequences": "one sub-folder per class, or .ts files",
    "volumes": "one sub-folder per class",
}


def list_datasets() -> list[str]:
    """Return the names that :func:`load_dataset` takes.

    Example:
        >>> list_datasets()
        ['digits', 'mnist', ..., 'videos', 'kinetics', 'ucf101', 'hmdb51', 'charades']
    """
    return list(DATASETS)


def load_dataset(
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
    augment: bool = False,
    channels: int | None = None,
    max_broken: int | None = None,
    frames: int | None = None,
    stride: int | None = None,
    views: int | None = None,
    decoder: str | None = None,
    spacing: tuple[float, float, float] | None = None,
    intensity: tuple[float, float] | None = None,
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
    ``archives``          your own tar archives of images            as they are written
    ``cue``             generated clips of real digits, 3          4000 / 500 / 1000
                        channels, 8 frames; no download
    ``cue-sequence``    generated sequences of real digits, 3      4000 / 500 / 1000
                        channels, 384 positions; no download
    ``sequences``       your own sequences of any length: a        as the folders or files say, else
                        sub-folder per class, or ``.ts`` files     80/10/10 %
    ``volumes``         your own CT, MR or microscopy, a           as the folders say, else 80/10/10 %
                        sub-folder per class
    ``videos`` and      clips of your own videos, or of those of   as the lists say
    others              a known set, see
                        :func:`.video.named.load_video_set`
    ==================  =========================================  ===================================

    Args:
        name: One of :func:`list_datasets`.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        data_dir: Where the files are. Required for ``images`` (see :mod:`nonlocalnn.data.image_folders`),
            ``archives`` (see :mod:`nonlocalnn.data.archives.images`), ``sequences`` (see
            :mod:`nonlocalnn.data.sequences.dataset`) and ``volumes`` (see
            :mod:`nonlocalnn.data.volumes.dataset`), an error for ``digits`` and what is generated. For
            ``mnist`` and ``fashion-mnist`` the default is ``data`` below the current folder, and they are
            downloaded there when missing; ``fashion-mnist`` also looks where Debian's package
            ``dataset-fashion-mnist`` puts it.
        image_size: Side, or (height, width), in pixels, of the images returned, or of the frames of clips; an
            error for sequences; of ``volumes`` voxels along each axis. Default: 28, 224 for ``images`` and
            ``archives``, 32 for ``cue``, 64 for ``volumes``. Images are stretched to fit, the aspect ratio is
            not kept.
        augment: Change each sample at random every time it is read; see :func:`augmentation`. Digits are
            turned, shifted and scaled; ``fashion-mnist``, ``images`` and ``archives`` are mirrored and
            shifted, which does not suit letters or left and right hands. Of what is generated only the class
            stays. Videos give clips and squares from random places, mirrored half of the time. Sequences of
            files are scaled by channel and get noise, both meant for normalised ones. Volumes are mirrored
            from left to right half of the time, and their values scaled and shifted a little.
        channels: 3 for colour (default) or 1 for grey; for ``images`` and ``archives`` only.
        max_broken: Up to how many images that cannot be read are left out, by default none, see
            :class:`~nonlocalnn.data.stored_images.StoredImages`; for ``images`` and ``archives`` only, and
            videos, see :class:`~nonlocalnn.data.video.dataset.VideoClips`.
        frames: Videos and ``cue`` only: frames of a clip; default 8.
        stride: Videos only: frames from one of a clip to the next; default 8.
        views: Videos only, and without ``augment``: 1, the clip in the middle (default), or 30, 10 clips x 3
            crops.
        decoder: Videos only: "pyav" (default) or "torchcodec".
        spacing: Volumes only: millimetres between slices, rows and columns to which they are resampled; None
            stretches each to the size.
        intensity: Volumes only: the lowest and the highest value that is told apart; None normalises each
            volume by itself, see :class:`~nonlocalnn.data.volumes.reading.Reading`.

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
    name = current_name(name)
    check_choice("name", name, DATASETS)
    check_choice("split", split, SPLITS)
    of_videos = {"stride": stride, "views": views, "decoder": decoder}
    of_volumes = {"spacing": spacing, "intensity": intensity}
    given_all = {"frames": frames, "channels": channels, "max_broken": max_broken, "data_dir": data_dir}
    _check_effects(name, **given_all, **of_videos, **of_volumes)
    if name in _FOLDERS and data_dir is None:
        raise ValueError(f"{name!r} needs data_dir: the folder that holds {_FOLDERS[name]}")
    folder = "" if data_dir is None else data_dir
    if name in VIDEO_SETS:
        if not isinstance(image_size, int | None):
            raise TypeError(
                f"image_size must be an integer for videos, whose clips are square; got {image_size!r}"
            )
        if augment and views is not None:
            raise ValueError(
                "views has no effect with augment=True, which takes clips at random places: leave one out"
            )
        chosen = {"frames": frames, **of_videos}
        given: dict[str, Any] = {key: value for key, value in chosen.items() if value is not None}
        return load_videos(
            name,
            split,
            data_dir=data_dir,
            image_size=image_size,
            augment=augment,
            max_broken=max_broken or 0,
            **given,
        )
    if name == "volumes":
        if not isinstance(image_size, int | None):
            raise TypeError(
                f"image_size must be an integer for volumes, whose samples are cubes; got {image_size!r}"
            )
        return load_volumes(
            folder, split, image_size=image_size, reading=Reading(spacing, intensity), augment=augment
        )
    if name == "sequences":
        if image_size is not None:
            raise ValueError(
                "image_size applies to images and videos only, and not to 'sequences': leave it out"
            )
        return load_sequences(folder, split, augment=augment)
    if name == "digits":
        return load_digits(split, image_size=image_size, augment=augment)
    if name in GENERATED_SETS:
        return load_cue(name, split, image_size=image_size, frames=frames, augment=augment)
    if name in IMAGE_SETS:
        return (load_image_folder if name == "images" else load_archives)(
            folder,
            split,
            image_size=image_size,
            channels=3 if channels is None else channels,
            augment=augment,
            max_broken=max_broken or 0,
        )
    return load_torchvision_set(name, split, data_dir=data_dir, image_size=image_size, augment=augment)


def _check_effects(name: str, **settings: object) -> None:
    """Check that no setting is given that has no effect on a data set."""
    applies = {
        "channels": (IMAGE_SETS, "'images' and 'archives'"),
        "max_broken": ((*IMAGE_SETS, *VIDEO_SETS), "'images', 'archives' and videos"),
        "data_dir": (
            tuple(each for each in DATASETS if each not in ("digits", *GENERATED_SETS)),
            "sets of files",
        ),
        "frames": ((*VIDEO_SETS, "cue"), "videos and 'cue'"),
        **dict.fromkeys(_OF_VIDEOS, (VIDEO_SETS, "videos")),
        **dict.fromkeys(_OF_VOLUMES, (("volumes",), "volumes")),
    }
    for setting, value in settings.items():
        names, words = applies[setting]
        if value is not None and name not in names:
            raise ValueError(f"{setting} applies to {words} only, and not to {name!r}: leave it out")
