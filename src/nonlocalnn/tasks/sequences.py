"""Sequences: files of numbers of any length, and generated ones."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from nonlocalnn._errors import counted
from nonlocalnn.data import LabelledSamples, load_dataset
from nonlocalnn.data.sequences.dataset import LabelledSequences, normalize_sequence
from nonlocalnn.data.sequences.files import SEQUENCE_SUFFIXES, find_sequences, place_of, read_sequence
from nonlocalnn.tasks.inputs import Facts, InputKind, ShownInput
from nonlocalnn.tasks.recipe import Recipe


class Sequences(InputKind):
    """Samples (C, N), of files each of its own length.

    A channel of files is normalised by the mean and the standard deviation that it has in the training data,
    which a checkpoint remembers.
    """

    name = "sequence"
    samples = "sequences"
    num_sides = 1
    datasets = ("cue-sequence", "sequences")

    def network_for(self, data: str) -> str:
        """See :meth:`InputKind.network_for`."""
        return "nl2_resnet1d_tiny" if data == "sequences" else "nl2_c1d_tiny"

    def check(self, recipe: Recipe) -> None:
        """See :meth:`InputKind.check`: sequences have no size in pixels."""
        if recipe.data == "sequences" and recipe.image_size is not None:
            raise ValueError("image_size applies to images and videos, and not to 'sequences': leave it out")

    def dataset(self, recipe: Recipe, split: str) -> LabelledSamples:
        """See :meth:`InputKind.dataset`: of files normalised by the training split."""
        data = super().dataset(recipe, split)
        if not isinstance(data, LabelledSequences):
            return data
        training = data if split == "train" else super().dataset(recipe, "train")
        assert isinstance(training, LabelledSequences)
        data.order_channels(training.channel_names)
        if data.channels != training.channels:
            raise ValueError(
                f"all sequences must have as many channels; those for training have {training.channels}, and "
                f"those of {split!r} {data.channels}"
            )
        return data.normalize(*training.statistics())

    def metadata(self, recipe: Recipe, data: LabelledSamples) -> dict[str, Any]:
        """See :meth:`InputKind.metadata`: the normalisation and the channels of files, and their lengths."""
        if not isinstance(data, LabelledSequences):
            return {}
        return {
            "mean": data.mean,
            "standard_deviation": data.standard_deviation,
            "lengths": list(data.lengths),
            "channel_names": list(data.channel_names),
        }

    def test_data(self, facts: Facts, name: str, split: str, settings: dict[str, Any]) -> LabelledSamples:
        """See :meth:`InputKind.test_data`."""
        data = load_dataset(name, split, **settings)
        if not isinstance(data, LabelledSequences):
            return data
        data.order_channels(facts.channel_names)
        if not facts.is_scaled:
            return data
        if data.channels != facts.channels:
            own = counted(facts.channels, "channel")
            raise ValueError(f"the model takes {own}, and {name!r} has {data.channels}")
        return data.normalize(facts.mean, facts.standard_deviation)

    def find(self, inputs: Iterable[str | os.PathLike[str]]) -> list[Path]:
        """See :meth:`InputKind.find`: each sequence of a file of many is FILE#NUMBER."""
        return find_sequences(inputs)

    def exists(self, path: Path) -> bool:
        """See :meth:`InputKind.exists`."""
        return place_of(path)[0].exists()

    def read(self, path: Path, facts: Facts, *, views: int | None = None) -> Tensor:
        """See :meth:`InputKind.read`: float32 (1, C, N), as a network takes it.

        Normalised already, so that what a shorter one is padded with is 0 after it.
        """
        file = place_of(path)[0]
        if file.exists() and file.suffix.lower() not in SEQUENCE_SUFFIXES:
            raise ValueError(
                f"{path} is no sequence ({', '.join(SEQUENCE_SUFFIXES)}), and this model takes sequences"
            )
        sequence = read_sequence(path, channels=facts.channel_names)
        if len(sequence) != facts.channels:
            raise ValueError(
                f"{path} must have {counted(facts.channels, 'channel')} for this model; got {len(sequence)}"
            )
        if facts.is_scaled:
            sequence = normalize_sequence(
                sequence, mean=facts.mean, standard_deviation=facts.standard_deviation
            )
        return sequence.unsqueeze(0)

    def prepare(self, read: Tensor, facts: Facts) -> Tensor:
        """See :meth:`InputKind.prepare`."""
        return read

    def take(self, dataset: LabelledSamples, index: int, taken: ShownInput) -> ShownInput:
        """See :meth:`InputKind.take`: what its channels are called."""
        if not isinstance(dataset, LabelledSequences):
            return taken
        return replace(taken, channel_names=dataset.channel_names)

    def show(self, path: Path, facts: Facts, *, whole: bool) -> ShownInput:
        """See :meth:`InputKind.show`: always whole, each channel in the training's standard deviations."""
        (sample,) = self.read(path, facts)
        file, number = place_of(path)
        name = file.name if number is None else f"{file.stem}-{number}{file.suffix}"
        return ShownInput(name=name, sample=sample, pixels=sample, channel_names=facts.channel_names)
