"""Volumes: files of CT, MR and microscopy, brought to a cube of voxels."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from nonlocalnn._errors import counted
from nonlocalnn.affinity.pictures.planes import Planes
from nonlocalnn.data import LabelledSamples, load_dataset
from nonlocalnn.data.volumes.dataset import LabelledVolumes, as_cube, cube_of
from nonlocalnn.data.volumes.files import VOLUME_SUFFIXES, find_volumes, is_volume, read_volume
from nonlocalnn.data.volumes.reading import Reading, Sampled, seen
from nonlocalnn.data.volumes.volume import Volume
from nonlocalnn.tasks.inputs import Facts, InputKind, ShownInput
from nonlocalnn.tasks.networks import named_network
from nonlocalnn.tasks.recipe import Recipe


class Volumes(InputKind):
    """Samples (C, slices, rows, columns), cubes that are cut out of files of any size."""

    name = "volume"
    samples = "volumes"
    num_sides = 3
    datasets = ("volumes",)
    of_files = ("volumes",)
    batch_size = 8

    def network_for(self, data: str) -> str:
        """See :meth:`InputKind.network_for`."""
        return "nl2_resnet3d_tiny"

    def check(self, recipe: Recipe) -> None:
        """See :meth:`InputKind.check`: patches are of volumes with masks."""
        if recipe.patches is not None:
            raise ValueError(
                "patches has an effect only on volumes with masks, data 'volume-masks'; got data='volumes': "
                "leave it out"
            )

        if recipe.channels is not None:
            raise ValueError("channels has no effect on 'volumes', which keep their own: leave it out")

    def completed(self, recipe: Recipe) -> Recipe:
        """See :meth:`InputKind.completed`: with a network alone, of the size that it is meant for."""
        if recipe.model is None or recipe.image_size is not None:
            return super().completed(recipe)
        return replace(recipe, image_size=named_network(recipe.model).sample_shape[-1])

    def dataset(self, recipe: Recipe, split: str) -> LabelledSamples:
        """See :meth:`InputKind.dataset`."""
        return load_dataset(
            recipe.data,
            split,
            data_dir=recipe.data_dir,
            image_size=recipe.image_size,
            augment=recipe.augment and split == "train",
            spacing=recipe.spacing,
            intensity=recipe.intensity,
        )

    def metadata(self, recipe: Recipe, data: LabelledSamples) -> dict[str, Any]:
        """See :meth:`InputKind.metadata`: how volumes are read."""
        return {"volume": Reading(recipe.spacing, recipe.intensity).to_dict()}

    def test_data(self, facts: Facts, name: str, split: str, settings: dict[str, Any]) -> LabelledSamples:
        """See :meth:`InputKind.test_data`: read as in training."""
        reading = _reading(facts)
        return load_dataset(
            name,
            split,
            image_size=facts.sample_shape[-1],
            spacing=reading.spacing,
            intensity=reading.intensity,
            **settings,
        )

    def find(self, inputs: Iterable[str | os.PathLike[str]]) -> list[Path]:
        """See :meth:`InputKind.find`: a folder of DICOM slices is one volume."""
        return find_volumes(inputs)

    def read(self, path: Path, facts: Facts, *, views: int | None = None) -> Tensor:
        """See :meth:`InputKind.read`: float32 (1, C, D, H, W), normalised already."""
        volume = volume_for(path, facts.channels)
        return as_cube(volume, _reading(facts), facts.sample_shape[-1]).unsqueeze(0)

    def prepare(self, read: Tensor, facts: Facts) -> Tensor:
        """See :meth:`InputKind.prepare`."""
        return read

    def show(self, path: Path, facts: Facts, *, whole: bool) -> ShownInput:
        """See :meth:`InputKind.show`: always the cube that the network sees."""
        if whole:
            raise ValueError("--whole has no effect on volumes, which a network sees as a cube: leave it out")
        return shown_cube(volume_for(path, facts.channels), _reading(facts), facts.sample_shape[-1])

    def take(self, dataset: LabelledSamples, index: int, taken: ShownInput) -> ShownInput:
        """See :meth:`InputKind.take`: with the places of its voxels."""
        assert isinstance(dataset, LabelledVolumes)
        cube = shown_cube(dataset.volume(index), dataset.reading, dataset.sample_shape[-1])
        return replace(taken, planes=cube.planes)


def _reading(facts: Facts) -> Reading:
    return Reading() if facts.volume is None else facts.volume


def volume_for(path: Path, channels: int) -> Volume:
    """Return the volume in a file, where a network of so many channels takes it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no volume, or has other channels.
    """
    if path.exists() and not is_volume(path):
        raise ValueError(
            f"{path} is no volume ({', '.join(VOLUME_SUFFIXES)}, or a folder of DICOM slices), and this "
            "model takes volumes"
        )
    volume = read_volume(path)
    if volume.channels != channels:
        raise ValueError(
            f"{path} must have {counted(channels, 'channel')} for this model; got {volume.channels}"
        )
    return volume


def shown_cube(volume: Volume, reading: Reading, side: int) -> ShownInput:
    """Return a volume as a classifier takes it, and as it looks."""
    sampled, start = cube_of(volume, reading, side)
    sample = as_cube(volume, reading, side)
    return ShownInput(
        name=volume.path.name, sample=sample, pixels=seen(sample), planes=planes_of(sampled, start)
    )


def planes_of(sampled: Sampled, start: Iterable[int]) -> Planes:
    """Return where the voxels of a part of a grid lie, which begins at ``start``."""
    to_part = np.eye(4)
    to_part[:3, 3] = list(start)
    affine = sampled.affine @ to_part
    return Planes(
        affine=tuple(tuple(row) for row in affine[:3].tolist()),
        is_oriented=sampled.volume.is_oriented,
        has_spacing=sampled.volume.has_spacing,
    )
