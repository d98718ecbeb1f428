"""Images in tar archives, in the layout of webdataset: few large files in place of many small ones.

:mod:`nonlocalnn.data.archives.index` describes the folder of archives. They are not unpacked: members are
read from their places into memory, in any order. Videos in archives belong to the data set ``videos``, see
:func:`~nonlocalnn.data.video.named.load_video_set`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from nonlocalnn.data.archives.index import Member, read_split
from nonlocalnn.data.images import decode_image
from nonlocalnn.data.labelled import augmentation
from nonlocalnn.data.stored_images import StoredImages, check_reading


def load_archives(
    data_dir: str | os.PathLike[str],
    split: str,
    *,
    image_size: int | tuple[int, int] | None = None,
    channels: int = 3,
    augment: bool = False,
    max_broken: int = 0,
) -> ArchivedImages:
    """Load a split of a folder of archives, see :mod:`nonlocalnn.data.archives.index`.

    Args:
        data_dir: The folder.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        image_size: Side, or (height, width), in pixels; default 224. Images are stretched to it.
        channels: 3 for RGB or 1 for grey.
        augment: Mirror and shift each image at random when it is read.
        max_broken: Up to how many images that cannot be read are left out; in training another image stands
            in, see :class:`~nonlocalnn.data.stored_images.StoredImages`.

    Returns:
        The split. Reading an image raises a ``ValueError`` where it is damaged or its archive was changed.

    Raises:
        FileNotFoundError: ``data_dir``, its ``classes.txt`` or an archive is missing.
        ValueError: An argument is out of range; an archive is cut, damaged or compressed, or a sample in it
            lacks its image or its class, or has one that ``classes.txt`` lacks; or there is no image.
        TypeError: ``image_size`` is neither an integer nor a pair of integers.
        ImportError: torchvision is missing, which ``augment`` needs.
    """
    size = check_reading(split, channels=channels, image_size=image_size)
    classes, samples = read_split(Path(data_dir), split, kind="images")
    return ArchivedImages(
        samples,
        classes=classes,
        channels=channels,
        image_size=size,
        transform=augmentation("objects", size) if augment else None,
        max_broken=max_broken,
        replace_broken=split == "train",
    )


class ArchivedImages(StoredImages):
    """Images that are read out of archives one at a time, in any order; see :class:`StoredImages`.

    Args:
        samples: The archive of each image, its place there, and its class.
        classes, channels, image_size, transform, max_broken, replace_broken: As there.
    """

    def __init__(
        self,
        samples: Sequence[tuple[Path, Member, int]],
        *,
        classes: Sequence[str],
        channels: int,
        image_size: tuple[int, int],
        transform: Callable[[Tensor], Tensor] | None = None,
        max_broken: int = 0,
        replace_broken: bool = False,
    ) -> None:
        super().__init__(
            classes=classes,
            channels=channels,
            image_size=image_size,
            targets=[target for _, _, target in samples],
            transform=transform,
            max_broken=max_broken,
            replace_broken=replace_broken,
        )
        self._members = [(path, member) for path, member, _ in samples]

    def read(self, index: int) -> Tensor:
        """See :meth:`LabelledImages.read`."""
        path, member = self._members[index]
        with path.open("rb") as file:
            file.seek(member.start)
            content = file.read(member.size)
        return decode_image(
            io.BytesIO(content),
            name=self.sample_id(index),
            image_size=self.image_size,
            channels=self.channels,
        )

    def sample_id(self, index: int) -> str:
        """Return the path of the archive and the key of the sample in it."""
        path, member = self._members[index]
        return f"{path}/{member.key}"
