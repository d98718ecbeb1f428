"""Your own sequences: a folder with a sub-folder per class, or files of many as the UCR archive names them.

A sub-folder per class is read as that of images (:mod:`nonlocalnn.data.image_folders`), splits and all, with
a ``.npy``, ``.npz``, ``.csv`` or ``.parquet`` file a sequence. Otherwise the folder holds files of many
sequences, ``.ts``, ``.npz``, or ``.csv`` and ``.parquet`` in long form::

    data_dir/Vowels_TRAIN.ts    data_dir/Vowels_TEST.ts    data_dir/Vowels_VALIDATION.ts (may be missing)

Without a file for validation, of every ten training sequences of a class the fifth is kept for it. One file
alone is divided so, too: of every ten of a class the fifth is for validation and the tenth for the test.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from nonlocalnn._errors import check_choice
from nonlocalnn._names import SPLITS
from nonlocalnn.data.folder_files import is_ignored, warn_of_passed_over, warn_of_unlearnt
from nonlocalnn.data.image_folders import labelled_files
from nonlocalnn.data.labelled import Batch, LabelledSamples
from nonlocalnn.data.normalization import ChannelValues
from nonlocalnn.data.sequences.files import (
    ONE_SUFFIXES,
    Table,
    holds_many,
    is_one,
    read_named,
    read_table,
)
from nonlocalnn.data.sequences.long_form import Labelled, check_names
from nonlocalnn.data.sequences.padding import pad_batch

SPLIT_NAMES = {"train": "train", "test": "test", "validation": "validation", "val": "validation"}
NAME_OF_SPLIT = re.compile(r"(.+)_(train|test|validation|val)", re.IGNORECASE)
# Of every ten sequences of a class, counted from 0: one each for what a folder has no file of.
_VALIDATION, _TEST = 4, 9


class LabelledSequences(LabelledSamples):
    r"""Sequences of any length, each with its class; see :class:`~nonlocalnn.data.labelled.LabelledSamples`.

    A sample is float32 (C, L), of its own L, in the files' units until :meth:`normalize` was called. The
    longest one gives ``sample_shape``.

    Args:
        sequences: Each one, or the file to read it from.
        ids: The name of each.
        classes: Names of the classes, in the order of the targets.
        targets: The class index of each.
        augment: Whether a sequence is changed at random each time that it is read: each channel is scaled by
            a factor from 0.9 to 1.1, and noise with a standard deviation of 0.05 is added, which is little
            once channels are normalised.

    Attributes:
        num_steps: How long each is.
        lengths: The shortest and the longest, in steps.
        channel_names: As the first file with names has them; empty where none has.

    Raises:
        ValueError: There is none, one cannot be read, or they have different channels, by number or by name.

    Memory: the sequences that are no files.
    """

    kind = "sequences"
    any_length = True
    evaluation_batch = 64
    standard_deviation: ChannelValues = 1.0

    def __init__(
        self,
        sequences: Sequence[Labelled | Path],
        *,
        ids: Sequence[str],
        classes: Sequence[str],
        targets: Sequence[int],
        augment: bool = False,
    ) -> None:
        self._sequences = list(sequences)
        self._ids = list(ids)
        self.channel_names: tuple[str, ...] = ()
        shapes = []
        # All are read now, so that a file that cannot be is heard of before the training.
        for name, found in zip(ids, sequences, strict=True):
            one = found if isinstance(found, Labelled) else read_named(found)
            if one.channels and not self.channel_names:
                self.channel_names, self._named_by = one.channels, name
            shape = one.in_order(self.channel_names).sequence.shape
            shapes.append(shape)
            if shape[0] != shapes[0][0]:
                raise ValueError(
                    f"all sequences must have as many channels; {ids[0]} has {shapes[0][0]}, and {name} has "
                    f"{shape[0]}"
                )
        self.num_steps = [shape[1] for shape in shapes]
        self.lengths = min(self.num_steps), max(self.num_steps)
        super().__init__(
            classes=classes,
            sample_shape=(shapes[0][0], self.lengths[1]),
            targets=targets,
            transform=vary if augment else None,
        )

    def order_channels(self, names: Sequence[str]) -> Self:
        """Bring the channels into the order of these names, where files have names, and return the split.

        Raises:
            ValueError: They have other names.
        """
        if names and self.channel_names:
            check_names(self.channel_names, names, self._named_by)
            self.channel_names = tuple(names)
        return self

    def read(self, index: int) -> Tensor:
        """Return sequence ``index`` in the units of its file: float32 (C, L)."""
        found = self._sequences[index]
        one = found if isinstance(found, Labelled) else read_named(found)
        return one.in_order(self.channel_names).sequence

    def sample_id(self, index: int) -> str:
        """See :meth:`LabelledSamples.sample_id`: the path of its file, and its number in a file of many."""
        return self._ids[index]

    def statistics(self) -> tuple[list[float], list[float]]:
        """Return each channel's mean and standard deviation over all steps of all sequences.

        The deviation of a channel that never changes is given as 1: there is nothing to scale.
        """
        return statistics_of(map(self.read, range(len(self))), self.channels)

    def pixels(self, sample: Tensor) -> Tensor:
        """Return a sample as people see it: as the network does, each channel in standard deviations."""
        return sample

    def collate(self, items: Sequence[tuple[Tensor, int | Tensor]]) -> Batch:
        """Return items as one batch: sequences, targets, and where they differ the lengths.

        See :func:`~nonlocalnn.data.sequences.padding.pad_batch`.
        """
        batch, lengths = pad_batch([sample for sample, _ in items])
        targets = torch.tensor([target for _, target in items])
        return [batch, targets] if lengths is None else [batch, targets, lengths]

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor]:
        target = self.targets[index]  # first, because its IndexError is what ends iteration
        sample = normalize_sequence(
            self.read(index), mean=self.mean, standard_deviation=self.standard_deviation
        )
        return sample if self._transform is None else self._transform(sample), target


def statistics_of(sequences: Iterable[Tensor], channels: int) -> tuple[list[float], list[float]]:
    """Return each channel's mean and deviation over all steps; see :meth:`LabelledSequences.statistics`.

    Example:
        >>> statistics_of([torch.tensor([[0.0, 2.0]]), torch.tensor([[4.0]])], 1)[0]
        [2.0]
    """
    number, mean, squares = 0, torch.zeros(channels).double(), torch.zeros(channels).double()
    for sequence in sequences:
        values = sequence.double()
        # Sums of squares are of what is left after each mean: differences of large sums would lose it.
        own, count = values.mean(1), values.shape[1]
        shift, total = own - mean, number + count
        squares += (values - own[:, None]).square().sum(1) + shift.square() * (number * count / total)
        mean, number = mean + shift * (count / total), total
    deviation = (squares / number).sqrt()
    # What float32 cannot tell from no change is none.
    return mean.tolist(), torch.where(deviation > 1e-7 * mean.abs(), deviation, 1.0).tolist()


def normalize_sequence(sequence: Tensor, *, mean: ChannelValues, standard_deviation: ChannelValues) -> Tensor:
    """Return (sequence - mean) / standard_deviation, in the units of the file.

    Args:
        sequence: (C, L).
        mean: One number, or one for each channel.
        standard_deviation: The same.

    Example:
        >>> normalize_sequence(torch.tensor([[1.0, 5.0]]), mean=[3.0], standard_deviation=[2.0])
        tensor([[-1.,  1.]])
    """
    shift, factor = (torch.tensor(value).view(-1, 1) for value in (mean, standard_deviation))
    return (sequence - shift) / factor


def vary(sequence: Tensor) -> Tensor:
    """Return a normalised sequence changed at random, by torch's global random numbers alone."""
    factors = 0.9 + 0.2 * torch.rand(len(sequence), 1)
    return sequence * factors + 0.05 * torch.randn(sequence.shape)


