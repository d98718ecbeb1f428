"""Images in tar archives, in the layout of webdataset: few large files in place of many small ones.

A folder holds ``classes.txt``, a class name a line, and for each split archives that are numbered from 0::

    data_dir/classes.txt    data_dir/train-000000.tar    data_dir/train-000001.tar    data_dir/test-000000.tar

An archive holds for each sample an image, such as ``a/0001.jpg``, and its class: ``a/0001.cls``, the number
of the class from 0 or its name, or ``a/0001.json``, an object with the same as "label". What the two have in
common up to the first dot of the file's name is the sample's key. Other members are left alone.

Archives are not unpacked: members are read from their places into memory, in any order; where they are is
known from :mod:`nonlocalnn.data.shard_index`.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from nonlocalnn._errors import check_choice, near_miss
from nonlocalnn._files import atomic_path, write_text
from nonlocalnn.data.images import decode_image, load_image_folder
from nonlocalnn.data.labelled import SPLITS, LabelledImages, augmentation, check_image_size
from nonlocalnn.data.shard_index import Member, read_index

_CLASSES = "classes.txt"


def load_shards(
    data_dir: str | os.PathLike[str],
    split: str,
    *,
    image_size: int | tuple[int, int] | None = None,
    channels: int = 3,
    augment: bool = False,
) -> LabelledImages:
    """Load a split of a folder of archives; the module describes the folder.

    Args:
        data_dir: The folder.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        image_size: Side, or (height, width), in pixels; default 224. Images are stretched to it.
        channels: 3 for RGB or 1 for grey.
        augment: Mirror and shift each image at random when it is read.

    Returns:
        The split. Reading an image raises a ``ValueError`` where it is damaged or its archive was changed.

    Raises:
        FileNotFoundError: ``data_dir``, its ``classes.txt`` or an archive is missing.
        ValueError: An argument is out of range; an archive is cut, damaged or compressed, or a sample in it
            lacks its image or its class, or has one that ``classes.txt`` lacks.
        TypeError: ``image_size`` is neither an integer nor a pair of integers.
        ImportError: torchvision is missing, which ``augment`` needs.
    """
    check_choice("split", split, SPLITS)
    check_choice("channels", channels, (1, 3))
    size = check_image_size(224 if image_size is None else image_size)
    root = Path(data_dir)
    classes = _read_classes(root / _CLASSES)
    shards = [(path, read_index(path)) for path in _shard_paths(root, split)]
    return Shards(
        [(path, member) for path, members in shards for member in members],
        classes=classes,
        channels=channels,
        image_size=size,
        transform=augmentation("objects", size) if augment else None,
    )


class Shards(LabelledImages):
    """Images that are read out of archives one at a time, in any order.

    Args:
        members: The archive of each image, and its place there.
        classes: See :class:`~nonlocalnn.data.labelled.LabelledImages`.
        channels: 3 for RGB or 1 for grey.
        image_size: (H, W) to which images are stretched, in pixels.
        transform: See :class:`~nonlocalnn.data.labelled.LabelledImages`.

    Raises:
        ValueError: A label is no class.
    """

    def __init__(
        self,
        members: Sequence[tuple[Path, Member]],
        *,
        classes: Sequence[str],
        channels: int,
        image_size: tuple[int, int],
        transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        numbers = {name: number for number, name in enumerate(classes)}
        super().__init__(
            classes=classes,
            channels=channels,
            image_size=image_size,
            targets=[_target(path, member, numbers) for path, member in members],
            transform=transform,
        )
        self._members = list(members)

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


def write_shards(
    data_dir: str | os.PathLike[str], output: str | os.PathLike[str], *, samples_per_shard: int = 1000
) -> dict[str, int]:
    """Write a folder of images, a sub-folder a class, as archives that :func:`load_shards` reads.

    The image files are taken as they are, and the splits as :mod:`nonlocalnn.data.images` has them.

    Args:
        data_dir: The folder of images.
        output: The folder for the archives; made where it is missing.
        samples_per_shard: Images an archive; the last one of a split may have fewer.

    Returns:
        Images a split.

    Raises:
        ValueError: ``samples_per_shard`` is below 1, ``output`` holds archives, or the folder of images is
            not in order or lacks a split.
        FileNotFoundError: ``data_dir`` is not a folder.
    """
    if samples_per_shard < 1:
        raise ValueError(f"samples_per_shard must be at least 1; got {samples_per_shard}")
    target = Path(output)
    if any(target.glob("*-*.tar")):
        # Archives of before would count as part of the new set.
        raise ValueError(f"{target} must hold no archives yet: choose another output")
    counts: dict[str, int] = {}
    classes: tuple[str, ...] = ()
    for split in SPLITS:
        images = load_image_folder(data_dir, split)
        counts[split], classes = len(images), images.classes
        for number, start in enumerate(range(0, len(images), samples_per_shard)):
            chosen = range(start, min(start + samples_per_shard, len(images)))
            with atomic_path(target / f"{split}-{number:06d}.tar") as path, tarfile.open(path, "w") as tar:
                for index in chosen:
                    image = Path(images.sample_id(index))
                    label = str(images.targets[index]).encode()
                    for suffix, content in ((image.suffix.lower(), image.read_bytes()), (".cls", label)):
                        header = tarfile.TarInfo(f"{index:08d}{suffix}")
                        header.size = len(content)
                        tar.addfile(header, io.BytesIO(content))
    write_text(target / _CLASSES, "".join(f"{name}\n" for name in classes))
    return counts


def _read_classes(path: Path) -> list[str]:
    if not path.parent.is_dir():
        raise FileNotFoundError(f"data_dir must be a folder of archives; there is no folder {path.parent}")
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: write a class name a line into it, in the order of their numbers"
        )
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"{path} must hold class names, a line each, and none twice")
    return names


def _shard_paths(root: Path, split: str) -> list[Path]:
    found = {}
    for path in root.glob(f"{split}-*.tar"):
        number = re.fullmatch(rf"{split}-(\d+)\.tar", path.name)
        if number is not None:
            found[int(number[1])] = path
    if not found:
        raise FileNotFoundError(f"{root} holds no archive of {split!r}, such as {split}-000000.tar")
    missing = sorted(set(range(max(found) + 1)) - set(found))
    if missing:
        raise FileNotFoundError(
            f"{root} lacks archive {missing[0]} of {split!r}: they are numbered from 0 to {max(found)}"
        )
    return [found[number] for number in sorted(found)]


def _target(path: Path, member: Member, numbers: dict[str, int]) -> int:
    label = member.label
    target = numbers.get(label) if isinstance(label, str) else label
    if target is None or not 0 <= target < len(numbers):
        hint = near_miss(label, numbers)
        raise ValueError(
            f"{path}/{member.key} has the label {label!r}, which is none of the {len(numbers)} classes of "
            f"{_CLASSES}{hint}"
        )
    return target
