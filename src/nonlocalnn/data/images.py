"""Reading image files, whatever their format, size, orientation and colours."""

import io
import os
from typing import TYPE_CHECKING, BinaryIO

import torch
from torch import Tensor

from nonlocalnn._errors import check_choice, needs
from nonlocalnn._files import kind_of_beginning
from nonlocalnn.data.archives.index import ArchivedFile
from nonlocalnn.data.folder_files import IMAGE_SUFFIXES
from nonlocalnn.data.labelled import check_image_size, resize_image

if TYPE_CHECKING:
    from PIL import Image

# Pillow hands these to Ghostscript, or to Windows, whatever the file's name: a file never runs code.
_STARTS_PROGRAMS = ("EPS", "WMF")
# A pipe has no end until its writer closes it, and reading one in a folder would wait for ever.
NO_FILE = "it is a pipe or a device: copy what it gives into a file"
_ALPHA_MODES = ("LA", "PA", "RGBA", "RGBa")
_BITS_PER_SAMPLE = 258


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
    file: str | os.PathLike[str] | ArchivedFile,
    *,
    name: str,
    image_size: tuple[int, int] | None,
    channels: int,
) -> Tensor:
    """Return an image as :func:`read_image` does, of a file or a part of an archive; errors say ``name``."""
    try:
        source = io.BytesIO(file.read()) if isinstance(file, ArchivedFile) else file
    except OSError as error:
        raise _unreadable(name, error.strerror or str(error)) from error
    image, deep_white = _decode(source, name)
    try:
        tensor = _to_tensor(image, deep_white, channels)
    except ValueError as error:
        raise _unreadable(name, str(error)) from error
    return tensor if image_size is None else resize_image(tensor, image_size)


def _unreadable(name: str, reason: str) -> ValueError:
    return ValueError(f"cannot read image {name}: {reason}")


def _decode(source: str | os.PathLike[str] | BinaryIO, name: str) -> tuple["Image.Image", int | None]:
    """Return the image, upright, and what :func:`_white_of_deep_grey` says of it."""
    with needs("pillow", "data", "reading images"):
        from PIL import Image, ImageOps, UnidentifiedImageError
    if isinstance(source, str | os.PathLike) and os.path.isdir(source):
        raise _unreadable(name, f"it is a folder, and holds no image ({', '.join(IMAGE_SUFFIXES)})")
    if isinstance(source, str | os.PathLike) and os.path.exists(source) and not os.path.isfile(source):
        raise _unreadable(name, NO_FILE)
    try:
        with Image.open(source) as opened:
            if opened.format in _STARTS_PROGRAMS:
                raise UnidentifiedImageError
            return ImageOps.exif_transpose(opened), _white_of_deep_grey(opened)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no such image: {name}") from error
    except UnidentifiedImageError as error:
        raise _unreadable(name, _unknown(source)) from error
    # On damaged bytes Pillow's decoders raise nearly anything: OSError, SyntaxError, struct.error, ...
    except Exception as error:
        raise _unreadable(name, reason_of(error)) from error


def _white_of_deep_grey(opened: "Image.Image") -> int | None:
    """Return the value of white in grey of more than 8 bits; None of others, or where it is not known."""
    # Pillow opens 16-bit grey as one of these modes; of the 32 bits of "I", PNG and PPM use 16.
    if not (opened.mode.startswith("I;16") or (opened.mode == "I" and opened.format in ("PNG", "PPM"))):
        return None
    # Microscopes write TIFF of 12 bits; of other formats Pillow brings all to 16.
    tags = getattr(opened, "tag_v2", {})
    return 2 ** tags.get(_BITS_PER_SAMPLE, (16,))[0] - 1


def reason_of(error: Exception) -> str:
    """Return in words why Pillow cannot read a file, by the error that it raised."""
    from PIL import Image

    if isinstance(error, Image.DecompressionBombError) and Image.MAX_IMAGE_PIXELS is not None:
        # Pillow warns from its limit on, and opens nothing from twice that on.
        return f"it may have {2 * Image.MAX_IMAGE_PIXELS:,} pixels at most, and has more: shrink it first"
    # The text of a system's error repeats the path.
    system = error.strerror if isinstance(error, OSError) else None
    return system or str(error) or type(error).__name__


def _unknown(source: str | os.PathLike[str] | BinaryIO) -> str:
    """Return why a file is no image that Pillow opens, by its first bytes."""
    if isinstance(source, str | os.PathLike):
        with open(source, "rb") as file:
            beginning = file.read(32)
    else:
        source.seek(0)
        beginning = source.read(32)
    if not beginning:
        return "the file is empty"
    kind = kind_of_beginning(beginning)
    if kind is None:
        return "it is not an image, or of a kind that Pillow does not know"
    if "HEIC" in kind or "AVIF" in kind:
        return f"it is {kind}, which this Pillow does not open: convert it to JPEG first"
    if "video" in kind:
        return f"it is {kind}, and an image is wanted: a model of videos takes it"
    return f"it is no whole image that Pillow opens: it begins like {kind}"


def _to_tensor(image: "Image.Image", deep_white: int | None, channels: int) -> Tensor:
    """Return a Pillow image of any mode as float32 (C, H, W) in [0, 1]; see :func:`_white_of_deep_grey`.

    Raises:
        ValueError: The mode's range is not known, or Pillow cannot convert it.
    """
    from PIL import Image

    width, height = image.size
    if deep_white is not None:
        values = torch.frombuffer(bytearray(image.convert("I").tobytes()), dtype=torch.int32)
        # Of a PNG the one grey that is transparent; it is laid over white, as below.
        values[values == image.info.get("transparency", -1)] = deep_white
        return (values / deep_white).reshape(1, height, width).repeat(channels, 1, 1)
    if image.mode in ("I", "F"):
        raise ValueError(
            f"the range of its pixels is not known (Pillow's mode {image.mode!r}): save it with 8 or 16 bits"
        )
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    pixels = bytearray(image.convert("RGB" if channels == 3 else "L").tobytes())
    values = torch.frombuffer(pixels, dtype=torch.uint8).reshape(height, width, channels)
    return values.permute(2, 0, 1).to(torch.float32).contiguous() / 255
