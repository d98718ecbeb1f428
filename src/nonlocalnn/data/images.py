"""Your own images: a folder with a sub-folder per class.

Either the splits are folders, and files are used as they lie::

    data_dir/train/cat/1.png    data_dir/validation/cat/7.png    data_dir/test/cat/9.png

or there are only classes (``data_dir/cat/1.png``), and each file's place below ``data_dir`` decides its
split: the SHA-256 of that path, in UTF-8 with forward slashes, modulo 10, gives train for 0 to 7, validation
for 8 and test for 9. So a file keeps its split on every machine and when others are added. A folder named
after a split makes ``data_dir`` the first kind.

Classes are the names of the folders, sorted. Hidden files, other files and folders further down are ignored.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import torch
from torch import Tensor

from nonlocalnn._errors import check_choice, missing_extra
from nonlocalnn.data.labelled import SPLITS, LabelledImages, augmentation, check_image_size, resize_image

if TYPE_CHECKING:
    from PIL import Image

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")
_ALPHA_MODES = ("LA", "PA", "RGBA", "RGBa")


def read_image(
    path: str | os.PathLike[str], *, image_size: int | tuple[int, int] | None, channels: int
) -> Tensor:
    """Read an image file as a tensor.

    The orientation that a camera notes in EXIF is applied; transparent parts are laid over white; of an
    animation, the first frame is read; 16-bit grey keeps its precision.

    Args:
        path: A file in any format that Pillow reads.
        image_size: Side, or (height, width), in pixels, to which the image is stretched; ``None`` keeps its
            own.
        channels: 3 for RGB or 1 for grey (luma of ITU-R BT.601).

    Returns:
        float32 (C, H, W) in [0, 1].

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: ``channels`` or ``image_size`` is out of range; or the file is not an image, is damaged or
            cut, is larger than Pillow's limit against decompression bombs, or has pixels without a known
            range (32-bit integers, floating point): ``cannot read image PATH: reason``.
        TypeError: ``image_size`` is neither an integer nor a pair of integers.
        ImportError: Pillow is missing.

    Example:
        >>> import pathlib, tempfile
        >>> from PIL import Image
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "red.png"
        >>> Image.new("RGB", (7, 5), "red").save(path)
        >>> read_image(path, image_size=None, channels=3)[:, 0, 0]
        tensor([1., 0., 0.])
        >>> read_image(path, image_size=(11, 13), channels=1).shape
        torch.Size([1, 11, 13])
    """
    check_choice("channels", channels, (1, 3))
    size = None if image_size is None else check_image_size(image_size)
    return decode_image(path, name=os.fspath(path), image_size=size, channels=channels)


def decode_image(
    source: str | os.PathLike[str] | BinaryIO,
    *,
    name: str,
    image_size: tuple[int, int] | None,
    channels: int,
) -> Tensor:
    """Return an image as :func:`read_image` does, from a path or an open file that errors call ``name``."""
    image, file_format = _decode(source, name)
    try:
        tensor = _to_tensor(image, file_format, channels)
    except ValueError as error:
        raise _unreadable(name, str(error)) from error
    return tensor if image_size is None else resize_image(tensor, image_size)


def _unreadable(name: str, reason: str) -> ValueError:
    return ValueError(f"cannot read image {name}: {reason}")


def _decode(source: str | os.PathLike[str] | BinaryIO, name: str) -> tuple["Image.Image", str | None]:
    """Return the image, upright, and the name that Pillow has for its file format.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not an image, or is damaged, cut or too large.
        ImportError: Pillow is missing.
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise missing_extra("pillow", "data", "reading images") from error
    try:
        with Image.open(source) as opened:
            return ImageOps.exif_transpose(opened), opened.format
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no such image: {name}") from error
    except UnidentifiedImageError as error:
        raise _unreadable(name, "it is not an image, or of a kind that Pillow does not know") from error
    # On damaged bytes Pillow's decoders raise nearly anything: OSError, SyntaxError, struct.error, ...
    except Exception as error:
        # The text of a system's error repeats the path.
        system = error.strerror if isinstance(error, OSError) else None
        raise _unreadable(name, system or str(error) or type(error).__name__) from error


def _to_tensor(image: "Image.Image", file_format: str | None, channels: int) -> Tensor:
    """Return a Pillow image of any mode as float32 (C, H, W) in [0, 1].

    Raises:
        ValueError: The mode's range is not known, or Pillow cannot convert it.
    """
    from PIL import Image

    width, height = image.size
    # Pillow opens 16-bit grey as one of these modes; of the 32 bits of "I", PNG and PPM use 16.
    if image.mode.startswith("I;16") or (image.mode == "I" and file_format in ("PNG", "PPM")):
        values = torch.frombuffer(bytearray(image.convert("I").tobytes()), dtype=torch.int32)
        return (values / 65535).reshape(1, height, width).repeat(channels, 1, 1)
    if image.mode in ("I", "F"):
        raise ValueError(f"the range of its pixels is not known (Pillow's mode {image.mode!r})")
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    pixels = bytearray(image.convert("RGB" if channels == 3 else "L").tobytes())
    values = torch.frombuffer(pixels, dtype=torch.uint8).reshape(height, width, channels)
    return values.permute(2, 0, 1).to(torch.float32).contiguous() / 255


