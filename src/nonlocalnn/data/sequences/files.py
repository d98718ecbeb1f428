"""Files of sequences: those that hold one, and those that hold many with their classes.

One sequence, (C, L): ``.npy``, ``.npz`` with one array, and ``.csv`` and ``.parquet``, a row a step and a
column a channel; where the first row names the columns, those of time and labels are no channels. Many:
``.ts``; ``.npz`` with the arrays ``X`` (N, C, L) and ``y`` (N,), and where they differ ``lengths`` (N,); and
tables in long form, which have a column ``id``. A sequence of such a file is ``FILE#NUMBER``, from 0.
"""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nonlocalnn._errors import one_line
from nonlocalnn.data.folder_files import find_files, is_ignored
from nonlocalnn.data.number_text import number_in
from nonlocalnn.data.sequences.long_form import (
    Labelled,
    checked_sequence,
    class_of,
    is_long,
    names_columns,
    read_long,
)
from nonlocalnn.data.sequences.rows import LONG_SUFFIXES, of_commas, rows_of
from nonlocalnn.data.sequences.ts_file import read_ts

# Of files of one sequence, and of files of many.
ONE_SUFFIXES = (".npy", ".npz", *LONG_SUFFIXES)
_MANY_SUFFIXES = (".ts", ".npz", *LONG_SUFFIXES)
SEQUENCE_SUFFIXES = (".ts", *ONE_SUFFIXES)
_PART = re.compile(r"(.+)#(\d+)")
_WHOLE = re.compile(r"\s*[-+]?\d+\s*")


@dataclass(frozen=True, eq=False)
class Table:
    """The sequences of one file.

    Args:
        sequences: (C, L) each, float32.
        labels: The name of the class of each; None where the file says none.
        classes: Names of the classes, in their order.
        channels: Names of the channels, in small letters; empty where the file has none.
        fault: Why the labels are no class a sequence; empty where they are.
    """

    sequences: list[Tensor]
    labels: list[str] | None
    classes: tuple[str, ...]
    channels: tuple[str, ...] = ()
    fault: str = ""


def read_table(path: Path) -> Table:
    """Return the sequences of a file of many; the last two files are kept for the next call.

    Raises:
        OSError: There is no such file.
        ValueError: It is no such file, or damaged, or its labels are no class a sequence.
    """
    table = _opened(path)
    if table.fault:
        raise ValueError(table.fault)
    return table


def _opened(path: Path) -> Table:
    """Return the sequences of a file, whatever its labels are: a trained network does not ask for them."""
    about = path.stat()
    return _table(path, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=2)
def _table(path: Path, _changed: int, _size: int) -> Table:
    if path.suffix.lower() == ".ts":
        sequences, labels, classes = read_ts(path)
        for number, sequence in enumerate(sequences):
            checked_sequence(sequence, f"{path}#{number}")
        return Table(sequences, labels, classes)
    if path.suffix.lower() in LONG_SUFFIXES:
        return _table_of_long(path)
    return table_of_arrays(read_arrays(path), path)


def _table_of_long(path: Path) -> Table:
    """Return the sequences of a table in long form, in the order of their first rows."""
    found = read_long(path)
    sequences, channels = [each.sequence for each in found], found[0].channels
    try:
        labels = [class_of(each.labels, each.name) for each in found]
    except ValueError as error:
        return Table(sequences, None, (), channels, fault=str(error))
    named = [each for each in labels if each is not None]
    return Table(sequences, named or None, tuple(in_order(set(named))), channels)


def in_order(names: set[str]) -> list[str]:
    """Return the names of classes sorted; numbers in their own order, 10 after 9.

    Example:
        >>> in_order({"10", "9"}), in_order({"b", "a"})
        (['9', '10'], ['a', 'b'])
    """
    numbers = all(name.removeprefix("-").isdecimal() for name in names)
    return sorted(names, key=(lambda name: (int(name), name)) if numbers else (lambda name: (0, name)))


def holds_many(path: Path) -> bool:
    """Return whether a file holds many sequences: by its ending, or by what its header says."""
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return "X" in _names(path)
    return suffix == ".ts" or is_long(path)


def read_sequence(path: Path, *, channels: Sequence[str] = ()) -> Tensor:
    """Return one sequence, (C, L), float32: a file of one, or ``FILE#NUMBER`` of a file of many.

    Args:
        path: The file.
        channels: Names of the channels in the order that is wanted; a file without names keeps its own.

    Raises:
        OSError: There is no such file.
        ValueError: As for :func:`read_named`, or its channels have other names.
    """
    return read_named(path).in_order(channels).sequence


