"""Tables in long form, a row a step: CSV, and Parquet.

Columns have names: ``label``, perhaps ``id`` where there are several sequences, perhaps ``time`` or ``step``,
which must rise, and all others are channels. Rows of one sequence need not lie together.
"""

from __future__ import annotations

import csv
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nonlocalnn._errors import needs, one_line

LONG_SUFFIXES = (".csv", ".parquet")
# So many steps do not rise evenly by chance.
_LEAST_OF_A_CLOCK = 8
# Bytes in which the first row of a table ends, and how files of UTF-16 begin.
_LONGEST_ROW, _UTF_16 = 2**20, (b"\xff\xfe", b"\xfe\xff")
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


def is_parquet(path: Path) -> bool:
    """Return whether a file has the ending of Parquet."""
    return path.suffix.lower() == ".parquet"


def is_long(path: Path) -> bool:
    """Return whether a file is a table of several sequences, by its columns: it has an ``id``.

    A table that cannot be read is none: what is wrong with it is said where it is read.
    """
    if path.suffix.lower() not in LONG_SUFFIXES or not path.is_file():
        return False
    if is_parquet(path):
        return True
    return ID in [cell.strip().lower() for cell in first_row(path)]


def names_columns(path: Path) -> bool:
    """Return whether a file is a table whose first row holds names, as that of Parquet always does."""
    if path.suffix.lower() not in LONG_SUFFIXES or not path.is_file():
        return False
    if is_parquet(path):
        return True
    return not all(map(_is_number, first_row(path)))


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
    rows, place = (_parquet_rows(path), "row") if is_parquet(path) else (rows_of(path), "line")
    _, first = next(rows, (0, []))
    names = [cell.strip().lower() for cell in first]
    if len(set(names)) != len(names):
        raise ValueError(f"{path} must name each column once in its first row; got {', '.join(names)[:80]}")
    if not names:
        raise ValueError(f"{path} is empty")
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
        own = found.setdefault(cells[columns[ID]].strip() if ID in columns else "", _Growing())
        own.values.append([_number(cells[each], where, names[each]) for each in others])
        own.labels.append(cells[columns[LABEL]].strip() if LABEL in columns else "")
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
    channels = tuple(names[each] for each in others)
    # Of files of one sequence there are many, and one line is enough.
    where = str(path) if ID in columns else f"files in {path.parent}"
    _warn_of_times(where, channels, [each.values for each in found.values()])
    return tuple(
        Labelled(
            f"{path}#{name}" if ID in columns else str(path),
            checked_sequence(torch.tensor(each.values, dtype=torch.float64).T, f"{path}#{name}"),
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


def class_of(labels: list[str] | None, name: str) -> str | None:
    """Return the one class of a sequence by the labels of its steps; None where there are none.

    Raises:
        ValueError: Steps have different classes, or one has none.
    """
    if labels is None:
        return None
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


def first_row(path: Path) -> list[str]:
    """Return the first row of a CSV file that is not empty; none where there is none.

    No more is read, and text in another encoding is known by its letters, so that what is wrong with the file
    is said where it is read, and not of what it is taken for.
    """
    try:
        with path.open("rb") as file:
            beginning = file.read(_LONGEST_ROW)
    except OSError:
        return []
    text = beginning.decode("utf-16" if beginning[:2] in _UTF_16 else "utf-8-sig", errors="replace")
    _, first = next(_cells_of(text.splitlines()), (0, []))
    return first


def rows_of(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a CSV file that are not empty, with their numbers from 1.

    Raises:
        ValueError: It is no text in UTF-8.
    """
    try:
        # A spreadsheet's own mark before the first name is none of it.
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no CSV file in UTF-8: save it as that") from None
    yield from _cells_of(text.splitlines())


def _cells_of(lines: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows among the lines of a CSV file that are not empty, with their numbers from 1."""
    first = lines[0] if lines else ""
    divider = next((each for each in ("\t", ";") if each in first), ",")
    for number, cells in enumerate(csv.reader(lines, delimiter=divider), 1):
        if any(cell.strip() for cell in cells):
            yield number, cells


def _parquet_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the names of the columns, and then the rows, as :func:`rows_of` does; rows count from 0."""
    with needs("pyarrow", "parquet", "reading Parquet"):
        import pyarrow.parquet
    try:
        table: Any = pyarrow.parquet.read_table(path)
        columns = [column.to_pylist() for column in table.columns]
    except FileNotFoundError:
        raise
    # On damaged bytes pyarrow raises errors of its own, and others.
    except Exception as error:
        raise ValueError(f"{path} cannot be read as Parquet: {one_line(error)}") from None
    yield -1, list(table.column_names)
    for number, cells in enumerate(zip(*columns, strict=True)):
        yield number, ["" if cell is None else str(cell) for cell in cells]
