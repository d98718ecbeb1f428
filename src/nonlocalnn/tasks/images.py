"""Images: files of any format, stretched to the network's size."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from nonlocalnn.data import IMAGE_SETS, LabelledSamples, load_dataset, read_image
from nonlocalnn.data.image_folders import find_images
from nonlocalnn.data.labelled import resize_image
from nonlocalnn.data.normalization import normalize_image
from nonlocalnn.tasks.inputs import Facts, InputKind, ShownInput, shown_image
from nonlocalnn.tasks.networks import named_network
from nonlocalnn.tasks.recipe import Recipe

# Data sets of 28 x 28 grey pixels.
_SMALL_SETS = ("digits", "mnist", "fashion-mnist")


class Images(InputKind):
    """Samples (C, H, W)."""

    name = "image"
    samples = "images"
    num_sides = 2
    datasets = (*_SMALL_SETS, *IMAGE_SETS)
    of_files = IMAGE_SETS

    def network_for(self, data: str) -> str:
        """See :meth:`InputKind.network_for`: the digit network is one of 28 x 28 pixels."""
        return "nl_digits" if data in _SMALL_SETS else "nl2_resnet_tiny"

    def dataset(self, recipe: Recipe, split: str) -> LabelledSamples:
        """See :meth:`InputKind.dataset`: of the size and normalisation of another library's network."""
        assert recipe.model is not None, "a task fills it in"
        network = named_network(recipe.model)
        if network.is_ours:
            return super().dataset(recipe, split)
        size = network.sample_shape[-1] if recipe.image_size is None else recipe.image_size
        data = super().dataset(replace(recipe, image_size=size), split)
        return data.normalize(**network.scale_for(data.channels))

    def metadata(self, recipe: Recipe, data: LabelledSamples) -> dict[str, Any]:
        """See :meth:`InputKind.metadata`: the normalisation, where there is one."""
        scale = {"mean": data.mean, "standard_deviation": data.standard_deviation}
        return {} if tuple(scale.values()) == (0.0, 255.0) else scale

    def test_data(self, facts: Facts, name: str, split: str, settings: dict[str, Any]) -> LabelledSamples:
        """See :meth:`InputKind.test_data`: of the network's size and channels, and normalised for it."""
        channels = facts.channels if name in IMAGE_SETS else None
        data = load_dataset(name, split, image_size=facts.image_size, channels=channels, **settings)
        return data.normalize(facts.mean, facts.standard_deviation)

    def find(self, inputs: Iterable[str | os.PathLike[str]]) -> list[Path]:
        """See :meth:`InputKind.find`."""
        return find_images(inputs)

    def read(self, path: Path, facts: Facts, *, views: int | None = None) -> Tensor:
        """See :meth:`InputKind.read`: float32 (1, C, H, W), in [0, 1]."""
        return read_image(path, image_size=facts.image_size, channels=facts.channels).unsqueeze(0)

    def prepare(self, read: Tensor, facts: Facts) -> Tensor:
        """See :meth:`InputKind.prepare`."""
        return normalize_image(read, mean=facts.mean, standard_deviation=facts.standard_deviation)

    def show(self, path: Path, facts: Facts, *, whole: bool) -> ShownInput:
        """See :meth:`InputKind.show`: stretched to the network's size, unless it is to be whole."""
        own = read_image(path, image_size=None, channels=facts.channels)
        height, width = own.shape[1:]
        size = facts.image_size
        if whole:
            short, side = min(height, width), min(size)
            size = height * side // short, width * side // short
        pixels = resize_image(own, size)
        return shown_image(path, own, self.prepare(pixels, facts), pixels)
