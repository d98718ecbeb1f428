"""Rows of tables, CSV and Parquet, as text, and whether the first one holds names."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nonlocalnn._errors import needs, one_line
from nonlocalnn.data.number_text import is_number

LONG_SUFFIXES = (".csv", ".parquet")
# Bytes in which the first row of a table ends, and how files of UTF-16 begin.
_LONGEST_ROW, _UTF_16 = 2**20, (b"\xff\xfe", b"\xfe\xff")
# What programs write for a value that is missing.
_MISSING = ("", "?", "na", "n/a", "nan", "null", "none")
_DECIMAL_COMMA = re.compile(r"\s*[-+]?\d*,\d+(e[-+]?\d+)?\s*", re.IGNORECASE)


def is_parquet(path: Path) -> bool:
    """Return whether a file has the ending of Parquet."""
    return path.suffix.lower() == ".parquet"


def of_commas(cells: Sequence[str]) -> str:
    """Return what an error adds where a cell has a decimal comma, and else nothing."""
    if any(map(_DECIMAL_COMMA.fullmatch, cells)):
        return ": write decimal points in place of commas"
    return ""


def check_header(cells: Sequence[str], where: str) -> None:
    """Check that the first row of a table holds names: as one of values it would be lost without a word.

    A row of numbers alone is not looked at: who asks for names says what lacks.

    Raises:
        ValueError: It looks like values, some of which are missing or no numbers, or which spaces divide.
    """
    words = " ".join(cells).split()
    if len(words) > len(cells) and all(map(is_number, words)):
        raise ValueError(
            f"{where}: columns must be divided by commas, semicolons or tabs; got {str(cells)[:60]}: "
            "NumPy saves them so by delimiter=','"
        )
    commas = of_commas(cells)
    numbers = sum(map(is_number, cells))
    if commas or 0 < numbers < len(cells) or all(cell.strip().lower() in _MISSING for cell in cells):
        raise ValueError(
            f"{where}: the first row must hold numbers alone, or the names of the columns; got "
            f"{str(cells)[:60]}{commas or ': fill in what is missing, or name the columns'}"
        )


def first_row(path: Path) -> list[str]:
    """Return the first row of a CSV file that is not empty; none where there is none.

    No more is read, and text in another encoding is known by its letters, so that what is wrong with the file
    is said where it is read, and not of what it is taken for.

    Raises:
        ValueError: A quote is not closed in it.
    """
    try:
        with path.open("rb") as file:
            beginning = file.read(_LONGEST_ROW)
    except OSError:
        return []
    text = beginning.decode("utf-16" if beginning[:2] in _UTF_16 else "utf-8-sig", errors="replace")
    _, first = next(_cells_of(text.splitlines(), path), (0, []))
    return first


def rows_of(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a CSV file that are not empty, with their numbers from 1.

    Raises:
        ValueError: It is no text in UTF-8, or a quote is not closed.
    """
    try:
        # A spreadsheet's own mark before the first name is none of it.
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no CSV file in UTF-8: save it as that") from None
    yield from _cells_of(text.splitlines(), path)


def _cells_of(lines: Sequence[str], path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows among the lines of a CSV file that are not empty, with their numbers from 1."""
    first = next((line for line in lines if line.strip()), "")
    divider = next((each for each in ("\t", ";") if each in first), ",")
    held: list[tuple[int, list[str]]] = []
    for number, cells in _numbered(csv.reader(lines, delimiter=divider, strict=True), path):
        if any(cell.strip() for cell in cells):
            yield from held
            held = []
            yield number, cells
        elif len(cells) > 1:
            # A row of empty cells misses its values, but for those that spreadsheets leave at the end.
            held.append((number, cells))


def _numbered(rows: Iterator[list[str]], path: Path) -> Iterator[tuple[int, list[str]]]:
    number = 0
    try:
        for number, cells in enumerate(rows, 1):
            yield number, cells
    # Without an end a quote takes all lines that follow into one cell.
    except csv.Error as error:
        raise ValueError(
            f'{path}, line {number + 1} is not CSV: {error}; is a quote (") not closed there?'
        ) from None


def parquet_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
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
        try:
            yield number, ["" if cell is None else _text(cell) for cell in cells]
        except UnicodeDecodeError:
            raise ValueError(
                f"{path}, row {number} has bytes that are no text in UTF-8: write labels and ids as text"
            ) from None


def _text(cell: Any) -> str:
    # As other programs than pandas write text.
    return cell.decode() if isinstance(cell, bytes) else str(cell)
