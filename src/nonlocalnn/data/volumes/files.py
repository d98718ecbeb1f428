"""Files of volumes: NIfTI, arrays, TIFF stacks, and folders of a DICOM series."""

from __future__ import annotations

import gzip
import os
import zipfile
import zlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from nonlocalnn._errors import needs, one_line, silent
from nonlocalnn._files import atomic_path
from nonlocalnn.data.folder_files import find_files, is_ignored
from nonlocalnn.data.volumes.dicom import is_series, read_series
from nonlocalnn.data.volumes.stacks import read_stack
from nonlocalnn.data.volumes.volume import Volume, canonical, in_order_of_file

NIFTI_SUFFIXES = (".nii.gz", ".nii")
STACK_SUFFIXES = (".tif", ".tiff")
# Bytes that are read at once where nothing is kept of them.
_PIECE = 2**20
# Millimetres of NIfTI's other units.
_UNITS = {"meter": 1e3, "micron": 1e-3}
VOLUME_SUFFIXES = (*NIFTI_SUFFIXES, ".npy", ".npz", *STACK_SUFFIXES)


def volume_suffix(path: Path) -> str:
    """Return the ending of a file of a volume, in small letters; "" where it has none of these.

    Example:
        >>> volume_suffix(Path("scan.T1.nii.gz")), volume_suffix(Path("scan.png"))
        ('.nii.gz', '')
    """
    return next((each for each in VOLUME_SUFFIXES if path.name.lower().endswith(each)), "")


def volume_stem(path: Path) -> str:
    """Return the name of a volume's file without its ending; of a series that of its folder.

    Example:
        >>> volume_stem(Path("scans/scan.T1.nii.gz"))
        'scan.T1'
    """
    return path.name[: len(path.name) - len(volume_suffix(path))]


def is_volume(entry: Path) -> bool:
    """Return whether a file has the ending of a volume, or a folder holds a DICOM series."""
    if is_ignored(entry):
        return False
    return is_series(entry) if entry.is_dir() else volume_suffix(entry) != ""


