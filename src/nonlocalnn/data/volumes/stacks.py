"""TIFF stacks: a page a slice, as microscopes write them."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from nonlocalnn._errors import needs, one_line

# Millimetres of the units that ImageJ writes, and of TIFF's own: 2 an inch, 3 a centimetre.
_UNITS = {"micron": 1e-3, "um": 1e-3, "\\u00b5m": 1e-3, "nm": 1e-6, "mm": 1.0, "cm": 10.0, "inch": 25.4}
_TIFF_UNITS = {2: 25.4, 3: 10.0}
_WIDTH, _HEIGHT, _DESCRIPTION, _X_RESOLUTION, _Y_RESOLUTION, _UNIT = 256, 257, 270, 282, 283, 296


def read_stack(path: Path) -> tuple[np.ndarray, tuple[float, float, float] | None]:
    """Return the pages of a TIFF file, (slices, rows, columns), and their spacing in millimetres, if it says.

    Only ImageJ's description says how far apart the pages are; without it there is no spacing.

    Raises:
        ValueError: It is no such file, or its pages differ or have colours.
        ImportError: Pillow is missing.
    """
    with needs("pillow", "data", "reading TIFF stacks"):
        from PIL import Image, ImageSequence
    pages: list[np.ndarray] = []
    try:
        # Of this one format: Pillow hands files of some others to programs, whatever their names.
        with Image.open(path, formats=("TIFF",)) as opened:
            tags: Any = dict(getattr(opened, "tag_v2", {}))
            for page in ImageSequence.Iterator(opened):
                pages.append(np.array(page))
    # On damaged bytes Pillow's decoders raise nearly anything.
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a TIFF stack: {one_line(error)}") from None
    for number, found in enumerate(pages):
        if found.ndim != 2:
            raise ValueError(f"{path} must hold grey pages; page {number} has colours: save it as grey")
        if found.shape != pages[0].shape:
            raise ValueError(
                f"{path} must hold pages of one size; page 0 has {pages[0].shape} and page {number} "
                f"{found.shape}"
            )
    description = str(tags.get(_DESCRIPTION, ""))
    _check_one_series(path, description)
    return np.stack(pages), _spacing(tags, description)


def _check_one_series(path: Path, description: str) -> None:
    """Refuse hyperstacks, whose pages are not slices alone: their order would mix channels or times."""
    for name in ("channels", "frames"):
        found = re.search(rf"^{name}=(\d+)", description, re.MULTILINE)
        if found and int(found[1]) > 1:
            raise ValueError(f"{path} must hold one volume; it has {found[1]} {name}: save each as a stack")


def _spacing(tags: dict[int, Any], description: str) -> tuple[float, float, float] | None:
    apart = re.search(r"^spacing=([-+.\deE]+)", description, re.MULTILINE)
    named = re.search(r"^unit=(\S+)", description, re.MULTILINE)
    unit = _UNITS.get(named[1]) if named else _TIFF_UNITS.get(int(tags.get(_UNIT, 1)))
    if apart is None or unit is None:
        return None
    try:
        lengths = [float(apart[1]), 1 / float(tags[_Y_RESOLUTION]), 1 / float(tags[_X_RESOLUTION])]
    except (KeyError, ValueError, ZeroDivisionError):
        return None
    slices, rows, columns = (abs(length) * unit for length in lengths)
    return (slices, rows, columns) if all(0 < each < math.inf for each in (slices, rows, columns)) else None
