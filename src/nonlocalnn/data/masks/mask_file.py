"""Files of masks: an id a pixel, as grey values, indices of a palette, or colours that classes name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nonlocalnn._errors import needs
from nonlocalnn.data.images import reason_of
from nonlocalnn.data.masks.masked import IGNORED

if TYPE_CHECKING:
    from PIL import ImageFile

Colour = tuple[int, int, int]
# VOC's, of borders; and tools that paint as VOC does use it too.
_BORDER: Colour = (224, 224, 192)
# "road:128,64,128", and CVAT's "road:128,64,128:parts:actions".
_NAMED_COLOUR = re.compile(r"(.+?):(\d{1,3}),\s*(\d{1,3}),\s*(\d{1,3})(?::.*)?")
# Without loss, and without a palette that programs make shorter, as of GIF. Pillow hands files of some other
# formats to programs.
_FORMATS = ("PNG", "TIFF", "BMP")
# Grey of so few bits a pixel Pillow stretches to 255: how far apart ids come out.
_STEPS = {"L;2": 85, "L;4": 17}


def named_colours(lines: Sequence[str]) -> tuple[list[str], dict[Colour, int] | None]:
    """Return the names of classes, and the id of each colour; None where lines are names alone.

    Example:
        >>> named_colours(["soil:0,0,0", "leaf:0,128,0::"])
        (['soil', 'leaf'], {(0, 0, 0): 0, (0, 128, 0): 1})
        >>> named_colours(["soil", "leaf"])
        (['soil', 'leaf'], None)

    Raises:
        ValueError: Two have one colour, or a colour is none.
    """
    matches = [_NAMED_COLOUR.fullmatch(line) for line in lines]
    if not lines or not all(matches):
        return list(lines), None
    names, colours = [], {}
    for number, match in enumerate(matches):
        assert match is not None, "all match"
        name, *values = match.groups()
        red, green, blue = map(int, values)
        if max(red, green, blue) > 255 or (red, green, blue) in colours:
            raise ValueError(
                f"each class must have a colour of its own, of values up to 255; got {match[0]!r}"
            )
        names.append(name.strip())
        colours[red, green, blue] = number
    return names, colours


def read_mask(path: Path, colours: Mapping[Colour, int] | None = None) -> Tensor:
    """Return the ids in a file of a mask, int32 (H, W).

    They are indices of its palette, or its grey values; with ``colours`` the id of each pixel's colour, and
    VOC's colour of borders is ignored.

    Raises:
        ValueError: It cannot be read, or holds colours where ids are wanted, or colours of no class.
        ImportError: Pillow is missing.
    """
    with needs("pillow", "data", "reading masks"):
        from PIL import Image, ImageOps
    try:
        with Image.open(path, formats=_FORMATS) as opened:
            step = _STEPS.get(_raw_mode(opened), 1)
            # As that of the image: programs that make one of the other copy the note.
            ImageOps.exif_transpose(opened, in_place=True)
            mode, (width, height) = opened.mode, opened.size
            values = None
            if colours is not None:
                values = _ids_of(opened.convert("RGB").tobytes(), colours)
            elif mode in ("L", "P"):
                # A palette is of colours for people; what lies in the file is the index.
                values = _bytes(opened.tobytes()) // step
            elif mode in ("1", "I") or mode.startswith("I;16"):
                values = torch.frombuffer(bytearray(opened.convert("I").tobytes()), dtype=torch.int32)
            elif mode in ("RGB", "RGBA", "LA"):
                values = _grey(opened.convert("RGBA").tobytes())
    # On damaged bytes Pillow's decoders raise nearly anything.
    except Exception as error:
        reason = reason_of(error)
        if path.suffix.lower() in (".jpg", ".jpeg"):
            reason = "JPEG changes ids; save masks as PNG"
        raise ValueError(f"cannot read mask {path}: {' '.join(reason.split())}") from error
    if values is None:
        has = "floating-point numbers" if mode == "F" else "colours"
        colour = "" if mode == "F" else ", or name the colour of each class there, as road:128,64,128"
        raise ValueError(
            f"{path} must hold an id for each pixel, in grey or by a palette; it has {has} (Pillow's mode "
            f"{mode!r}): save the ids of classes.txt as a grey PNG{colour}"
        )
    # Of one bit a pixel Pillow makes 0 and 255.
    return (values.clamp(max=1) if mode == "1" and colours is None else values).reshape(height, width)


def _raw_mode(opened: ImageFile.ImageFile) -> str:
    """Return how pixels lie in the file, in Pillow's words; known until they are loaded."""
    settings = opened.tile[0][3] if opened.tile else ""
    return str(settings[0] if isinstance(settings, tuple) else settings)[:3]


def _bytes(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).to(torch.int32)


def _grey(content: bytes) -> Tensor | None:
    """Return grey values that were saved as opaque colours; None of colours."""
    red, green, blue, opacity = _bytes(content).view(-1, 4).unbind(1)
    is_grey = bool((red == green).all() and (red == blue).all() and (opacity == 255).all())
    return red if is_grey else None


def _ids_of(content: bytes, colours: Mapping[Colour, int]) -> Tensor:
    """Return the id of the colour of each pixel, red, green and blue.

    Raises:
        ValueError: A colour is of no class.
    """
    pixels = _bytes(content).view(-1, 3)
    numbers = (pixels[:, 0] << 16) + (pixels[:, 1] << 8) + pixels[:, 2]
    there, places = numbers.unique(return_inverse=True)
    found = [(int(each) >> 16, int(each) >> 8 & 255, int(each) & 255) for each in there]
    known = {_BORDER: IGNORED, **colours}
    wrong = [each for each in found if each not in known]
    if wrong:
        shown = ", ".join(map(str, wrong[:4])) + (", ..." if len(wrong) > 4 else "")
        raise ValueError(f"it has colours that are of no class: {shown}; {len(wrong)} in all")
    return torch.tensor([known[each] for each in found], dtype=torch.int32)[places]