def read_named(path: Path) -> Labelled:
    """Return one sequence with the names of its channels, where its file has some; see :func:`read_sequence`.

    Raises:
        OSError: There is no such file.
        ValueError: It holds no sequence, several, or numbers that are not finite; or it is damaged. A file is
            never unpickled.
    """
    file, number = place_of(path)
    suffix = file.suffix.lower()
    if suffix not in SEQUENCE_SUFFIXES:
        raise ValueError(f"a sequence is read from {', '.join(SEQUENCE_SUFFIXES)}; got {path}")
    if not file.exists():
        raise FileNotFoundError(f"there is no file {file}")
    if number is None and suffix == ".npy":
        return Labelled(str(file), checked_sequence(_array(file), str(file)), None)
    if number is None and suffix == ".csv" and not is_long(file):
        if names_columns(file):
            return read_long(file)[0]
        return Labelled(str(file), checked_sequence(_rows(file), str(file)), None)
    if number is None and suffix == ".npz":
        arrays = read_arrays(file)
        if len(arrays) == 1 and "X" not in arrays:
            array = real_numbers(next(iter(arrays.values())), str(file))
            return Labelled(str(file), checked_sequence(array, str(file)), None)
    table = _opened(file)
    if number is None and len(table.sequences) > 1:
        raise ValueError(
            f"{path} holds {len(table.sequences)} sequences: name one, as {path}#0 to "
            f"{path}#{len(table.sequences) - 1}"
        )
    if number is not None and number >= len(table.sequences):
        raise ValueError(f"{file} holds sequences 0 to {len(table.sequences) - 1}; got {path}")
    return Labelled(str(path), table.sequences[number or 0], None, table.channels)


def place_of(path: Path) -> tuple[Path, int | None]:
    """Return the file that a sequence is in, and its number there, where one is named.

    Example:
        >>> place_of(Path("data/Vowels_TEST.ts#12"))[1], place_of(Path("a#1.csv"))[1]
        (12, None)
    """
    found = _PART.fullmatch(path.name)
    if found is None or Path(found[1]).suffix.lower() not in _MANY_SUFFIXES:
        return path, None
    return path.with_name(found[1]), int(found[2])