def load_sequences(
    data_dir: str | os.PathLike[str], split: str, *, augment: bool = False
) -> LabelledSequences:
    """Load a split of a folder of sequences; the module describes the folder.

    Args:
        data_dir: The folder.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        augment: See :class:`LabelledSequences`.

    Returns:
        The split, in the units of the files.

    Raises:
        FileNotFoundError: ``data_dir`` is not a folder.
        ValueError: There is no such split or no class, the folder is none of these kinds, or a sequence
            cannot be read.
    """
    check_choice("split", split, SPLITS)
    root = Path(data_dir)
    if not root.is_dir():
        raise FileNotFoundError(f"data_dir must be a folder of sequences; there is no folder {root}")
    files = _files_of_splits(root)
    if not files:
        if not any(entry.is_dir() for entry in root.iterdir()):
            raise ValueError(
                f"{root} must hold one folder per class, or files of many sequences, one or one a split: "
                ".ts, .npz with X and y, or tables with the columns id and label"
            )
        what = f"no sequence ({', '.join(ONE_SUFFIXES)})"
        paths, numbers, names = labelled_files(root, split, is_one, kind="sequences", what=what)
        return LabelledSequences(
            paths, ids=list(map(str, paths)), classes=names, targets=numbers, augment=augment
        )
    file, takes = _source(files, split, root)
    table, classes = read_table(file), _classes(files)
    targets = _targets(table, classes, file)
    indices = [index for index, place in enumerate(_places(targets)) if takes(place)]
    if not indices:
        raise ValueError(
            f"{file} holds too few sequences of a class to divide them: no class has one for {split!r}; put "
            f"some into a file of their own, as {_beside(file, split)}"
        )
    if split == "train":
        taught = {classes[targets[index]] for index in indices}
        warn_of_unlearnt(root, classes, taught, what="sequences")
    return LabelledSequences(
        [Labelled(f"{file}#{index}", table.sequences[index], None, table.channels) for index in indices],
        ids=[f"{file}#{index}" for index in indices],
        classes=classes,
        targets=[targets[index] for index in indices],
        augment=augment,
    )


