"""Tables in long form, a row a step: CSV, and Parquet.

Columns have names: ``label``, perhaps ``id`` where there are several sequences, perhaps ``time`` or ``step``,
which must rise, and all others are channels. Rows of one sequence need not lie together.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nonlocalnn.data.number_text import is_number, number_in
from nonlocalnn.data.sequences.rows import (
    LONG_SUFFIXES,
    check_header,
    first_row,
    is_parquet,
    of_commas,
    parquet_rows,
    rows_of,
)

# So many steps do not rise evenly by chance.
_LEAST_OF_A_CLOCK = 8
# What pandas calls the numbers of rows in CSV, in CSV that was read and written again, and in Parquet.
_INDEX = re.compile(r"|unnamed: \d+|__index_level_\d+__")
# Numbers with a point, or below 1; whole numbers are classes.
_FRACTION = re.compile(r"[-+]?((\d+\.\d*|\.\d+)(e[-+]?\d+)?|\d+e-\d+)", re.IGNORECASE)
# Columns that are no channels.
ID, LABEL, _TIMES = "id", "label", ("time", "step")


@dataclass(frozen=True, eq=False)
class Labelled:
    """A sequence, with what its file says of its steps and channels.

    Args:
        name: What it is called: FILE#ID, or FILE where the file has one only.
        sequence: (C, L), float32.
        labels: The class of each step, "" for one without a class; None where the file says none.
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
        check_names(self.channels, channels, self.name)
        order = [self.channels.index(name) for name in channels]
        return replace(self, sequence=self.sequence[order], channels=tuple(channels))