def find_sequences(inputs: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return the sequences in the files that are named, and in the folders that are named, at any depth.

    Each of a file of many is ``FILE#NUMBER``. What is not there or cannot be read, and a folder without a
    sequence, are taken as they are named: reading them says what is wrong. All else in a folder is passed
    over with one warning.
    """
    return [part for file in find_sequence_files(inputs) for part in parts_of(file)]


def find_sequence_files(inputs: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return the files of :func:`find_sequences`, one or many sequences in each."""
    return find_files(inputs, _is_any, kind="sequences")


def is_one(entry: Path) -> bool:
    """Return whether a file has the ending of one sequence."""
    return _is_any(entry) and entry.suffix.lower() in ONE_SUFFIXES and entry.is_file()


def _is_any(entry: Path) -> bool:
    return entry.suffix.lower() in SEQUENCE_SUFFIXES and not is_ignored(entry) and not entry.is_dir()


def parts_of(path: Path) -> list[Path]:
    """Return each sequence of a file of many as ``FILE#NUMBER``, and any other file as it is."""
    if place_of(path)[1] is not None:
        return [path]
    try:
        if not holds_many(path):
            return [path]
        number = len(_opened(path).sequences)
    except (OSError, ValueError):
        return [path]
    return [path.with_name(f"{path.name}#{each}") for each in range(number)]


def _rows(path: Path) -> Tensor:
    """Return the columns of a CSV file without names as channels."""
    rows: list[list[float]] = []
    counts = ""
    for number, cells in rows_of(path):
        try:
            rows.append([number_in(cell) for cell in cells])
        except ValueError:
            raise ValueError(
                f"{path}, line {number}: each cell must be a number; got {','.join(cells)[:60]!r}"
                f"{of_commas(cells)}"
            ) from None
        if len(rows[-1]) != len(rows[0]):
            raise ValueError(
                f"{path}, line {number} must have {len(rows[0])} columns, as the lines before it; got "
                f"{len(rows[-1])}"
            )
        # Of values one is whole again, sooner or later; what pandas writes below its numbers never is.
        if len(rows) == 1 and [cell.strip() for cell in cells] == list(map(str, range(len(cells)))):
            counts = ",".join(cells)
        elif counts and any(map(_WHOLE.fullmatch, cells)):
            counts = ""
    if not rows:
        raise ValueError(f"{path} holds no row of numbers")
    if counts and len(rows) > 1:
        raise ValueError(
            f"{path} begins with the row {counts[:40]}, as pandas numbers columns: write it with "
            "header=False; or where these are values, name the columns in a row before them"
        )
    return torch.tensor(rows, dtype=torch.float64).T


def _array(path: Path) -> Any:
    with _reading_arrays(path):
        # Mapped and not read: a header that claims more than the file holds is refused at once.
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    return real_numbers(found, str(path)).copy()


def _names(path: Path) -> list[str]:
    with _reading_arrays(path), zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def read_arrays(path: Path) -> dict[str, Any]:
    """Return the arrays of an .npz file by their names; nothing is unpickled."""
    # Opened here: NumPy leaves a damaged archive open.
    with _reading_arrays(path), path.open("rb") as file, np.load(file, allow_pickle=False) as found:
        return {name: found[name] for name in found.files}


@contextmanager
def _reading_arrays(path: Path) -> Iterator[None]:
    """Make one line that names the file of what NumPy says of a damaged one, or one of another kind."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, MemoryError) as error:
        raise ValueError(f"{path} cannot be read as arrays: {one_line(error)}") from None
    # What is no archive of arrays at all comes out of NumPy as something else, without what is asked of it.
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        # NumPy advises to unpickle them, which could run any code.
        why = "it has Python's objects: save names by astype(str), and numbers by astype(float)"
        reason = why if "Object arrays" in str(error) else one_line(error)
        raise ValueError(f"{path} holds no arrays that can be read: {reason}") from None


def real_numbers(array: Any, name: str) -> Any:
    """Return an array of real numbers as PyTorch takes them; the error for any other says ``name``."""
    if array.dtype.kind not in "iufb":
        raise ValueError(f"{name} must hold real numbers; got {array.dtype}")
    # In the machine's own byte order, and no longer than float64.
    return array.astype("f8" if array.itemsize > 8 else array.dtype.newbyteorder("="), copy=False)


def label_array(labels: Any, path: Path) -> Any:
    """Return an array of whole numbers or names, names as text; the error for any other says ``path``."""
    if labels.dtype.kind == "S":
        try:
            labels = np.char.decode(labels, "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"y of {path} has names in another encoding than UTF-8: {error}") from None
    if labels.dtype.kind not in "iuUb":
        raise ValueError(f"y of {path} must hold whole numbers or names; got {labels.dtype}")
    return labels


def table_of_arrays(arrays: dict[str, Any], path: Path) -> Table:
    """Return the sequences of X (N, C, L), with the classes y and, where they differ, the lengths."""
    if "X" not in arrays:
        raise ValueError(
            f"{path} must hold the sequences as X (N, channels, steps) and their classes as y (N,); it has "
            f"{', '.join(arrays) or 'nothing'}"
        )
    stacked = real_numbers(arrays["X"], str(path))
    if stacked.ndim != 3 or 0 in stacked.shape:
        raise ValueError(f"X of {path} must be (N, channels, steps), all at least 1; got {stacked.shape}")
    of_steps = "y" in arrays and arrays["y"].ndim == 2
    lengths = arrays.get("lengths", np.full(len(stacked), stacked.shape[2]))
    for name, found in (("y", arrays.get("y")), ("lengths", lengths)):
        if name == "y" and of_steps:
            continue
        if found is not None and found.shape != (len(stacked),):
            raise ValueError(f"{name} of {path} must be ({len(stacked)},), one a sequence; got {found.shape}")
    if lengths.dtype.kind not in "iu" or lengths.min() < 1 or lengths.max() > stacked.shape[2]:
        raise ValueError(f"lengths of {path} must be whole numbers from 1 to {stacked.shape[2]}")
    sequences = [
        checked_sequence(sequence[:, :length], f"{path}#{number}")
        for number, (sequence, length) in enumerate(zip(stacked, lengths.tolist(), strict=True))
    ]
    if of_steps:
        fault = (
            f"y of {path} has a class for each step: train by --data sequence-labels, or give one a sequence"
        )
        return Table(sequences, None, (), fault=fault)
    if "y" not in arrays:
        return Table(sequences, None, ())
    labels = label_array(arrays["y"], path)
    values = [each.strip() if isinstance(each, str) else each for each in labels.tolist()]
    if "" in values:
        raise ValueError(f"{path}#{values.index('')} has no class: y is empty there")
    # Numbers in their own order: 10 comes after 9.
    return Table(
        sequences, [str(value) for value in values], tuple(str(each) for each in sorted(set(values)))
    )
