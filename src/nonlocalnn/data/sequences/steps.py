"""Sequences with the class of each step: a folder of files of many, or of a file each.

The files lie in the folder, or in its folders ``train``, ``validation`` and ``test``; or are called
``NAME_TRAIN.npz``, ``NAME_TEST.npz`` and perhaps ``NAME_VALIDATION.npz``, without which of every ten training
sequences the fifth is kept for it. Otherwise all sequences are divided by their names: 80 % for training,
10 % for validation and for test. See :mod:`nonlocalnn.data.sequences.step_files` for what a file holds.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from nonlocalnn._errors import check_choice
from nonlocalnn._names import SPLITS
from nonlocalnn.data.folder_files import (
    divided,
    is_ignored,
    split_folder,
    warn_of_passed_over,
    warn_of_unlearnt,
)
from nonlocalnn.data.masks.masked import IGNORED
from nonlocalnn.data.normalization import ChannelValues
from nonlocalnn.data.sequences.dataset import (
    NAME_OF_SPLIT,
    SPLIT_NAMES,
    normalize_sequence,
    statistics_of,
    vary,
)
from nonlocalnn.data.sequences.files import in_order
from nonlocalnn.data.sequences.long_form import Labelled, channel_names, check_classes
from nonlocalnn.data.sequences.padding import pad_batch
from nonlocalnn.data.sequences.step_files import STEP_SUFFIXES, read_steps

# Of every ten training sequences, counted from 0, where there is no file for validation.
_VALIDATION = 4


class LabelledSteps(Dataset[tuple[Tensor, Tensor]]):
    """Sequences of any length, each with the class of its steps.

    ``dataset[i]`` is ``(sequence, ids)``: float32 (C, L), normalised, and uint8 (L,), an index into
    ``classes``, or 255 for a step without a class. The longest sequence gives ``sample_shape``.

    Args:
        found: The sequences, each with its labels.
        classes: Names of the classes, 255 at most.
        augment: Change a sequence at random each time, as
            :class:`~nonlocalnn.data.sequences.dataset.LabelledSequences` does.

    Attributes:
        num_steps: How long each is.
        lengths: The shortest and the longest, in steps.
        channel_names: As CSV files name them, in their order; empty where none does.

    Raises:
        ValueError: There are no sequences, or they have different channels, by number or by name.

    Memory: all sequences.
    """

    mean: ChannelValues = 0.0
    standard_deviation: ChannelValues = 1.0

    def __init__(self, found: Sequence[Labelled], *, classes: Sequence[str], augment: bool = False) -> None:
        if not 1 <= len(classes) <= IGNORED:
            raise ValueError(f"there must be 1 to {IGNORED} classes; got {len(classes)}")
        first = found[0]
        for each in found:
            if len(each.sequence) != len(first.sequence):
                raise ValueError(
                    f"all sequences must have as many channels; {first.name} has {len(first.sequence)}, and "
                    f"{each.name} has {len(each.sequence)}"
                )
        self.classes = tuple(classes)
        self.channel_names = channel_names(found)
        self._found, self._augment = [each.in_order(self.channel_names) for each in found], augment
        self.num_steps = [each.sequence.shape[1] for each in found]
        self.lengths = min(self.num_steps), max(self.num_steps)
        self.sample_shape: tuple[int, ...] = (len(first.sequence), self.lengths[1])
        self._ids = {name: number for number, name in enumerate(classes)}

    @property
    def channels(self) -> int:
        """C of the sequences."""
        return self.sample_shape[0]

    def __len__(self) -> int:
        return len(self._found)

    def sample_id(self, index: int) -> str:
        """Return the file of sequence ``index``, and what it is called there."""
        return self._found[index].name

    def read(self, index: int) -> Tensor:
        """Return sequence ``index`` in the units of its file, (C, L)."""
        return self._found[index].sequence

    def ids(self, index: int) -> Tensor:
        """Return the class of each step of sequence ``index``, uint8 (L,)."""
        labels = self._found[index].labels
        assert labels is not None, "checked where they were read"
        return torch.tensor([self._ids.get(each, IGNORED) for each in labels], dtype=torch.uint8)

    def statistics(self) -> tuple[list[float], list[float]]:
        """Return each channel's mean and standard deviation over all steps of all sequences."""
        return statistics_of(map(self.read, range(len(self))), self.channels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        index = range(len(self))[index]  # its IndexError is what ends iteration
        sample = normalize_sequence(
            self.read(index), mean=self.mean, standard_deviation=self.standard_deviation
        )
        return (vary(sample) if self._augment else sample), self.ids(index)

    def collate(self, items: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """Return a batch: sequences, ids, which are 255 after a sequence's end, and perhaps the lengths."""
        batch, lengths = pad_batch([sequence for sequence, _ in items])
        ids = torch.full((len(items), batch.shape[2]), IGNORED, dtype=torch.uint8)
        for row, (_, own) in zip(ids, items, strict=True):
            row[: len(own)] = own
        return [batch, ids] if lengths is None else [batch, ids, lengths]


def load_steps(
    data_dir: str | os.PathLike[str] | None,
    split: str,
    *,
    augment: bool = False,
    channels: Sequence[str] = (),
) -> LabelledSteps:
    """Load a split of a folder of sequences with the class of each step; the module describes the folder.

    Args:
        data_dir: The folder.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        augment: See :class:`LabelledSteps`.
        channels: Names of the channels in the order that is wanted; left out, the files' own order.

    Returns:
        The split, in the units of the files.

    Raises:
        FileNotFoundError: ``data_dir`` is not a folder.
        ValueError: It is missing, there is no such split, a file cannot be read, a sequence
            has no labels, or a split has none at all.
    """
    check_choice("split", split, SPLITS)
    if data_dir is None:
        raise ValueError("'sequence-labels' needs data_dir: the folder that holds its files")
    root = Path(data_dir)
    if not root.is_dir():
        raise FileNotFoundError(f"data_dir must be a folder of sequences; there is no folder {root}")
    by_split = _by_split(root)
    everything = [each for own in by_split.values() for each in own]
    if not everything:
        raise ValueError(f"{root} holds no sequences: none of its files ends in {' or '.join(STEP_SUFFIXES)}")
    for each in everything:
        if each.labels is None:
            raise ValueError(f"{each.name} has no class for each step: a column label, or y (N, steps)")
        check_classes(each.labels, each.name)
    classes = in_order({label for each in everything for label in each.labels or () if label})
    if not classes:
        raise ValueError(f"no step of the sequences in {root} has a class: label some")
    if not by_split.get(split):
        raise ValueError(
            f"none of the {len(everything)} sequences in {root} falls to {split!r}: add sequences, or divide "
            "them yourself, by folders train, validation and test"
        )
    # Said before the training, and not after it.
    for name, own in by_split.items():
        if own and not any(label for each in own for label in each.labels or ()):
            raise ValueError(f"no step of the sequences for {name!r} in {root} has a class: label some")
    if split == "train":
        taught = {label for each in by_split[split] for label in each.labels or ()}
        warn_of_unlearnt(root, classes, taught, what="steps")
    names = tuple(channels) or channel_names(everything)
    ordered = [each.in_order(names) for each in by_split[split]]
    return LabelledSteps(ordered, classes=classes, augment=augment)


def _by_split(root: Path) -> dict[str, list[Labelled]]:
    """Return the sequences of each split."""
    folders = {split: folder for split in SPLITS if (folder := split_folder(root, split)) is not None}
    if folders:
        warn_of_passed_over(root, _files(root), kind="in the folder of a split")
        return {split: _sequences_in(folder) for split, folder in folders.items()}
    files = _files(root)
    named = {path: match for path in files if (match := NAME_OF_SPLIT.fullmatch(path.stem)) is not None}
    if not named:
        found = _sequences_in(root)
        # By names without the folder, so that a sequence keeps its split on every machine.
        names = [each.name.removeprefix(f"{root}{os.sep}") for each in found]
        splits = divided(names, [0] * len(names))
        return {
            split: [each for each, own in zip(found, splits, strict=True) if own == split] for split in SPLITS
        }
    warn_of_passed_over(root, [path for path in files if path not in named], kind="files of a split")
    by_split: dict[str, list[Labelled]] = {split: [] for split in SPLITS}
    for path, match in named.items():
        by_split[SPLIT_NAMES[match[2].lower()]] += read_steps(path)
    if not by_split["validation"]:
        train = by_split["train"]
        # Of fewer than five the last one.
        kept = set(range(_VALIDATION, len(train), 10)) or set(range(len(train))[1:][-1:])
        by_split["validation"] = [each for place, each in enumerate(train) if place in kept]
        by_split["train"] = [each for place, each in enumerate(train) if place not in kept]
    return by_split


def _files(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in STEP_SUFFIXES and path.is_file() and not is_ignored(path)
    ]


def _sequences_in(folder: Path) -> list[Labelled]:
    files = _files(folder)
    left = [path for path in sorted(folder.iterdir()) if path not in set(files)]
    warn_of_passed_over(folder, left, kind="sequences with labels")
    return [each for path in files for each in read_steps(path)]