@dataclass
class _Growing:
    """A sequence of a CSV file while its rows are read."""

    values: list[list[float]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    time: float | None = None


def is_long(path: Path) -> bool:
    """Return whether a file is a table of several sequences, by its columns: it has an ``id``.

    A table that is no text is none: what is wrong with it is said where it is read.

    Raises:
        ValueError: A quote is not closed in its first row.
    """
    if path.suffix.lower() not in LONG_SUFFIXES or not path.is_file():
        return False
    if is_parquet(path):
        return True
    return ID in [cell.strip().lower() for cell in first_row(path)]


def names_columns(path: Path) -> bool:
    """Return whether a file is a table whose first row holds names, as that of Parquet always does.

    Raises:
        ValueError: A quote is not closed in its first row.
    """
    if path.suffix.lower() not in LONG_SUFFIXES or not path.is_file():
        return False
    if is_parquet(path):
        return True
    return not all(map(is_number, first_row(path)))


def check_names(own: Sequence[str], wanted: Sequence[str], name: str) -> None:
    """Check that channels have the names that are wanted, in any order; the error says ``name``.

    Raises:
        ValueError: They have others.
    """
    if set(own) != set(wanted):
        raise ValueError(f"{name} must have the channels {', '.join(wanted)}; got {', '.join(own)}")


def channel_names(found: Iterable[Labelled]) -> tuple[str, ...]:
    """Return the names of the channels by the first sequence that has some; empty where none has."""
    return next((each.channels for each in found if each.channels), ())


def read_long(path: Path) -> tuple[Labelled, ...]:
    """Return the sequences of a table in long form.

    Raises:
        OSError: There is no such file.
        ValueError: It is no such table, or damaged; the message names the place.
        ImportError: pyarrow is missing, which reads Parquet.
    """
    rows, place = (parquet_rows(path), "row") if is_parquet(path) else (rows_of(path), "line")
    line, first = next(rows, (0, []))
    names = [cell.strip().lower() for cell in first]
    if not names:
        raise ValueError(f"{path} is empty")
    # Names of ours tell a header, whatever its channels are called: pandas numbers them.
    if not is_parquet(path) and not {ID, LABEL, *_TIMES} & set(names):
        check_header(first, f"{path}, line {line}")
    unnamed = next(filter(_INDEX.fullmatch, names), None)
    if unnamed is not None:
        raise ValueError(
            f"{path} must name each column; column {names.index(unnamed) + 1} is {unnamed!r}, as pandas "
            "writes the numbers of rows: write it with index=False, or name the column"
        )
    if len(set(names)) != len(names):
        raise ValueError(f"{path} must name each column once in its first row; got {', '.join(names)[:80]}")
    others = [number for number, name in enumerate(names) if name not in (ID, LABEL, *_TIMES)]
    if not others:
        raise ValueError(f"{path} has no column of a channel beside {', '.join(names)[:80]}")
    columns = {name: number for number, name in enumerate(names)}
    time = next((columns[name] for name in _TIMES if name in columns), None)
    found: dict[str, _Growing] = {}
    for number, cells in rows:
        where = f"{path}, {place} {number}"
        if len(cells) != len(names):
            raise ValueError(f"{where} must have {len(names)} columns, as the first row; got {len(cells)}")
        name = cells[columns[ID]].strip() if ID in columns else ""
        if ID in columns and not name:
            raise ValueError(f"{where} must have an id, by which rows are one sequence; it has none")
        own = found.setdefault(name, _Growing())
        own.values.append([_number(cells[each], where, names[each]) for each in others])
        own.labels.append(_label(cells[columns[LABEL]]) if LABEL in columns else "")
        if time is not None:
            now = _number(cells[time], where, names[time], ": write seconds, or leave the column out")
            # Rows of other orders are no sequence, and nobody would be told.
            if own.time is not None and now <= own.time:
                raise ValueError(
                    f"{where}: {names[time]} must rise within a sequence; got {now:g} after {own.time:g}"
                )
            own.time = now
    if not found:
        raise ValueError(f"{path} holds no row of numbers")
    channels = tuple(names[each] for each in others)
    # Of files of one sequence there are many, and one line is enough.
    where = str(path) if ID in columns else f"files in {path.parent}"
    _warn_of_times(where, channels, [each.values for each in found.values()])
    called = {name: f"{path}#{name}" if ID in columns else str(path) for name in found}
    return tuple(
        Labelled(
            called[name],
            checked_sequence(torch.tensor(each.values, dtype=torch.float64).T, called[name]),
            each.labels if LABEL in columns else None,
            channels,
        )
        for name, each in found.items()
    )


def _warn_of_times(
    where: str, channels: Sequence[str], sequences: Sequence[Sequence[Sequence[float]]]
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
                f"column {name!r} of {where} rises evenly, as time does, and is taken as a channel: call it "
                "time, or leave it out",
                stacklevel=2,
            )


def _number(cell: str, where: str, column: str, hint: str = "") -> float:
    try:
        return number_in(cell)
    except ValueError:
        raise ValueError(
            f"{where}: {column} must be a number; got {cell.strip()[:40]!r}{of_commas([cell]) or hint}"
        ) from None


def _label(cell: str) -> str:
    """Return the class that a cell names: 1.0 is 1, as programs write it beside rows without a class."""
    label = cell.strip()
    if label.lower() == "nan":
        return ""
    return str(int(float(label))) if _FRACTION.fullmatch(label) and float(label).is_integer() else label


def check_classes(labels: Iterable[str], name: str) -> None:
    """Check that labels are classes, and no numbers that were measured; the error says ``name``.

    Raises:
        ValueError: One is a fraction.
    """
    wrong = next(filter(_FRACTION.fullmatch, labels), None)
    if wrong is not None:
        raise ValueError(
            f"{name} has the label {wrong!r}: only classes are learnt, whole numbers or names, and no "
            "targets that are numbers"
        )


def class_of(labels: list[str] | None, name: str) -> str | None:
    """Return the one class of a sequence by the labels of its steps; None where there are none.

    Raises:
        ValueError: Steps have different classes, one has none, or they are fractions.
    """
    if labels is None:
        return None
    check_classes(labels, name)
    found = sorted(set(labels))
    if len(found) > 1 or not found[0]:
        listed = ", ".join(map(repr, found[:4]))
        raise ValueError(
            f"{name} must have one class, the same in each of its rows; got {listed}: train by --data "
            "sequence-labels where steps have classes of their own"
        )
    return found[0]


def checked_sequence(sequence: Any, name: str) -> Tensor:
    """Return a sequence as float32 (C, L), where it is one of finite numbers."""
    if sequence.ndim == 1:
        sequence = sequence[None]
    if sequence.ndim != 2 or 0 in sequence.shape:
        raise ValueError(
            f"{name} must hold one sequence, (channels, steps); got an array of shape {tuple(sequence.shape)}"
        )
    numbers = torch.as_tensor(sequence).to(torch.float32)
    wrong = (~numbers.isfinite()).nonzero()
    if len(wrong):
        channel, step = wrong[0].tolist()
        raise ValueError(
            f"{name} has values that are no finite numbers, {len(wrong)} of {numbers.numel()}, the first in "
            f"channel {channel} at step {step}: fill them first"
        )
    return numbers
