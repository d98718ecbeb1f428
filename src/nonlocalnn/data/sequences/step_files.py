"""Files of sequences that say the class of each step: ``.npz``, and CSV in long form.

``.npz`` holds ``X`` (N, channels, steps), ``y`` (N, steps), and where they differ ``lengths`` (N,). CSV holds
a row a step and names in its first row: ``label``, perhaps ``id`` where there are several sequences, perhaps
``time`` or ``step``, and all others are channels. A step without a class has -1 in ``y``, or no label.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nonlocalnn.data.folder_files import is_ignored
from nonlocalnn.data.sequences.files import checked_sequence, read_arrays, rows_of, table_of_arrays

STEP_SUFFIXES = (".npz", ".csv")
# So many steps do not rise evenly by chance.
_LEAST_OF_A_CLOCK = 8
# Columns that are no channels.
_ID, _LABEL, _TIMES = "id", "label", ("time", "step")


@dataclass(frozen=True, eq=False)
class Labelled:
    """A sequence and the class of each of its steps.

    Args:
        name: What it is called: FILE#ID, or FILE where the file has one only.
        sequence: (C, L), float32.
        labels: A name a step, "" for one without a class; None where the file says none.
        channels: Names of the channels, in small letters; empty where the file has none.
    """

    name: str
    sequence: Tensor
    labels: list[str] | None
    channels: tuple[str, ...] = ()

    def in_order(self, channels: Sequence[str]) -> Labelled:
        """Return it with its channels in the order of these names, where both have names.

        Raises:
            ValueError: It has channels of other names.
        """
        if not channels or not self.channels or self.channels == tuple(channels):
            return self
        if set(self.channels) != set(channels):
            raise ValueError(
                f"{self.name} must have the channels {', '.join(channels)}; got {', '.join(self.channels)}"
            )
        order = [self.channels.index(name) for name in channels]
        return replace(self, sequence=self.sequence[order], channels=tuple(channels))


@dataclass
class _Growing:
    """A sequence of a CSV file while its rows are read."""

    values: list[list[float]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    time: float | None = None


def is_step_file(path: Path) -> bool:
    """Return whether a file says the class of each step, or is CSV in long form: by its header alone."""
    if is_ignored(path) or not path.is_file():
        return False
    try:
        if path.suffix.lower() == ".csv":
            _, first = next(iter(rows_of(path)), (0, []))
            return bool({_ID, _LABEL} & {cell.strip().lower() for cell in first})
        return path.suffix.lower() == ".npz" and read_arrays(path).get("y", np.zeros(1)).ndim == 2
    except ValueError:
        return False


def names_columns(path: Path) -> bool:
    """Return whether a file is CSV whose first row holds names."""
    if path.suffix.lower() != ".csv" or not path.is_file():
        return False
    try:
        _, first = next(iter(rows_of(path)), (0, []))
    except ValueError:
        return False
    return not all(map(_is_number, first))


def channel_names(found: Iterable[Labelled]) -> tuple[str, ...]:
    """Return the names of the channels by the first sequence that has some; empty where none has."""
    return next((each.channels for each in found if each.channels), ())


def read_steps(path: Path) -> tuple[Labelled, ...]:
    """Return the sequences of a file with the classes of their steps; the last files are kept.

    Raises:
        OSError: There is no such file.
        ValueError: It is no such file, or damaged; the message names the place.
    """
    about = path.stat()
    return _read(path, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=64)
def _read(path: Path, _changed: int, _size: int) -> tuple[Labelled, ...]:
    return _of_csv(path) if path.suffix.lower() == ".csv" else _of_npz(path)


def _of_npz(path: Path) -> tuple[Labelled, ...]:
    arrays = read_arrays(path)
    labels = arrays.pop("y", None)
    sequences = table_of_arrays(arrays, path).sequences
    if labels is None:
        return tuple(Labelled(f"{path}#{each}", one, None) for each, one in enumerate(sequences))
    wanted = (len(sequences), arrays["X"].shape[2])
    if labels.shape != wanted:
        raise ValueError(
            f"y of {path} must have a class for each step, {wanted} as X has them; got shape {labels.shape}"
        )
    if labels.dtype.kind not in "iuUb":
        raise ValueError(f"y of {path} must hold whole numbers or names; got {labels.dtype}")
    return tuple(
        Labelled(
            f"{path}#{number}",
            sequence,
            ["" if value == -1 else str(value).strip() for value in own[: sequence.shape[1]].tolist()],
        )
        for number, (sequence, own) in enumerate(zip(sequences, labels, strict=True))
    )


def _of_csv(path: Path) -> tuple[Labelled, ...]:
    rows = rows_of(path)
    _, first = next(rows, (0, []))
    names = [cell.strip().lower() for cell in first]
    if len(set(names)) != len(names):
        raise ValueError(f"{path} must name each column once in its first row; got {', '.join(names)[:80]}")
    others = [place for place, name in enumerate(names) if name not in (_ID, _LABEL, *_TIMES)]
    if not names:
        raise ValueError(f"{path} is empty")
    if not others:
        raise ValueError(f"{path} has no column of a channel beside {', '.join(names)[:80]}")
    place_of = {name: place for place, name in enumerate(names)}
    time = next((place_of[name] for name in _TIMES if name in place_of), None)
    found: dict[str, _Growing] = {}
    for number, cells in rows:
        where = f"{path}, line {number}"
        if len(cells) != len(names):
            raise ValueError(f"{where} must have {len(names)} columns, as the first row; got {len(cells)}")
        own = found.setdefault(cells[place_of[_ID]].strip() if _ID in place_of else "", _Growing())
        own.values.append([_number(cells[place], where, names[place]) for place in others])
        own.labels.append(cells[place_of[_LABEL]].strip() if _LABEL in place_of else "")
        if time is not None:
            now = _number(cells[time], where, names[time])
            # Rows of other orders are no sequence, and nobody would be told.
            if own.time is not None and now <= own.time:
                raise ValueError(
                    f"{where}: {names[time]} must rise within a sequence; got {now:g} after {own.time:g}"
                )
            own.time = now
    if not found:
        raise ValueError(f"{path} holds no row of numbers")
    channels = tuple(names[place] for place in others)
    _warn_of_times(path, channels, [each.values for each in found.values()])
    return tuple(
        Labelled(
            f"{path}#{name}" if _ID in place_of else str(path),
            checked_sequence(torch.tensor(each.values, dtype=torch.float64).T, f"{path}#{name}"),
            each.labels if _LABEL in place_of else None,
            channels,
        )
        for name, each in found.items()
    )


def _warn_of_times(
    path: Path, channels: Sequence[str], sequences: Sequence[Sequence[Sequence[float]]]
) -> None:
    """Warn of channels that rise by the same amount at each step: a clock, or a count of rows."""
    if min(map(len, sequences)) < _LEAST_OF_A_CLOCK:
        return
    for place, name in enumerate(channels):
        values = [[row[place] for row in rows] for rows in sequences]
        step = values[0][1] - values[0][0]
        even = (
            math.isclose(after - before, step, rel_tol=1e-3)
            for own in values
            for before, after in pairwise(own)
        )
        if step > 0 and all(even):
            warnings.warn(
                f"column {name!r} of {path} rises evenly, as time does, and is taken as a channel: call it "
                "time, or leave it out",
                stacklevel=2,
            )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _number(cell: str, where: str, column: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise ValueError(f"{where}: {column} must be a number; got {cell.strip()[:40]!r}") from None