class ImageFolder(LabelledImages):
    """Images that are read from their files one at a time.

    Args:
        paths: The file of each image; also its ``sample_id``.
        targets: See :class:`~nonlocalnn.data.labelled.LabelledImages`.
        classes: See :class:`~nonlocalnn.data.labelled.LabelledImages`.
        channels: 3 for RGB or 1 for grey.
        image_size: (H, W) to which images are stretched, in pixels.
        transform: See :class:`~nonlocalnn.data.labelled.LabelledImages`.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        targets: Sequence[int],
        classes: Sequence[str],
        channels: int,
        image_size: tuple[int, int],
        transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(
            classes=classes, channels=channels, image_size=image_size, targets=targets, transform=transform
        )
        self._paths = list(paths)

    def read(self, index: int) -> Tensor:
        """See :meth:`LabelledImages.read`; raises as :func:`read_image` does."""
        return read_image(self._paths[index], image_size=self.image_size, channels=self.channels)

    def sample_id(self, index: int) -> str:
        """Return the path of the file: ``data_dir`` as it was given, and the place below it."""
        return str(self._paths[index])


def _class_names(folder: Path) -> list[str]:
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != ".")
    if not names:
        raise ValueError(f"{folder} must hold one folder per class; it holds no folder")
    return names


def _image_paths(folder: Path) -> list[Path]:
    paths = sorted(
        entry
        for entry in folder.iterdir()
        if entry.suffix.lower() in IMAGE_SUFFIXES and entry.name[0] != "." and entry.is_file()
    )
    if not paths:
        raise ValueError(
            f"the class folder {folder} holds no image ({', '.join(IMAGE_SUFFIXES)}): fill or remove it"
        )
    return paths


def _check_same_classes(root: Path, splits: list[str]) -> None:
    """Check that every split's folder has the same classes; a target would mean different things otherwise.

    Raises:
        ValueError: They differ; the message says where.
    """
    first, *others = splits
    expected = _class_names(root / first)
    for other in others:
        found = _class_names(root / other)
        if found != expected:
            differences = [
                f"only in {owner!r}: {', '.join(map(repr, sorted(extra)))}"
                for owner, extra in ((first, set(expected) - set(found)), (other, set(found) - set(expected)))
                if extra
            ]
            raise ValueError(
                f"the splits of {root} must have the same class folders; {'; '.join(differences)}"
            )


def split_of(relative_path: str) -> str:
    """Return the split of a file in a folder that has no split folders.

    Args:
        relative_path: The path below ``data_dir``, with forward slashes.

    Example:
        >>> split_of("cat/1.png")
        'train'
    """
    # A file name need not be valid UTF-8; its bytes are taken as they are then.
    digest = hashlib.sha256(relative_path.encode("utf-8", "surrogateescape")).digest()
    return (("train",) * 8 + ("validation", "test"))[int.from_bytes(digest, "big") % 10]


def load_image_folder(
    data_dir: str | os.PathLike[str],
    split: str,
    *,
    image_size: int | tuple[int, int] | None = None,
    channels: int = 3,
    augment: bool = False,
) -> LabelledImages:
    """Load a split of a folder of images; the module describes the folder.

    Args:
        data_dir: The folder.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        image_size: Side, or (height, width), in pixels; default 224. Images are stretched to it.
        channels: 3 for RGB or 1 for grey.
        augment: Mirror and shift each image at random when it is read.

    Returns:
        The split. Reading an image raises as :func:`read_image` does.

    Raises:
        FileNotFoundError: ``data_dir`` is not a folder.
        ValueError: An argument is out of range; there is no class folder, or one without images; the split
            has no folder or no image; or the splits have different classes.
        TypeError: ``image_size`` is neither an integer nor a pair of integers.
        ImportError: torchvision is missing, which ``augment`` needs.
    """
    check_choice("split", split, SPLITS)
    check_choice("channels", channels, (1, 3))
    size = check_image_size(224 if image_size is None else image_size)
    root = Path(data_dir)
    if not root.is_dir():
        raise FileNotFoundError(f"data_dir must be a folder of images; there is no folder {root}")
    split_folders = [name for name in SPLITS if (root / name).is_dir()]
    if split_folders and split not in split_folders:
        raise ValueError(f"{root} has no folder {split!r}; it has {', '.join(map(repr, _class_names(root)))}")
    if split_folders:
        _check_same_classes(root, split_folders)
    base = root / split if split_folders else root
    classes = _class_names(base)
    samples = [
        (path, target)
        for target, name in enumerate(classes)
        for path in _image_paths(base / name)
        if split_folders or split_of(path.relative_to(root).as_posix()) == split
    ]
    if not samples:
        raise ValueError(
            f"none of the images in {root} falls to {split!r}: add images, or make the folders "
            f"{', '.join(SPLITS)} and divide them yourself"
        )
    return ImageFolder(
        [path for path, _ in samples],
        targets=[target for _, target in samples],
        classes=classes,
        channels=channels,
        image_size=size,
        transform=augmentation("objects", size) if augment else None,
    )
