"""Files of sequences that say the class of each step: ``.npz``, and tables in long form.

``.npz`` holds ``X`` (N, channels, steps), ``y`` (N, steps), and where they differ ``lengths`` (N,). Of tables
see :mod:`nonlocalnn.data.sequences.long_form`. A step without a class has -1 in ``y``, or no label.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from nonlocalnn.data.folder_files import is_ignored
from nonlocalnn.data.sequences.files import label_array, read_arrays, table_of_arrays
from nonlocalnn.data.sequences.long_form import ID, LABEL, Labelled, is_long, read_long
from nonlocalnn.data.sequences.rows import LONG_SUFFIXES, first_row, is_parquet

STEP_SUFFIXES = (".npz", *LONG_SUFFIXES)


def is_step_file(path: Path) -> bool:
    """Return whether a file says the class of each step, or is a table in long form: by its header alone."""
    if is_ignored(path) or not path.is_file():
        return False
    if is_parquet(path):
        return True
    try:
        if path.suffix.lower() == ".csv":
            return bool({ID, LABEL} & {cell.strip().lower() for cell in first_row(path)})
        return path.suffix.lower() == ".npz" and read_arrays(path).get("y", np.zeros(1)).ndim == 2
    except ValueError:
        return False


def has_class_of_sequences(path: Path) -> bool:
    """Return whether a table has several sequences, in each of which all rows have the same class.

    One that cannot be read has not: what is wrong with it is said where it is read.
    """
    if not is_long(path):
        return False
    try:
        found = read_steps(path)
    except (OSError, ValueError, ImportError):
        return False
    return len(found) > 1 and all(
        each.labels is not None and len(set(each.labels)) == 1 and each.labels[0] for each in found
    )


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
    return read_long(path) if path.suffix.lower() in LONG_SUFFIXES else _of_npz(path)


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
    labels = label_array(labels, path)
    return tuple(
        Labelled(
            f"{path}#{number}",
            sequence,
            ["" if value == -1 else str(value).strip() for value in own[: sequence.shape[1]].tolist()],
        )
        for number, (sequence, own) in enumerate(zip(sequences, labels, strict=True))
    )
