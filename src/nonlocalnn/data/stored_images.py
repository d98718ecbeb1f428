"""Images that are read from where they are stored, one at a time, some of which may be broken."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from nonlocalnn._errors import check_choice
from nonlocalnn._names import SPLITS
from nonlocalnn.data.archives.index import ArchivedFile
from nonlocalnn.data.images import decode_image
from nonlocalnn.data.labelled import LabelledImages, augmentation, check_image_size
from nonlocalnn.data.left_out import UNREADABLE, LeftOut


def check_reading(split: str, *, channels: int, image_size: int | tuple[int, int] | None) -> tuple[int, int]:
    """Check how images are to be read from where they are stored, and return their (height, width).

    Args:
        split: ``"train"``, ``"validation"`` or ``"test"``.
        channels: 3 for RGB or 1 for grey.
        image_size: Side, or (height, width), in pixels; None is 224.

    Raises:
        ValueError: One is out of range.
        TypeError: ``image_size`` is neither an integer nor a pair of integers.

    Example:
        >>> check_reading("test", channels=3, image_size=None)
        (224, 224)
    """
    check_choice("split", split, SPLITS)
    check_choice("channels", channels, (1, 3))
    return check_image_size(224 if image_size is None else image_size)


class StoredImages(LabelledImages):
    """Labelled images that are read one at a time from where they are stored: files, or parts of archives.

    **Images that cannot be read** are warned of and listed in :attr:`broken`; more than ``max_broken`` are an
    error, and so is a data set of which none can be read. Until then, in training, another image stands in,
    always the same one for the same of torch's global random numbers. Otherwise the item is a black image
    with the target :data:`~nonlocalnn.data.left_out.UNREADABLE`: leave it out of every figure.

    Args:
        files: Where each image is.
        ids: What each is called, in :meth:`sample_id` and in errors.
        targets: See :class:`~nonlocalnn.data.labelled.LabelledImages`, and so ``classes``.
        classes: Names of the classes.
        split: "train", whose broken images are replaced, or another.
        channels: 3 for RGB or 1 for grey.
        image_size: (H, W) to which images are stretched, in pixels.
        augment: Mirror and shift each image at random when it is read.
        max_broken: Up to how many images that cannot be read are left out.

    Raises:
        ValueError: ``max_broken`` is negative; on reading, too many images are broken.
        ImportError: torchvision is missing, which ``augment`` needs.
    """

    def __init__(
        self,
        files: Sequence[Path | ArchivedFile],
        *,
        ids: Sequence[str],
        targets: Sequence[int],
        classes: Sequence[str],
        split: str,
        channels: int,
        image_size: tuple[int, int],
        augment: bool,
        max_broken: int,
    ) -> None:
        super().__init__(
            classes=classes,
            channels=channels,
            image_size=image_size,
            targets=targets,
            transform=augmentation("objects", image_size) if augment else None,
        )
        self._files, self._ids = list(files), list(ids)
        self._left_out = LeftOut(len(targets), max_broken=max_broken, kind="images")
        # A figure must be of the images that it is said of; a training step may take any.
        self._replace_broken = split == "train"

    def read(self, index: int) -> Tensor:
        """See :meth:`LabelledImages.read`; raises as :func:`~nonlocalnn.data.images.read_image` does."""
        file, name = self._files[index], self._ids[index]
        return decode_image(file, name=name, image_size=self.image_size, channels=self.channels)

    def sample_id(self, index: int) -> str:
        """Return the path of the file; in an archive, that of the archive and the sample's key there."""
        return self._ids[index]

    @property
    def broken(self) -> list[str]:
        """Names of the images that could not be read so far."""
        return [self.sample_id(index) for index in self._left_out.indices]

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor]:
        index = range(len(self))[index]  # its IndexError is what ends iteration
        while True:
            if not self._left_out.holds(index):
                try:
                    return super().__getitem__(index)
                except (ValueError, OSError) as error:
                    complaint = self._left_out.add(index, error)
                    if complaint is not None:
                        raise ValueError(complaint) from error
            if not self._replace_broken:
                return torch.zeros(self.sample_shape), UNREADABLE
            index = int(torch.randint(len(self), ()))
