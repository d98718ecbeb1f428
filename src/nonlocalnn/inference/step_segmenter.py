"""A trained network that labels the steps of sequences, together with what it expects."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nonlocalnn._device import Precision, autocast_for
from nonlocalnn._errors import counted
from nonlocalnn._names import STEP_SETS
from nonlocalnn.data.sequences.dataset import normalize_sequence
from nonlocalnn.data.sequences.files import find_sequence_files, parts_of
from nonlocalnn.data.sequences.long_form import names_columns
from nonlocalnn.data.sequences.step_files import STEP_SUFFIXES, is_step_file, read_steps
from nonlocalnn.data.sequences.steps import LabelledSteps, load_steps
from nonlocalnn.inference.segmenter import Segmented, Segmenter
from nonlocalnn.tasks.inputs import Facts, InputKind, ShownInput, check_place
from nonlocalnn.tasks.sequences import Sequences
from nonlocalnn.tasks.step_labels import check_step_scores


@dataclass(frozen=True, kw_only=True)
class StepSegmenter(Segmenter):
    """A network that labels the steps of sequences, and what it was trained on; see :class:`Segmenter`.

    Args:
        sample_shape: (C, N) of the longest sequence of training; it takes sequences of any length.
        mean: What becomes 0, in the units of the files; one number, or one for each channel.
        standard_deviation: What becomes a distance of 1, of the same.
        channel_names: Of CSV files of training: columns of others are brought into this order; empty where
            there were none.

    Example:
        >>> from nonlocalnn.models import create_model
        >>> model = create_model("nl_unet1d_tiny", in_channels=2).eval()
        >>> segmenter = StepSegmenter(model=model, classes=("rest", "walk"), sample_shape=(2, 64))
        >>> segmenter.labels(torch.rand(2, 50)).shape
        torch.Size([50])
    """

    channel_names: tuple[str, ...] = ()

    @property
    def kind(self) -> InputKind:
        """What it takes: sequences."""
        return Sequences()

    def facts(self) -> dict[str, Any]:
        """See :meth:`Segmenter.facts`; where training had them, with the names of the channels."""
        named = {"channel_names": list(self.channel_names)} if self.channel_names else {}
        return {**super().facts(), **named}

    def load_dataset(  # type: ignore[override]  # of sequences in place of images
        self, name: str, split: str, *, data_dir: str | os.PathLike[str] | None = None
    ) -> LabelledSteps:
        """Return a split of a data set of sequences with labelled steps, normalised as in training.

        Args:
            name: "sequence-labels".
            split: "train", "validation" or "test".
            data_dir: Where the files are; None is where those of the training were.

        Raises:
            ValueError: The data set is of something else, or its sequences have other channels.
        """
        if name not in STEP_SETS:
            raise ValueError(
                f"the model was trained to label steps of sequences, and {name!r} has none: choose "
                f"{', '.join(STEP_SETS)}"
            )
        data = load_steps(self.folder(name, data_dir), split, channels=self.channel_names)
        self.check_channels(name, data.channels)
        if self._is_scaled:
            data.mean, data.standard_deviation = self.mean, self.standard_deviation
        return data

    @property
    def _is_scaled(self) -> bool:
        return (self.mean, self.standard_deviation) != (0.0, 255.0)

    def find(self, inputs: Iterable[str | os.PathLike[str]]) -> list[Path]:
        """Return the sequences among ``inputs`` and in the folders among them: FILE#ID of files of many."""
        found: list[Path] = []
        for path in find_sequence_files(inputs):
            found += [Path(each.name) for each in read_steps(path)] if _is_long(path) else parts_of(path)
        return found

    def read(self, path: str | os.PathLike[str]) -> Tensor:
        """Return a sequence in the units of its file, (C, L), without its labels if it has some.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It cannot be read, or has other channels than the model takes.
        """
        text = os.fspath(path)
        file = Path(text if Path(text).exists() else text.rpartition("#")[0] or text)
        if _is_long(file):
            found = {each.name: each for each in read_steps(file)}
            if text == str(file) and len(found) == 1:
                text = next(iter(found))
            if text not in found:
                raise ValueError(
                    f"{file} holds {len(found)} sequences: name one, as {next(iter(found))}; got {text}"
                )
            sequence = found[text].in_order(self.channel_names).sequence
            self._check_channels(len(sequence), text)
            return sequence
        # Without a scale: in the units of the file.
        facts = Facts(classes=self.classes, sample_shape=self.sample_shape)
        (sequence,) = Sequences().read(Path(text), facts)
        return sequence

    def _check_channels(self, number: int, name: str) -> None:
        if number != self.sample_shape[0]:
            own = counted(self.sample_shape[0], "channel")
            raise ValueError(f"{name} must have {own} for this model; got {number}")

    def sample(self, image: Tensor) -> Tensor:
        """Return a sequence, (C, L) in the units of the files, as the network takes it."""
        if not self._is_scaled:
            return image
        return normalize_sequence(image, mean=self.mean, standard_deviation=self.standard_deviation)

    def show(self, path: str | os.PathLike[str]) -> ShownInput:
        """Return a sequence as the network takes it, each channel in the training's standard deviations.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It cannot be read.
        """
        sample = self.sample(self.read(path))
        file, _, part = Path(path).name.partition("#")
        name = f"{Path(file).stem}-{part}{Path(file).suffix}" if part else file
        return ShownInput(name=name, sample=sample, pixels=sample, channel_names=self.channel_names)

    def take(self, dataset: Any, index: int, *, split: str) -> ShownInput:
        """Return sequence ``index`` of a split of :meth:`load_dataset`, as :meth:`show` does a file.

        Raises:
            ValueError: There is no such sequence.
        """
        check_place(index, len(dataset))
        sample, _ = dataset[index]
        return ShownInput(
            name=f"{split}-{index}", sample=sample, pixels=sample, channel_names=self.channel_names
        )

    @torch.no_grad()
    def labels(self, image: Tensor, *, window: int | None = None, precision: Precision = "fp32") -> Tensor:
        """Return the class of each step of a sequence, int64 (L,), on the CPU.

        Args:
            image: (C, L), in the units of the files of the training.
            window: None: a sequence is looked at whole.
            precision: "fp32", "bf16" or "fp16".

        Raises:
            ValueError: It is no such sequence, the answer is not finite, or a window is given.
        """
        if window is not None:
            raise ValueError("window has no effect on sequences, which are looked at whole: leave it out")
        if image.dim() != 2:
            raise ValueError(f"a sequence must be (C, L); got shape {tuple(image.shape)}")
        self._check_channels(len(image), "a sequence")
        x = self.sample(image).unsqueeze(0).to(self.device)
        with autocast_for(precision, x.device):
            scores = self.model(x)
        check_step_scores(scores, len(self.classes), (1, image.shape[1]))
        return scores[0].argmax(0).cpu()

    def _segmented(self, path: Path, *, window: int | None, precision: Precision) -> Segmented:
        sequence = self.read(path)
        labels = self.labels(sequence, window=window, precision=precision)
        return Segmented(path, self.sample(sequence), labels)


def _is_long(path: Path) -> bool:
    """Return whether a file has labels, or columns with names: those of time are no channels."""
    return path.suffix.lower() in STEP_SUFFIXES and (is_step_file(path) or names_columns(path))
