"""Whether a file or folder is a volume and nothing else, by its first bytes where its ending does not say."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from nonlocalnn._errors import needs
from nonlocalnn.data.volumes.dicom import is_series
from nonlocalnn.data.volumes.files import NIFTI_SUFFIXES, STACK_SUFFIXES, volume_suffix


def holds_volume(entry: Path) -> bool:
    """Return whether an entry of a folder is a volume; what cannot be read is none.

    Of arrays, which may be sequences too, only the header is read, and of TIFF files, which may be
    photographs, the number of pages.
    """
    if entry.is_dir():
        return is_series(entry)
    suffix = volume_suffix(entry)
    if suffix in NIFTI_SUFFIXES:
        return True
    if suffix in STACK_SUFFIXES:
        return _num_pages(entry) > 1
    if suffix == ".npy":
        with entry.open("rb") as file:
            return _num_axes(file) > 2
    return suffix == ".npz" and _is_archive_of_one(entry)


def _num_pages(path: Path) -> int:
    with needs("pillow", "data", "reading TIFF stacks"):
        from PIL import Image
    try:
        with Image.open(path, formats=("TIFF",)) as opened:
            return int(getattr(opened, "n_frames", 1))
    # On damaged bytes Pillow's decoders raise nearly anything.
    except Exception:
        return 0


def _num_axes(file: Any) -> int:
    """Return how many axes an array in a file has, by its header."""
    try:
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        return len(read(file)[0])
    except (ValueError, OSError, EOFError):
        return 0


def _is_archive_of_one(path: Path) -> bool:
    """Return whether an archive holds one array that is a volume; X is of many sequences."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name != "spacing.npy"]
            if len(names) != 1 or names == ["X.npy"]:
                return False
            with archive.open(names[0]) as file:
                return _num_axes(file) > 2
    except (zipfile.BadZipFile, OSError):
        return False
