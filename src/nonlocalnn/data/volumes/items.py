"""Volumes that are in memory already: tensors with an affine, and MONAI's dictionaries of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nonlocalnn.data.volumes.volume import Volume, canonical

_IN_MEMORY = Path("a tensor")


def is_item(value: Any) -> bool:
    """Return whether a value is a dictionary, or a tensor that says where its voxels lie.

    Example:
        >>> is_item({"image": torch.zeros(1, 2, 3, 4)}), is_item(torch.zeros(1, 2, 3, 4))
        (True, False)
    """
    return isinstance(value, Mapping) or getattr(value, "affine", None) is not None


def volume_of(item: Any, *, key: str = "image") -> Volume:
    """Return the volume that an item of MONAI's transforms holds, its axes in the order of `Volume`.

    Args:
        item: A dictionary with a tensor under ``key``, or the tensor itself: (C, X, Y, Z), as MONAI has it.
            Where its voxels lie says its ``affine``, as a MetaTensor's, (4, 4) to millimetres, or
            ``item["image_meta_dict"]["affine"]``.
        key: See there.

    Raises:
        ValueError: There is no such entry, the tensor has other axes, or it does not say where voxels lie.
        TypeError: The entry is no tensor.

    Example:
        >>> item = {"image": torch.rand(1, 5, 4, 3), "image_meta_dict": {"affine": np.diag([1, 1, 3, 1])}}
        >>> volume = volume_of(item)
        >>> volume.sides, volume.spacing
        ((3, 4, 5), (3.0, 1.0, 1.0))
    """
    facts: Mapping[str, Any] = {}
    tensor = item
    if isinstance(item, Mapping):
        if key not in item:
            raise ValueError(f"the dictionary must have {key!r}; it has {', '.join(map(str, item))[:80]}")
        tensor, facts = item[key], item.get(f"{key}_meta_dict") or {}
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{key!r} must be a tensor, (C, X, Y, Z); got {type(tensor).__name__}")
    facts = facts or getattr(tensor, "meta", None) or {}
    affine = getattr(tensor, "affine", facts.get("affine"))
    # Plain tensors from here on: MONAI's type would carry its affine through every step.
    numbers = tensor.detach().cpu().as_subclass(Tensor)
    if numbers.dim() != 4:
        raise ValueError(
            f"{key!r} must be one volume, (C, X, Y, Z); got shape {tuple(numbers.shape)}: take a batch apart "
            "with monai.data.decollate_batch, and add channels with EnsureChannelFirst"
        )
    if affine is None:
        raise ValueError(
            f"{key!r} must say where its voxels lie, by an affine, as MetaTensor does; it has none: give a "
            "plain tensor, (C, slices, rows, columns), of voxels of 1 mm"
        )
    placed = torch.as_tensor(affine).cpu().double().numpy()
    # DICOM counts towards left and back, MONAI as NIfTI does unless it is told so.
    if str(facts.get("space", "RAS")).upper().endswith("LPS"):
        placed = np.diag([-1.0, -1.0, 1.0, 1.0]) @ placed
    each = [canonical(channel, placed, _IN_MEMORY) for channel in numbers.numpy()]
    return replace(each[0], stored=np.concatenate([volume.stored for volume in each]))