def _files_of_splits(root: Path) -> dict[str, Path]:
    """Return the files of many sequences in a folder by their splits; one alone is all of them, "".

    Raises:
        ValueError: Two are for one split, or of two data sets.
    """
    there = sorted(entry for entry in root.iterdir() if _is_of_many(entry))
    found: dict[str, Path] = {}
    names = set()
    for path in there:
        named = NAME_OF_SPLIT.fullmatch(path.stem)
        if named is None:
            continue
        split = SPLIT_NAMES[named[2].lower()]
        names.add(named[1])
        if split in found or len(names) > 1:
            raise ValueError(
                f"{root} must hold the files of one data set, one a split; got {found[min(found)].name} and "
                f"{path.name}"
            )
        found[split] = path
    if found:
        left = [path for path in there if path not in found.values()]
        warn_of_passed_over(root, left, kind="files of a split")
    elif len(there) == 1 and not any(entry.is_dir() for entry in root.iterdir()):
        return {"": there[0]}
    return found


def _is_of_many(entry: Path) -> bool:
    if is_ignored(entry) or entry.is_dir():
        return False
    try:
        return holds_many(entry)
    # What is wrong with a damaged archive is said where it is read.
    except ValueError:
        return True


def _source(files: dict[str, Path], split: str, root: Path) -> tuple[Path, Callable[[int], bool]]:
    """Return the file that a split is in, and which of every ten sequences of a class are of it."""
    if "" in files:
        own = {"validation": _VALIDATION, "test": _TEST}.get(split)
        return files[""], lambda place: place == own if own is not None else place not in (_VALIDATION, _TEST)
    for needed in ("train", "test"):
        if needed not in files:
            other = next(iter(files.values()))
            raise ValueError(f"{root} lacks the file {_beside(other, needed).name} beside {other.name}")
    if "validation" in files or split == "test":
        return files[split], lambda place: True
    return files["train"], lambda place: (place == _VALIDATION) is (split == "validation")


def _beside(file: Path, split: str) -> Path:
    named = NAME_OF_SPLIT.fullmatch(file.stem)
    stem = file.stem if named is None else named[1]
    return file.with_name(f"{stem}_{split.upper()}{file.suffix}")


def _classes(files: dict[str, Path]) -> tuple[str, ...]:
    """Return the classes of a data set, those of its training file."""
    return read_table(files.get("train", next(iter(files.values())))).classes


def _targets(table: Table, classes: Sequence[str], file: Path) -> list[int]:
    if table.labels is None:
        raise ValueError(f"{file} does not say the class of a sequence, which training and tests need")
    for number, label in enumerate(table.labels):
        if label not in classes:
            raise ValueError(
                f"{file}#{number} is of the class {label!r}, and the training file knows {', '.join(classes)}"
            )
    place = {name: number for number, name in enumerate(classes)}
    return [place[label] for label in table.labels]


def _places(targets: Iterable[int]) -> list[int]:
    """Return, for each sequence in order, how many of its class were before it, modulo 10."""
    seen: Counter[int] = Counter()
    places = []
    for target in targets:
        places.append(seen[target] % 10)
        seen[target] += 1
    return places
