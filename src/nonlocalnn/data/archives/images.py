"""Images in tar archives, in the layout of webdataset: few large files in place of many small ones.

:mod:`nonlocalnn.data.archives.index` describes the folder of archives. They are not unpacked: members are
read from their places into memory, in any order. Videos in archives belong to the data set ``videos``, see
:func:`~nonlocalnn.data.video.named.load_video_set`.
"""

from __future__ import annotations

import os
from pathlib import Path

from nonlocalnn.data.archives.index import find_archives, read_split
from nonlocalnn.data.folder_files import split_names, warn_of_unlearnt
from nonlocalnn.data.stored_images import StoredImages, check_reading


def load_archives(
    data_dir: str | os.PathLike[str],
    split: str,
    *,
    image_size: int | tuple[int, int] | None = None,
    channels: int = 3,
    augment: bool = False,
    max_broken: int = 0,
) -> StoredImages:
    """Load a split of a folder of archives, see :mod:`nonlocalnn.data.archives.index`.

    ``val`` and, beside a ``train``, ``valid`` are taken for ``validation``.

    Args: See :func:`nonlocalnn.data.load_dataset`.

    Raises:
        FileNotFoundError: ``data_dir``, its ``classes.txt`` or an archive is missing.
        ValueError: An argument is out of range; an archive is cut, damaged or compressed, or a sample in it
            lacks its image or its class, or has one that ``classes.txt`` lacks; or there is no image.
        TypeError: ``image_size`` is neither an integer nor a pair of integers.
        ImportError: torchvision is missing, which ``augment`` needs.
    """
    size = check_reading(split, channels=channels, image_size=image_size)
    root = Path(data_dir)
    name = next((each for each in split_names(root, split) if find_archives(root, each)), split)
    classes, samples = read_split(root, name, kind="images")
    if split == "train":
        taught = {classes[target] for _, _, target in samples}
        warn_of_unlearnt(root, classes, taught, what="images")
    return StoredImages(
        [member.within(path) for path, member, _ in samples],
        ids=[f"{path}/{member.key}" for path, member, _ in samples],
        targets=[target for _, _, target in samples],
        classes=classes,
        split=split,
        channels=channels,
        image_size=size,
        augment=augment,
        max_broken=max_broken,
    )
