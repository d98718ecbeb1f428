"""A DICOM series: a folder of files, a slice each, which become one volume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nonlocalnn._errors import needs, one_line
from nonlocalnn.data.folder_files import is_ignored
from nonlocalnn.data.volumes.volume import Volume, canonical

# Slices may lie this share of their distance off: scanners round positions.
_TOLERANCE = 0.02
# What all slices of one volume have alike, and must say.
_ALIKE = ("SeriesInstanceUID", "Rows", "Columns", "ImageOrientationPatient", "PixelSpacing", "BitsAllocated")
# Directions and millimetres that scanners write anew for each slice, rounded a little differently.
_ROUNDED = 1e-4
_SUFFIXES = (".dcm", ".dicom", ".ima")


def is_series(folder: Path) -> bool:
    """Return whether a folder holds a DICOM file, by its ending (.dcm, .IMA) or by how one begins."""
    if not folder.is_dir():
        return False
    files = [entry for entry in folder.iterdir() if not is_ignored(entry) and entry.is_file()]
    return any(entry.suffix.lower() in _SUFFIXES for entry in files) or any(map(_is_dicom, files))


def _is_dicom(path: Path) -> bool:
    if path.suffix and not path.suffix[1:].isdigit():
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_series(folder: Path) -> Volume:
    """Return the volume of a folder of slices, ordered by where they lie and not by their names.

    Values are rescaled slice by slice, CT to Hounsfield units.

    Raises:
        ValueError: A file cannot be read, the slices are of several series, or they are not evenly spaced,
            equally large and parallel.
        ImportError: pydicom is missing.
    """
    with needs("pydicom", "volumes", "reading DICOM"):
        import pydicom
    slices: list[tuple[Path, Any]] = []
    for path in sorted(folder.iterdir()):
        if is_ignored(path) or not path.is_file() or path.name.upper() == "DICOMDIR":
            continue
        try:
            slices.append((path, pydicom.dcmread(path)))
        except pydicom.errors.InvalidDicomError:
            raise ValueError(
                f"{path} is no DICOM file, or is cut: take it out of the folder, which must hold the slices "
                "of a series alone"
            ) from None
        except Exception as error:
            raise ValueError(f"{path} cannot be read as DICOM: {one_line(error)}") from None
    _check_alike(slices, folder)
    first = slices[0][1]
    try:
        across, down = np.array(first.ImageOrientationPatient, dtype=float).reshape(2, 3)
        rows_apart, columns_apart = map(float, first.PixelSpacing)
        places = np.array([slice_.ImagePositionPatient for _, slice_ in slices], dtype=float)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{slices[0][0]} does not say where its slice lies, by ImagePositionPatient, "
            f"ImageOrientationPatient and PixelSpacing: {one_line(error)}"
        ) from None
    along = places @ np.cross(across, down)
    order = np.argsort(along, kind="stable")
    step = _step(places[order], along[order], [slices[index][0] for index in order], first)
    # From (slice, row, column) to millimetres; DICOM counts towards left and back, RAS right and front.
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = step, down * rows_apart, across * columns_apart
    affine[:3, 3] = places[order[0]]
    stacked = np.stack([_values(*slices[index]) for index in order])
    return canonical(stacked, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine, folder)


def _check_alike(slices: list[tuple[Path, Any]], folder: Path) -> None:
    if not slices:
        raise ValueError(f"{folder} holds no DICOM slice")
    reference_path, reference = slices[0]
    for path, slice_ in slices:
        if getattr(slice_, "NumberOfFrames", 1) not in (None, 1):
            raise ValueError(
                f"{path} holds {slice_.NumberOfFrames} frames: a series is read from a file a slice; "
                "convert it to NIfTI first"
            )
        for name in _ALIKE:
            own, other = getattr(slice_, name, None), getattr(reference, name, None)
            if (own is None) is not (other is None):
                # A file that is cut reads well up to where it ends, and lacks what comes after.
                lacking = path if own is None else reference_path
                raise ValueError(
                    f"{lacking} does not say {name}, as other slices of its folder do: it may be cut"
                )
            if own == other or _nearly(own, other):
                continue
            if name == "SeriesInstanceUID":
                raise ValueError(
                    f"{folder} must hold the slices of one series; {reference_path.name} and {path.name} are "
                    "of two: put each series into a folder of its own"
                )
            raise ValueError(
                f"the slices of {folder} must have the same {name}; {reference_path.name} has {other} and "
                f"{path.name} has {own}"
            )


def _nearly(own: Any, other: Any) -> bool:
    """Return whether two lists of DICOM's decimal numbers differ by their rounding alone."""
    try:
        return bool(np.allclose(np.array(own, float), np.array(other, float), rtol=_ROUNDED, atol=_ROUNDED))
    except (TypeError, ValueError):
        return False


def _step(places: np.ndarray, along: np.ndarray, paths: list[Path], first: Any) -> np.ndarray:
    """Return the way from one slice to the next, in DICOM's millimetres.

    Raises:
        ValueError: The ways differ: a slice is missing, is there twice, or lies askew.
    """
    if len(places) == 1:
        thickness = float(getattr(first, "SliceThickness", 0) or 1.0)
        across, down = np.array(first.ImageOrientationPatient, dtype=float).reshape(2, 3)
        normal: np.ndarray = np.cross(across, down) * thickness
        return normal
    ways = np.diff(along)
    usual = float(np.median(ways))
    for index, way in enumerate(ways.tolist()):
        if abs(way - usual) > max(_TOLERANCE * usual, 1e-3) or way <= 0:
            raise ValueError(
                f"the slices of {paths[0].parent} must be evenly spaced; they are {usual:.4g} mm apart, and "
                f"{paths[index].name} and {paths[index + 1].name} are {way:.4g} mm: a slice is missing or is "
                "there twice"
            )
    step: np.ndarray = (places[-1] - places[0]) / (len(places) - 1)
    # Tilted slices drift aside evenly, which an affine says. One that jumps aside lies nowhere on the grid.
    on_line = places[0] + np.arange(len(places))[:, None] * step
    aside = np.linalg.norm(places - on_line, axis=1)
    worst = int(aside.argmax())
    if aside[worst] > max(_TOLERANCE * usual * len(places), 1e-2):
        raise ValueError(
            f"the slices of {paths[0].parent} must lie on one line; {paths[worst].name} lies "
            f"{aside[worst]:.4g} mm beside it: the series was moved, or is of several stacks"
        )
    return step


def _values(path: Path, slice_: Any) -> np.ndarray:
    try:
        stored: np.ndarray = slice_.pixel_array
    except Exception as error:
        raise ValueError(f"{path} cannot be read as DICOM: {one_line(error)}") from None
    if stored.ndim != 2:
        raise ValueError(f"{path} must hold one grey slice; got shape {stored.shape}")
    slope = float(getattr(slice_, "RescaleSlope", 1) or 1)
    inter = float(getattr(slice_, "RescaleIntercept", 0) or 0)
    if (slope, inter) == (1.0, 0.0):
        return stored
    return stored.astype(np.float32) * np.float32(slope) + np.float32(inter)
