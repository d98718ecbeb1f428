"""Volumes with masks, the class of each voxel: ``images`` and ``masks`` by name, and ``classes.txt``.

Or ``dataset.json`` names the files and the classes, see :mod:`nonlocalnn.data.volumes.datalist`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from nonlocalnn._errors import check_choice, check_whole, counted
from nonlocalnn._names import SPLITS
from nonlocalnn.data.masks.masked import IGNORED, checked_classes, wrong_ids
from nonlocalnn.data.masks.pairs import PairedFiles, find_pairs
from nonlocalnn.data.volumes.datalist import is_datalist, read_datalist
from nonlocalnn.data.volumes.dataset import check_headers, padded_box, vary_with_mask
from nonlocalnn.data.volumes.files import is_volume, read_volume, volume_stem
from nonlocalnn.data.volumes.reading import Reading, Sampled, seen
from nonlocalnn.data.volumes.volume import Volume

VOLUME_FILES = PairedFiles("volumes", is_volume, is_volume, volume_stem, ".nii.gz")
# Voxels of a class from which a patch's middle is drawn: as many as say where the class lies.
_MOST_PLACES = 1000
_LONGEST = 2**12
# So many masks are looked at before a training.
_LOOKED_AT = 8
# So far from a whole number an id may lie: half a step of 8 bits over ten classes. What an interpolation left
# lies further off.
_OFF_WHOLE = 0.02
# How far, in millimetres, a mask may lie off its volume: programs round affines.
_TOLERANCE = 0.01


class MaskedVolumes(Dataset[tuple[Tensor, Tensor]]):
    """Volumes, each with the class of its voxels.

    ``dataset[i]`` is ``(patch, mask)``, what a training step takes: float32 (C, S, S, S), normalised, and
    uint8 (S, S, S), an index into ``classes``, or 255 where a voxel has none or lies beyond the volume. Each
    volume gives ``patches`` of them. With ``augment`` half of them have their middle in a voxel of a class
    that was drawn among those that are there, so that rare ones are seen, and the others lie anywhere;
    without it all lie around the middle. Whole volumes are opened by :meth:`open`.

    Args:
        pairs: Files of each volume and of its mask.
        classes: Names of the classes, in the order of the ids; 255 at most.
        reading: How volumes are read.
        side: S, voxels along each axis of a patch.
        patches: How many of each volume.
        augment: Whether patches are drawn and changed at random.

    Raises:
        ValueError: A file is no volume; a mask has another shape or lies elsewhere than its volume; or
            volumes have different channels.

    Attributes:
        measures_surfaces: Whether an evaluation is to measure distances between surfaces, too.
    """

    measures_surfaces = True

    def __init__(
        self,
        pairs: Sequence[tuple[Path, Path]],
        *,
        classes: Sequence[str],
        reading: Reading,
        side: int,
        patches: int = 1,
        augment: bool = False,
    ) -> None:
        self.classes = checked_classes(classes)
        self.reading, self.side = reading, side
        self._pairs, self._patches, self._augment = list(pairs), patches, augment
        # Headers only: values are read when they are needed, and volumes may be larger than memory.
        for path, mask in self._pairs:
            _check_pair(read_volume(path), read_volume(mask))
        channels = check_headers([path for path, _ in self._pairs], reading)
        self.sample_shape: tuple[int, ...] = (channels, side, side, side)
        self._places_of: dict[int, list[Tensor]] = {}

    @property
    def channels(self) -> int:
        """C of the volumes."""
        return self.sample_shape[0]

    @property
    def num_volumes(self) -> int:
        """How many volumes there are."""
        return len(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs) * self._patches

    def sample_id(self, index: int) -> str:
        """Return the path of the volume that patch ``index`` is of."""
        return str(self._pairs[index // self._patches][0])

    def volume_id(self, number: int) -> str:
        """Return the path of volume ``number``."""
        return str(self._pairs[number][0])

    def open(self, number: int) -> tuple[Sampled, Volume]:
        """Return volume ``number`` on the grid of the reading, and its mask as it lies in its file."""
        path, mask = self._pairs[number]
        return Sampled(read_volume(path), self.reading), read_volume(mask)

    def ids(self, mask: Volume, start: Sequence[int], stop: Sequence[int]) -> Tensor:
        """Return the ids of a mask from ``start`` up to ``stop``, uint8 (slices, rows, columns).

        Raises:
            ValueError: One is no class.
        """
        found = mask.box(start, stop)[0]
        # Masks that a program stored with a slope come back a little off whole numbers.
        whole = found.round().long()
        off = (whole - found).abs() > _OFF_WHOLE
        known = ((whole >= 0) & (whole < len(self.classes))) | (whole == IGNORED)
        if bool((~known | off).any()):
            raise wrong_ids(mask.path, found[~known | off], len(self.classes))
        return whole.to(torch.uint8)

    def seen(self, sample: Tensor) -> Tensor:
        """Return a patch as people see it, in [0, 1]; see :func:`~nonlocalnn.data.volumes.reading.seen`."""
        return seen(sample)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        number = range(len(self))[index] // self._patches  # its IndexError is what ends iteration
        sampled, mask = self.open(number)
        start = self._drawn(sampled, mask, number)
        patch = padded_box(sampled, start, self.side)
        ids = self._ids_of_patch(sampled, mask, start)
        if self._augment:
            patch, ids = vary_with_mask(patch, ids)
        return patch.contiguous(), ids.contiguous()

    def _drawn(self, sampled: Sampled, mask: Volume, number: int) -> list[int]:
        """Return where a patch begins on the grid; below 0 along an axis that is shorter than it."""
        room = [own - self.side for own in sampled.sides]
        if not self._augment:
            return [free // 2 for free in room]
        if float(torch.rand(())) < 0.5 and (places := self._places(sampled, mask, number)):
            of_class = places[int(torch.randint(len(places), ()))]
            middle = of_class[int(torch.randint(len(of_class), ()))].tolist()
            return [
                min(max(0, place - self.side // 2), free) if free > 0 else free // 2
                for place, free in zip(middle, room, strict=True)
            ]
        return [int(torch.randint(free + 1, ())) if free > 0 else free // 2 for free in room]

    def _places(self, sampled: Sampled, mask: Volume, number: int) -> list[Tensor]:
        """Return of each class that is in a mask places on the grid, (n, 3), at even distances."""
        if number not in self._places_of:
            found: list[Tensor] = []
            ids = self.ids(mask, (0, 0, 0), mask.sides).numpy()
            for each in np.unique(ids[ids != IGNORED]).tolist():
                flat = np.flatnonzero(ids == each)
                some = torch.from_numpy(flat[:: -(-len(flat) // _MOST_PLACES)].copy())
                of_file = torch.stack(torch.unravel_index(some, ids.shape), 1)
                found.append(
                    torch.stack(
                        [sampled.nearest(axis, to_file=False)[of_file[:, axis]] for axis in range(3)], 1
                    )
                )
            self._places_of[number] = found
        return self._places_of[number]

    def _ids_of_patch(self, sampled: Sampled, mask: Volume, start: Sequence[int]) -> Tensor:
        """Return the ids of a patch, each that of the nearest voxel of the file."""
        inside = [
            sampled.nearest(axis, to_file=True)[max(0, first) : max(0, first + self.side)]
            for axis, first in enumerate(start)
        ]
        low = [int(places[0]) for places in inside]
        ids = self.ids(mask, low, [int(places[-1]) + 1 for places in inside])
        for axis, places in enumerate(inside):
            ids = ids.index_select(axis, places - low[axis])
        around = [
            number
            for axis in (2, 1, 0)
            for number in (
                max(0, -start[axis]),
                self.side - max(0, -start[axis]) - len(inside[axis]),
            )
        ]
        return F.pad(ids, around, value=IGNORED) if any(around) else ids


def _check_pair(volume: Volume, mask: Volume) -> None:
    """Check that a mask is of its volume's shape and lies where that does.

    Raises:
        ValueError: It is not.
    """
    if mask.channels != 1:
        raise ValueError(f"{mask.path} must hold one id a voxel; it has {counted(mask.channels, 'channel')}")
    if mask.is_oriented != volume.is_oriented:
        told = mask.path if mask.is_oriented else volume.path
        raise ValueError(
            f"{mask.path} and {volume.path} must both say how the body lies, or neither; only {told} does: "
            "save both as NIfTI"
        )
    if mask.sides != volume.sides:
        of_mask, of_volume = (" x ".join(map(str, each.sides)) for each in (mask, volume))
        raise ValueError(
            f"{mask.path} must be as large as its volume: it has {of_mask} voxels and {volume.path} "
            f"{of_volume} (slices x rows x columns)"
        )
    corners = np.array([[s, r, c, 1] for s in (0, 1) for r in (0, 1) for c in (0, 1)], dtype=np.float64)
    corners[:, :3] *= np.array(volume.sides) - 1
    apart = np.abs(corners @ (mask.affine - volume.affine).T).max()
    if volume.has_spacing and mask.has_spacing and apart > _TOLERANCE:
        raise ValueError(
            f"{mask.path} must lie where its volume does, and its affine puts it up to {apart:.3g} mm away "
            f"from {volume.path}: save the mask with the affine of its volume"
        )


def _check_not_black_and_white(masks: Sequence[Path]) -> None:
    """Check that masks are not of 0 and 255 alone, as programs save two classes: 255 would be ignored.

    Raises:
        ValueError: They are, those that are looked at.
    """
    looked_at = masks[:: max(1, len(masks) // _LOOKED_AT)]
    ignores = False
    for mask in map(read_volume, looked_at):
        slices, rows, columns = mask.sides
        # Slice by slice: most masks show another id soon.
        for first in range(slices):
            ids = mask.box((first, 0, 0), (first + 1, rows, columns)).round()
            ignored = ids == IGNORED
            if bool(((ids != 0) & ~ignored).any()):
                return
            ignores = ignores or bool(ignored.any())
    if ignores:
        raise ValueError(
            f"{looked_at[0]} and the others hold 0 and {IGNORED} alone, and {IGNORED} is ignored: nothing "
            "would be learnt; save the class as 1"
        )


def load_volume_masks(
    data_dir: str | os.PathLike[str] | None,
    split: str,
    *,
    image_size: int | None = None,
    reading: Reading | None = None,
    patches: int = 1,
    augment: bool = False,
) -> MaskedVolumes:
    """Load a split of a folder of volumes with masks.

    Args:
        data_dir: It holds ``images``, ``masks`` and ``classes.txt``, the name of a class a line; or
            ``dataset.json``.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        image_size: Voxels along each axis of a patch; None is 64.
        reading: How volumes are read; None keeps their spacing and normalises each by itself.
        patches: Patches of each volume in a pass over the data.
        augment: See :class:`MaskedVolumes`.

    Raises:
        FileNotFoundError: A folder, ``classes.txt``, or a file that is named is missing.
        ValueError: ``data_dir`` is missing, files do not belong together, or a file is no volume.
    """
    check_choice("split", split, SPLITS)
    side = 64 if image_size is None else image_size
    check_whole("image_size", side, most=_LONGEST)
    check_whole("patches", patches)
    if data_dir is None:
        raise ValueError("'volume-masks' needs data_dir: the folder that holds its images and masks")
    root = Path(data_dir)
    if not root.is_dir():
        raise FileNotFoundError(f"data_dir must be a folder of images and masks; there is no folder {root}")
    # Who made a file of classes meant the folders beside it.
    by_list = is_datalist(root) and not (root / "classes.txt").is_file()
    pairs, classes = read_datalist(root, split) if by_list else find_pairs(root, split, VOLUME_FILES)
    found = MaskedVolumes(
        pairs,
        classes=classes,
        reading=Reading() if reading is None else reading,
        side=side,
        patches=patches,
        augment=augment,
    )
    if split == "train":
        _check_not_black_and_white([mask for _, mask in pairs])
    return found