def find_volumes(inputs: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return the volumes that are named, and those in the folders that are named; see ``find_files``."""
    return find_files(inputs, is_volume, kind="volumes")


def read_volume(path: str | os.PathLike[str]) -> Volume:
    """Return the volume in a file, or in a folder of a DICOM series; the last four are kept.

    ``.nii`` and ``.npy`` are mapped into memory and read where they are asked for; all others are read whole,
    as numbers of their own type.

    Raises:
        OSError: There is no such file.
        ValueError: It is no volume, or damaged; a file of several volumes is one of these.
        ImportError: A library of the extra ``volumes`` is missing.
    """
    path = Path(path)
    if path.is_dir() and not is_series(path):
        raise ValueError(f"{path} holds no DICOM slice, and is no file of a volume: name a file, or a series")
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {path}")
    if not path.is_dir() and volume_suffix(path) == "":
        raise ValueError(f"{path} is no volume ({', '.join(VOLUME_SUFFIXES)}, or a folder of DICOM slices)")
    about = path.stat()
    if not path.is_dir() and about.st_size == 0:
        raise ValueError(f"{path} is empty")
    return _read(path, about.st_mtime_ns, about.st_size)


# Training cuts several boxes out of a volume, and a compressed file is decompressed whole for each.
@lru_cache(maxsize=4)
def _read(path: Path, _changed: int, _size: int) -> Volume:
    if path.is_dir():
        volume = read_series(path)
    elif volume_suffix(path) in NIFTI_SUFFIXES:
        volume = _read_nifti(path)
    elif volume_suffix(path) in STACK_SUFFIXES:
        stored, spacing = read_stack(path)
        volume = _plain(stored, spacing, path)
    else:
        volume = _read_arrays(path)
    if 0 in volume.stored.shape:
        raise ValueError(f"{path} holds no voxel: its shape is {tuple(volume.stored.shape[1:])}")
    return volume


def _read_nifti(path: Path) -> Volume:
    with needs("nibabel", "volumes", "reading NIfTI"):
        import nibabel
    try:
        # It logs what is odd of a file without naming it; what matters is checked by us.
        with silent("nibabel.global"):
            image: Any = nibabel.load(path)
        if volume_suffix(path) == ".nii.gz":
            stored = _read_to_the_end(image.dataobj, path)
        else:
            stored = np.asanyarray(image.dataobj.get_unscaled())
        slope, inter = float(image.dataobj.slope), float(image.dataobj.inter)
        unit = _UNITS.get(image.header.get_xyzt_units()[0], 1.0)
        affine = np.diag([unit, unit, unit, 1.0]) @ np.asarray(image.affine, dtype=np.float64)
    # nibabel, zlib and NumPy raise nearly anything on damaged bytes.
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as NIfTI, it may be cut or of another kind: {one_line(error)}"
        ) from None
    _check_spacing(image, path)
    if stored.dtype.kind not in "iufb":
        raise ValueError(f"{path} must hold one number a voxel; got {stored.dtype}")
    while stored.ndim > 3 and stored.shape[-1] == 1:
        stored = stored[..., 0]
    if stored.ndim != 3:
        more = ": divide a series over time, or several channels, into files" if stored.ndim > 3 else ""
        raise ValueError(f"{path} must hold one volume of three axes; got shape {stored.shape}{more}")
    return canonical(stored, affine, path, slope=slope, inter=inter, header=image.header)


def _read_to_the_end(proxy: Any, path: Path) -> Any:
    """Return the numbers of a compressed file, and check it: the checksum lies behind what nibabel reads."""
    from nibabel.volumeutils import array_from_file

    with gzip.open(path) as file:
        stored = array_from_file(proxy.shape, proxy.dtype, file, offset=proxy.offset)
        while file.read(_PIECE):
            pass
    return stored


def _check_spacing(image: Any, path: Path) -> None:
    """Check the spacing of a header that tells places by it; nibabel takes 1 for 0.

    Raises:
        ValueError: It is zero, or no number.
    """
    from nibabel.openers import ImageOpener

    if int(image.header["sform_code"]) > 0:
        return
    with ImageOpener(path) as file:
        spacing = type(image.header).from_fileobj(file, check=False)["pixdim"][1:4].tolist()
    if 0 in spacing or not np.isfinite(spacing).all():
        raise ValueError(
            f"{path} must say the millimetres between its voxels, as numbers that are not zero; its header "
            f"has {', '.join(f'{each:g}' for each in spacing)}: mend pixdim, or give it an sform"
        )


def _read_arrays(path: Path) -> Volume:
    spacing = None
    try:
        if path.suffix.lower() == ".npy":
            # Mapped and not read: a header that claims more than the file holds is refused at once.
            stored = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
                arrays = {name: found[name] for name in found.files}
            spacing = arrays.pop("spacing", None)
            if len(arrays) != 1:
                raise ValueError(
                    f"it must have one array, and perhaps spacing; it has {', '.join(arrays) or 'none'}"
                )
            (stored,) = arrays.values()
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, MemoryError, ValueError, KeyError) as error:
        raise ValueError(f"{path} cannot be read as a volume: {one_line(error)}") from None
    if stored.dtype.kind not in "iufb":
        raise ValueError(f"{path} must hold real numbers; got {stored.dtype}")
    if spacing is not None and (spacing.shape != (3,) or spacing.dtype.kind not in "iuf"):
        raise ValueError(
            f"spacing of {path} must be three numbers, the millimetres between slices, rows and columns; got "
            f"shape {spacing.shape}"
        )
    return _plain(stored, None if spacing is None else tuple(spacing.tolist()), path)


def _plain(stored: Any, spacing: tuple[float, ...] | None, path: Path) -> Volume:
    """Return a volume of a file that does not tell how the body lies, in the order that it has."""
    if stored.ndim == 3:
        stored = stored[None]
    if stored.ndim != 4:
        raise ValueError(
            f"{path} must hold (slices, rows, columns), or with channels (channels, slices, rows, columns); "
            f"got shape {tuple(stored.shape)}"
        )
    if spacing is not None and not all(0 < each < np.inf for each in spacing):
        raise ValueError(f"spacing of {path} must be above zero, and finite; got {list(spacing)}")
    # x goes with the columns, y with the rows and z with the slices.
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for axis, length in enumerate((1.0, 1.0, 1.0) if spacing is None else spacing):
        affine[2 - axis, axis] = length
    return Volume(stored, affine, path, has_spacing=spacing is not None)


def write_mask(labels: Any, path: Path, volume: Volume) -> None:
    """Write the class of each voxel as a NIfTI file with the affine, and of NIfTI the grid, of its volume.

    Args:
        labels: (slices, rows, columns) of the volume, whole numbers up to 255.
        path: The file, ending in .nii.gz or .nii; an existing one is replaced.
        volume: What the labels are of. Where it is no NIfTI file, columns become the first axis, rows the
            second and slices the third, as NIfTI counts.

    Raises:
        ImportError: nibabel is missing.
    """
    with needs("nibabel", "volumes", "writing NIfTI"):
        import nibabel
    labels = labels.to("cpu")
    if volume.header is None:
        numbers = np.ascontiguousarray(labels.numpy().transpose(2, 1, 0)).astype(np.uint8)
        image: Any = nibabel.Nifti1Image(numbers, volume.affine[:, [2, 1, 0, 3]])
        image.header.set_xyzt_units("mm")
    else:
        header = volume.header.copy()
        header.set_data_dtype(np.uint8)
        header.set_slope_inter(1, 0)
        # Where viewers end their grey scale; of ids they find it anew.
        header["cal_min"] = header["cal_max"] = 0
        # Without an affine of our own the header's stays, sform and qform to the last bit.
        image = nibabel.Nifti1Image(in_order_of_file(labels, volume).astype(np.uint8), None, header)
    content = image.to_bytes()
    if volume_suffix(path) == ".nii.gz":
        # Without a date the same mask is the same file.
        content = gzip.compress(content, mtime=0)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
